"""The first rows of a text that fit."""

from collections.abc import Sequence
from typing import Any

from symnoise.core import InputError
from symnoise.data import Example, usable

AMONG = 16  # times the wanted number: how many rows of a long text are looked at


def first_usable(
    rows: Sequence[Example], wanted: int, tokenizer: Any, model: Any, max_length: int, *, data: str, key: str
) -> list[Example]:
    """The first `wanted` rows with something to score within `max_length` tokens.

    data, key: the text and the setting of the length, as the `InputError` names them where there are too few.
    """
    found = usable(rows, tokenizer, max_length=max_length, model=model)[:wanted]
    if len(found) < wanted:
        raise InputError(f"{data}: {len(found)} of {wanted} rows fit {max_length} tokens; raise {key}")
    return found
