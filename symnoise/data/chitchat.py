"""The default data set: 7,168 conversations between people, from the package chitchat-dataset==0.9.0 (MIT)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from symnoise.core import PackagedFile

CHITCHAT = "chitchat"
CONVERSATIONS = PackagedFile(
    name=CHITCHAT,
    what="the default data set",
    module="chitchat_dataset",
    requirement="chitchat-dataset==0.9.0",
    pattern="dataset.json",
    sha256="7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
    size=8_105_664,
)
# About 32 tokens of SmolLM2's tokenizer, but no tokenizer is needed to count words.
LONG_ANSWER_WORDS = 24


def chitchat_file() -> Path:
    """The JSON file of the installed package, which is not imported; `InputError` with the install command."""
    return CONVERSATIONS.path()


def chitchat_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Pairs of turns from the Chit-Chat conversations between people, in messages form.

    A turn is what one sender wrote before the other answered, its utterances joined by spaces. The person who opens is
    the user, the other the assistant. A pair is a user turn and its answer, so no turn is in two pairs. Pairs are kept
    if the answer has at least 24 words: 14,946 of the 66,853 in version 0.9.0, in file order. Four fifths of those
    answers have 32 tokens or more with SmolLM2's tokenizer; the median is 40.
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
