"""The default data set: 7,168 conversations between people, from the package chitchat-dataset==0.9.0 (MIT)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from symnoise.core import packaged_file

CHITCHAT = "chitchat"
# About 32 tokens of SmolLM2's tokenizer, but no tokenizer is needed to count words.
LONG_ANSWER_WORDS = 24


def chitchat_file() -> Path:
    """The JSON file of the installed package, which is not imported; `InputError` with the command to install it."""
    return packaged_file("the default data set", "chitchat_dataset", "chitchat-dataset==0.9.0", "dataset.json")


def chitchat_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Pairs from the Chit-Chat conversations between people, in messages form.

    A turn is what one sender wrote before the other answered, its utterances joined by spaces. Who opens is the user,
    who answers the assistant; a pair is one turn of the user and the turn that answers it, so no turn is in two. Kept
    are pairs whose answer has at least 24 words: 14,946 of the 66,853 in version 0.9.0, in the file's order. Four
    fifths of those answers have 32 tokens or more of SmolLM2's tokenizer; the median is 40.
    """
    number = 0
    for conversation in json.loads(path.read_text(encoding="utf-8")).values():
        turns = [" ".join(utterance["text"] for utterance in turn).strip() for turn in conversation["messages"]]
        for user, assistant in zip(turns[::2], turns[1::2], strict=False):
            if user and len(assistant.split()) >= LONG_ANSWER_WORDS:
                number += 1
                yield (
                    number,
                    {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]},
                )
