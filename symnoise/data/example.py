"""A conversation (`Example`), the error of an unusable row, and counts of such rows."""

import json
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

from symnoise.core import InputError


@dataclass(frozen=True)
class Example:
    """One conversation that ends with a reply, or one plain text.

    Attributes:
        messages: (role, text) pairs; roles are "system", "user", "assistant" and "tool", and the last is "assistant".
            Plain text, to which no template is applied, is ("prompt", text), if any, and ("completion", text).
        input: Alpaca's second field, which belongs to the last user message; empty in the other forms.
        row: Row number in its source, from 1 (in JSON lines: the line), for error messages.
        unscored: Positions in `messages` of replies that are context only, such as those with `weight: 0`.
        extras: (position, JSON) of other fields of a message: `tool_calls`, `reasoning_content`, and the `name` and
            `tool_call_id` of a tool's answer.
        tools: JSON of the tools that the conversation may call; empty for none.
    """

    messages: tuple[tuple[str, str], ...]
    input: str = ""
    row: int = 0
    unscored: tuple[int, ...] = ()
    extras: tuple[tuple[int, str], ...] = ()
    tools: str = ""

    @property
    def plain(self) -> bool:
        """Whether this is plain text rather than a conversation."""
        return self.messages[-1][0] == "completion"

    def extra(self, position: int) -> dict[str, Any]:
        """Fields of the message at `position` other than its role and text."""
        return dict(json.loads(dict(self.extras).get(position, "{}")))


class RowError(InputError):
    """A row of data that cannot be used.

    Args:
        row: Row number, from 1.
        reason: What is wrong, in the same words for every row with the same fault, so that rows can be counted by it.
        turn: Number of the turn at fault, if any.
        advice: What to do.
    """

    def __init__(self, row: int, reason: str, *, turn: int | None = None, advice: str = "leave it out") -> None:
        self.where, self.advice = f"row {row}" + (f", turn {turn}" if turn is not None else ""), advice
        # It may quote the row: keys and roles of any length, with line breaks and unprintable characters.
        self.reason = shorten(reason.encode("utf-8", "backslashreplace").decode(), 300, placeholder=" …")
        super().__init__(f"{self.where}: {self.reason}; {advice}")


@dataclass
class LeftOut:
    """Counts of skipped rows by reason; with `strict`, the first is an error.

    Attributes:
        strict: Whether to raise instead of counting.
        counts: Rows per reason.
        first: Error of the first row for each reason.
    """

    strict: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, RowError] = field(default_factory=dict)

    def add(self, error: RowError) -> None:
        """Count the row, or raise its error."""
        if self.strict:
            raise error
        self.counts[error.reason] = self.counts.get(error.reason, 0) + 1
        self.first.setdefault(error.reason, error)

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __str__(self) -> str:
        """Such as "3: its 'output' is empty (the first: row 7)", most frequent reason first."""
        return "; ".join(
            f"{count}: {reason} (the first: {self.first[reason].where})" for reason, count in self._ordered()
        )

    def why(self) -> str:
        """What is wrong with all of them, and what to do."""
        most, _ = self._ordered()[0]
        return str(self.first[most]) if len(self.counts) == 1 else f"{self}; {self.first[most].advice}"

    def _ordered(self) -> list[tuple[str, int]]:
        return sorted(self.counts.items(), key=lambda item: -item[1])


def is_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8; a lone surrogate, half of an emoji cut in two, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_nulls(value: Any) -> Any:
    """`value` without keys that are null: readers of tables add those that another row has."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
