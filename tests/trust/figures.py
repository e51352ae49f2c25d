"""A figure of `make trust`: what was measured, and the range that is promised."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        name: What is counted or measured, and over what.
        measured: The number.
        low, high: The range that is promised, both included; a share is between 0 and 1.
        tries: How many inputs, kills, mutants or seeds it rests on.
        seeds: Which, so that it can be repeated.
        note: What the number needs to be understood, such as why its range is not the usual one.
    """

    name: str
    measured: float
    low: float
    high: float
    tries: int
    seeds: str
    note: str = ""

    @property
    def kept(self) -> bool:
        """Whether the promise is kept."""
        return self.low <= self.measured <= self.high
