"""Results of a check: ledger rows, and tables for the figures."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from symnoise.theory.ledger import Row

Table = list[dict[str, Any]]


@dataclass(frozen=True)
class Findings:
    """rows: for the ledger.  tables: name -> records (one dict per measured point), for figures and CSV files."""

    rows: list[Row] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)

    def __add__(self, other: "Findings") -> "Findings":
        tables = {
            name: [*self.tables.get(name, []), *other.tables.get(name, [])] for name in self.tables | other.tables
        }
        return Findings([*self.rows, *other.rows], tables)


def timed(check: Callable[..., Findings]) -> Callable[..., Findings]:
    """The check, with its time divided evenly among its rows."""

    def run(*args: Any, **kwargs: Any) -> Findings:
        started = time.perf_counter()
        found = check(*args, **kwargs)
        share = (time.perf_counter() - started) / max(len(found.rows), 1)
        return Findings([replace(row, seconds=share) for row in found.rows], found.tables)

    run.__doc__, run.__name__ = check.__doc__, check.__name__
    return run
