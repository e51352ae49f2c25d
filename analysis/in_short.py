"""What SymNoise and noise changed in a study, as a sentence and as numbers for a table."""

from typing import Any

from analysis.paper.published import StudyResults
from analysis.study.contrasts import MAIN
from analysis.style import name as arm
from result_schema.measures import SPLIT
from symnoise.plot.numbers import measurement, plural

_SAID = (
    ("training loss", "training loss", " nats"),
    ("held-out loss", "held-out loss", " nats"),
    *((part, part, "") for part in SPLIT),
)
LOOKED_AT = MAIN[:3]


def differences(found: StudyResults, measure: str) -> dict[tuple[str, str], float]:
    """(first, second) arm -> mean paired difference in `measure` at the end, for the contrasts in `LOOKED_AT`."""
    compared = found.at_own_alpha(found.tables["contrasts"])
    end = compared[(compared.when == "end") & (compared.measure == measure) & compared.decoding.isna()]
    means = {(row["first"], row["second"]): row["mean"] for row in end.to_dict("records")}
    return {pair: means[pair] for pair in LOOKED_AT if pair in means}


def in_short(study: str, found: StudyResults) -> str:
    """Noise minus none, and SymNoise minus NEFTune and two draws: differences, with verdicts for primary endpoints."""
    compared = found.at_own_alpha(found.tables["contrasts"])
    end = compared[(compared.when == "end") & compared.decoding.isna()]
    said = []
    for first, second in LOOKED_AT:
        own = end[(end["first"] == first) & (end.second == second)].drop_duplicates("measure")
        rows = {row["measure"]: row for row in own.to_dict("records")}
        parts = [f"{word} {_difference(rows[m], unit)}" for m, word, unit in _SAID if m in rows]
        if parts:
            said.append(f"{arm(first)} minus {arm(second)}: {', '.join(parts)}")
    if not said:
        return ""
    seeds = plural(int(end.pairs.max()), "paired seed")
    kind = "primary endpoints corrected by Holm" if end.primary.any() else "exploratory"
    where = f"{study}, α = {found.facts['alpha']:g}, {seeds}, 95 % intervals, {kind}"
    return f"After fine-tuning ({where}): {'; '.join(said)}."


def _difference(row: dict[Any, Any], unit: str) -> str:
    """`Δ = 0.0059 nats (0.0028 to 0.0083)`, with the verdict for a primary endpoint."""
    mean, interval = measurement(row["mean"], row["low"], row["high"])
    verdict = f"; {row['verdict']}" if row["primary"] else ""
    return f"Δ = {mean}{unit} ({interval}{verdict})"
