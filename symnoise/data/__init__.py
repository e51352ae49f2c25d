"""Text: rows of any source as conversations, and conversations as token ids and labels."""

from symnoise.data.chitchat import chitchat_file
from symnoise.data.encoding import collate, encode, encode_row, usable
from symnoise.data.load import Data, Example, load_data

__all__ = ["Data", "Example", "chitchat_file", "collate", "encode", "encode_row", "load_data", "usable"]
