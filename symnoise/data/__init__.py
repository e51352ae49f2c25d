"""Text data: rows of any source as conversations, and conversations as token ids and labels."""

from symnoise.data.chitchat import CONVERSATIONS, chitchat_file
from symnoise.data.encoding import collate, encode, encode_row, fitting, prompt_format, usable
from symnoise.data.example import Example, LeftOut, RowError
from symnoise.data.files import checked_rows
from symnoise.data.formats import FORMS
from symnoise.data.load import Data, Source, load_data
from symnoise.data.templates import set_chat_template

__all__ = [
    "CONVERSATIONS",
    "FORMS",
    "Data",
    "Example",
    "LeftOut",
    "RowError",
    "Source",
    "checked_rows",
    "chitchat_file",
    "collate",
    "encode",
    "encode_row",
    "fitting",
    "load_data",
    "prompt_format",
    "set_chat_template",
    "usable",
]
