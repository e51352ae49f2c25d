"""`load_data`: conversations from a hub id, a file, or the bundled default, in one form whatever they came in."""

import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from symnoise.core import InputError, sha256
from symnoise.data.chitchat import CHITCHAT, chitchat_file, chitchat_rows
from symnoise.data.sources import file_rows, hub_rows

_ROLES = {
    "system": "system",
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bing", "bard"), "assistant"),
}
# The key by which a row's form is told; the first that is there counts.
_FORMS = {"messages": "messages", "conversations": "ShareGPT", "instruction": "Alpaca"}
_KNOWN = "Alpaca (instruction, output, perhaps input), ShareGPT (conversations) and messages"


@dataclass(frozen=True)
class Example:
    """One conversation that ends with a reply.

    messages: (role, text) pairs; roles are "system", "user" and "assistant", and the last is "assistant".
    input:    Alpaca's second field, which belongs to the user's message; empty in the other forms.
    row:      where it stands in its source, counted from 1 (in JSON lines: the line), for messages to people.
    """

    messages: tuple[tuple[str, str], ...]
    input: str = ""
    row: int = 0


@dataclass(frozen=True)
class Data:
    """The examples of one source, and which source it was.

    form:     "Alpaca", "ShareGPT" or "messages", as the first row tells.
    sha256:   of the file; for a hub id, of the examples themselves.
    left_out: rows that are no examples, since an instruction, a message or the reply is an empty text.
    """

    examples: tuple[Example, ...]
    name: str
    form: str
    sha256: str
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def provenance(self) -> dict[str, Any]:
        """What was loaded, for a result record."""
        facts = {"name": self.name, "form": self.form, "sha256": self.sha256}
        return {**facts, "examples": len(self), "left_out": self.left_out}


def load_data(name: str | Path, *, limit: int | None = None) -> Data:
    """The first `limit` examples (None: all) of the data called `name`, in their order there.

    name:  `chitchat` (bundled; `chitchat_rows` says what is kept), a .json, .jsonl or .parquet file, or a hub id (by
           `datasets.load_dataset`, train split).
    limit: rows after these are not looked at.

    Rows are in Alpaca (instruction, input, output), ShareGPT (from, value) or messages (role, content) form.

    Text is taken as it is. Messages after the last reply are dropped, since nothing in them would be scored. Rows with
    an empty text, of which published data sets have some, are left out and counted, with a warning. Raises
    `InputError`, naming the row, where one lacks its instruction or reply; and for a source that is not there, cannot
    be read or is in no known form.
    """
    name = str(name)
    path = chitchat_file() if name == CHITCHAT else Path(name).expanduser()
    if limit is not None and limit < 1:
        raise InputError(f"{limit} examples were asked for: ask for at least 1")
    read = chitchat_rows if name == CHITCHAT else file_rows
    rows = read(path) if path.is_file() else hub_rows(name)
    examples, form, left_out = [], "", 0
    for number, row in islice(rows, limit):
        form = form or _form(name, row)
        try:
            examples.append(_example(row, number))
        except _EmptyTextError:
            left_out += 1
        except ValueError as error:
            raise InputError(f"{name}, row {number}: {error}") from error
    if not examples:
        raise InputError(f"{name} has no rows" + (f" but {left_out} with an empty text" if left_out else ""))
    if left_out:
        warnings.warn(f"{name}: {left_out} rows have an empty text and are left out", stacklevel=2)
    digest = sha256(path) if path.is_file() else _digest(examples)
    return Data(tuple(examples), name, form, digest, left_out)


class _EmptyTextError(ValueError):
    """A text that is there and empty."""


def _form(name: str, row: Any) -> str:
    """The form of the first row; the others may mix."""
    keys = sorted(row) if isinstance(row, dict) else []
    for key, form in _FORMS.items():
        if key in keys:
            return form
    found = ", ".join(keys) or type(row).__name__
    raise InputError(f"{name} is in no form known here: its rows have {found}; known are {_KNOWN}")


def _example(row: Any, number: int) -> Example:
    """Raises `ValueError` saying what is wrong with the row."""
    if not isinstance(row, dict):
        raise ValueError(f"it is not an object but {type(row).__name__}")
    given = row.get("messages", row.get("conversations"))
    if given is None:
        messages = [("user", _text(row, "instruction")), ("assistant", _text(row, "output"))]
        return Example(tuple(messages), _text(row, "input", optional=True), number)
    if not isinstance(given, list):
        raise ValueError("its conversation is not a list of messages")
    messages = [_message(item) for item in given]
    roles = [role for role, _ in messages]
    if "assistant" not in roles:
        raise ValueError("it has no reply, that is, no message of an assistant")
    if "user" not in roles[: roles.index("assistant")]:
        raise ValueError("it has a reply before any message of a user")
    last = max(i for i, role in enumerate(roles) if role == "assistant")
    return Example(tuple(messages[: last + 1]), row=number)


def _message(item: Any) -> tuple[str, str]:
    if not isinstance(item, dict):
        raise ValueError(f"one of its messages is not an object but {type(item).__name__}")
    role = str(item.get("role") or item.get("from"))
    if role not in _ROLES:
        raise ValueError(f"one of its messages is from {role!r}; known are {', '.join(_ROLES)}")
    return _ROLES[role], _text(item, "content" if "content" in item else "value")


def _text(item: dict[str, Any], key: str, *, optional: bool = False) -> str:
    text = item.get(key)
    if text is None:
        if not optional:
            raise ValueError(f"its {key!r} is missing")
        return ""
    if not isinstance(text, str):
        raise ValueError(f"its {key!r} is not text but {type(text).__name__}")
    if not text.strip() and not optional:
        raise _EmptyTextError
    return text if text.strip() else ""


def _digest(examples: list[Example]) -> str:
    lines = json.dumps([astuple(example) for example in examples], ensure_ascii=False)
    return hashlib.sha256(lines.encode()).hexdigest()
