"""Sentences that say what the verdicts say, whichever way they fall."""

from typing import Any

import pandas as pd
from scipy import stats

from analysis.ledger import THEORY, line, note
from analysis.numbers import number, plural
from analysis.paper.landed import Landed, StudyResults
from analysis.paper.tex import tex
from analysis.paper.values import tally
from analysis.reasons import reasons
from symnoise.theory import LEVEL, OUTCOMES

_MOST = 4  # rows that a sentence names; the ledger of the study has all


def failures(landed: Landed) -> str:
    """A paragraph for each claim that fails on the pretrained model: which predictions, and what the run tells why."""
    why = reasons(landed.rows, _tables(landed))
    said = []
    for id in dict.fromkeys(row["id"] for row in landed.rows):
        failed = [row for row in landed.rows if row["id"] == id and _fails_on_model(row)]
        if failed:
            rows = "; ".join(_found(row) for row in failed)
            why_so = tex(" ".join(why.get(id, [])))
            said.append(rf"\paragraph{{\claim{{{id}}}}} {rows[:1].upper() + rows[1:]}. {why_so}" + "\n")
    return "\n".join(said) or "No prediction fails on the pretrained model.\n"


def undecided(landed: Landed) -> str:
    """A paragraph for each claim with undecided rows: what was found, and what would decide it."""
    rows = [row for row in landed.rows if row["verdict"] == "undecided"]
    said = []
    for id in dict.fromkeys(row["id"] for row in rows):
        own = "; ".join(f"{_found(row, bare=True)} [{tex(_wanted(row))}]" for row in rows if row["id"] == id)
        said.append(rf"\paragraph{{\claim{{{id}}}}} {own[:1].upper() + own[1:]}." + "\n")
    return "\n".join(said) or "No prediction is undecided.\n"


def abstract(landed: Landed) -> str:
    """The ledger's counts, and what fails on the pretrained model, in two sentences."""
    ids = list(dict.fromkeys(row["id"] for row in landed.rows if _fails_on_model(row)))
    names = _listed([rf"\claim{{{id}}}" for id in ids]) if ids else ""
    failing = (
        f"On the pretrained model at least one prediction fails for {names}."
        if ids
        else "None fails on the pretrained model."
    )
    said = [
        rf"\claim{{{id}}} (\texttt{{{study}}}): {tally([row for row in found.rows if row['id'] == id])}"
        for study, found in landed.studies.items()
        if found
        for id in OUTCOMES
    ]
    if not said:
        return f"{failing} Fine-tuning outcomes over many seeds have not been run for this version of the text.\n"
    return f"{failing} In fine-tuning, {'; '.join(said)}.\n"


def outcomes(landed: Landed) -> str:
    """A paragraph for each study: what O1 to O4 came to, or that it has not been run."""
    said = []
    for study, found in landed.studies.items():
        head = rf"\paragraph{{Study \texttt{{{study}}}}}"
        if found is None:
            said.append(
                f"{head} This study has not been run for this version of the text: there is no ledger of it, and "
                rf"\texttt{{make study STUDY={study}}} makes one." + "\n"
            )
        else:
            shown = rf"\Cref{{tab:{study}-contrasts,tab:{study}-arms}} have its contrasts and its arms."
            for name in found.frames:
                shown += rf" \Cref{{fig:{study}-{name}}} shows every contrast."
            said.append(f"{head} {_size(found)} " + " ".join(_outcome(id, found) for id in OUTCOMES) + f" {shown}\n")
    return "\n".join(said)


def _size(found: StudyResults) -> str:
    runs = found.tables["arms"].drop_duplicates(["setting", "arm", "alpha"])
    total, lost = int(runs.runs.sum()), int(runs.diverged.sum())
    most = max((row["n"] for row in found.rows if row["id"] in ("O1", "O3", "O4")), default=0)
    said = f"{plural(total, 'run')}, of which {plural(lost, 'run').split()[0]} diverged; {plural(len(runs), 'setting')}"
    said += f" of arm and noise; at most {plural(most, 'pair')} of seeds a contrast."
    if most > 1:
        t = float(stats.t.ppf(0.5 + LEVEL / 2, most - 1))
        said += (
            f" An interval of the ledger then reaches {number(t / most**0.5, 2)} standard deviations of a pair's "
            "difference to each side, and only larger effects can be decided."
        )
    power = found.tables["power"]
    if "seeds_needed" in power and power.seeds_needed.notna().any():
        needed = power.seeds_needed.dropna()
        said += (
            f" To find the difference of {found.facts['effect']:g} nats that was named beforehand, a paired test "
            f"needs between {needed.min():.0f} and {needed.max():.0f} seeds, by the spread seen."
        )
    return tex(said[:1].upper() + said[1:])


def _outcome(id: str, found: StudyResults) -> str:
    """`O1: 3 hold and 9 are undecided. It fails on: …`"""
    rows = [row for row in found.rows if row["id"] == id]
    if not rows:
        return rf"\claim{{{id}}}: not run, since no two arms of it were compared."
    said = rf"\claim{{{id}}}: of {plural(len(rows), 'prediction')}, {tally(rows)}."
    failed = [row for row in rows if row["verdict"] == "fails"]
    if failed:
        rest = len(failed) - _MOST
        more = f"; and {rest} more" if rest > 0 else ""
        said += " It fails on " + "; ".join(_found(row) for row in failed[:_MOST]) + more + "."
    return said


def _wanted(row: dict[str, Any]) -> str:
    """What would decide it, in few words."""
    return note(row).rpartition(": ")[2].removesuffix(" would do")


def _found(row: dict[str, Any], *, bare: bool = False) -> str:
    """`T(σ) at α = 10: 0.73 (0.60 to 0.86) where 1 ± 0.1 is predicted`; `bare` without the prediction."""
    said = line(row)
    interval = f" ({said.interval})" if said.interval not in ("exact", "no interval") else ""
    predicted = "" if bare else f" where {said.prediction} is predicted"
    return tex(f"{row['quantity']}: {said.measured}{interval}{predicted}")


def _fails_on_model(row: dict[str, Any]) -> bool:
    return row["verdict"] == "fails" and not row["where"].startswith(THEORY)


def _tables(landed: Landed) -> dict[str, pd.DataFrame]:
    """What `analysis.reasons` reads, back from the data of the figures."""
    validity, variances = landed.frames["validity"], landed.frames["variances"]
    pooled = validity[validity.example.isna() & (validity.quantity == "T")]
    return {
        "validity": pooled.rename(columns={"value": "T"}),
        "curvature": landed.frames["curvature"],
        "variances on text": variances.dropna(subset="alpha"),
    }


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
