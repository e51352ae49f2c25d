"""The endpoints that studies named before their runs, for the page of results and the paper."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from analysis.paper.published import StudyResults
from analysis.study.contrasts import LEVEL
from analysis.study.dials import EVEN
from analysis.style import name as arm
from symnoise.plot.numbers import number, with_interval


@dataclass(frozen=True)
class Endpoint:
    """One line as text. compared: two arms, or the weight of a slope; value: a difference or a slope with its 95 %
    interval; p: Holm-adjusted over the study's endpoints, with `significant` at 5 %; worth: the difference worth
    knowing, from the study's file."""

    study: str
    measure: str
    compared: str
    seeds: str
    value: str
    p: str
    significant: bool
    worth: str


def endpoints(found: Mapping[str, StudyResults | None]) -> list[Endpoint]:
    """The endpoints of every study run: contrasts, or slopes on the weights μ and λ² of a draw's even and odd parts."""
    made = []
    for name, study in found.items():
        if study is None:
            continue
        for table in (study.tables["contrasts"], study.tables.get("dials", pd.DataFrame())):
            for row in table[table.primary].to_dict("records") if len(table) else []:
                slope = "term" in row
                if slope:
                    compared = f"slope on {'μ' if row['term'] == EVEN else 'λ²'}"
                else:
                    compared = _difference(arm(row["first"]), arm(row["second"]))
                p = number(row["holm"], 2)
                made.append(
                    Endpoint(
                        name,
                        row["measure"],
                        compared,
                        str(row["seeds" if slope else "pairs"]),
                        with_interval(row),
                        f"≤ {p}" if row["p"] <= row.get("floor", 0) else p,  # a permutation test has a smallest p
                        row["holm"] <= 1 - LEVEL,
                        number(study.facts["primary"]["outcomes"][row["measure"]], 1),
                    )
                )
    return made


def _difference(first: str, second: str) -> str:
    """Two arms in words; what both have after a comma, such as their learning rate, is said once."""
    name, comma, shared = first.partition(", ")
    if comma and second.endswith(comma + shared):
        return f"{name} − {second}"
    return f"{first} − {second}"
