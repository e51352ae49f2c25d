"""O1 to O4 as ledger rows: predictions on paired differences and on correlations, verdicts from their intervals.

An interval here is Student's at the ledger's level. A bootstrap of ten pairs cannot reach that coverage (see
`pairs.interval`); the 95 % bootstrap intervals and the permutation tests are in the table of contrasts.
"""

import math

import numpy as np
import pandas as pd

from analysis.study.association import mixed_model, rank_correlation
from analysis.study.contrasts import LAWS, MAIN, Pairs, each
from analysis.study.data import Study, measurements
from analysis.study.measures import HIGHER_IS_BETTER
from symnoise.theory import LEVEL, Row, row
from symnoise.theory.ledger import half_width

CURVATURE = ("tr H", "tr G", "C")
QUALITY = ("held-out loss", "ROUGE-L", "chrF")  # against held-out references
LESS_CURVED = MAIN[1:3]


def ledger(study: Study) -> list[Row]:
    """Every row of O1 to O4 that the study's runs allow, in that order."""
    rows: list[Row] = []
    measured = measurements(study)
    for setting, runs in study.runs.groupby("setting", sort=False):
        own = measured[measured.run.isin(runs.run)]
        rows += less_curved(own, runs, str(setting))
        rows += associated(own, runs, str(setting))
        rows += equivalent(own, runs, str(setting), study.margins)
        rows += ordered(own, runs, str(setting))
    return sorted(rows, key=lambda made: made.id)


def less_curved(measured: pd.DataFrame, runs: pd.DataFrame, where: str) -> list[Row]:
    """O1: mean curvature over the held-out prompts at the end, SymNoise − each rival, is at most 0."""
    rows = []
    for quantity in CURVATURE:
        values = measured[measured.measure == quantity].set_index("run").value
        for first, second, alpha, found in each(runs, values, LESS_CURVED):
            rows.append(_at_most("O1", f"{quantity}, {first} − {second}{_at(alpha)}", found, where))
    return rows


def associated(measured: pd.DataFrame, runs: pd.DataFrame, where: str) -> list[Row]:
    """O2: correlation of curvature with quality (a loss counts as its negative) is at most 0: the rank correlation, and
    the slope of the mixed model, in standard deviations."""
    rows = []
    for quantity, (label, frame) in ((q, o) for q in CURVATURE for o in outcomes(measured, runs, q)):
        rank = rank_correlation(frame.curvature, frame.quality, frame.seed, where, quantity, label)
        slope = mixed_model(frame.curvature, frame.quality, frame.seed)
        for made, what in ((rank, "Spearman’s ρ"), (slope, "mixed-model slope")):
            said = f"{what} of {quantity} with quality: {label}"
            if made.runs < len(runs):
                said += f"; {len(runs) - made.runs} of {len(runs)} runs left out, diverged or not measured"
            facts = {"resolution": 0.0, "where": where, "n": made.runs, "relation": "at most"}
            rows.append(row("O2", said, 0, made.value, made.interval(LEVEL), **facts))  # type: ignore[arg-type]
    return rows


def outcomes(measured: pd.DataFrame, runs: pd.DataFrame, quantity: str) -> list[tuple[str, pd.DataFrame]]:
    """For each measure of quality at the end: its label, and a frame of run, arm, alpha, seed, curvature, value and
    quality. A diverged run whose curvature is known has quality −∞; one whose curvature is not is left out."""
    curved = measured[measured.measure == quantity].set_index("run").value
    found = []
    scored = measured[measured.measure.isin(QUALITY) & (measured.when == "end")]
    for (measure, decoding), part in scored.groupby(["measure", "decoding"]):
        sign = 1 if measure in HIGHER_IS_BETTER else -1
        frame = runs[["run", "arm", "alpha", "seed", "status"]].copy()
        frame["curvature"] = curved.reindex(frame.run).to_numpy()
        frame["value"] = part.set_index("run").value.reindex(frame.run).to_numpy()
        frame["quality"] = np.where(frame.status == "diverged", -math.inf, sign * frame.value)
        frame = frame[np.isfinite(frame.curvature) & frame.quality.notna()]
        if len(frame) > 2:  # fewer have no correlation
            label = _label(str(measure), "end", str(decoding))
            found.append((label, frame))
    return found


def equivalent(measured: pd.DataFrame, runs: pd.DataFrame, where: str, margins: dict[str, float]) -> list[Row]:
    """O3: the interval of the difference of two calibrated laws lies inside the stated margin: two one-sided tests."""
    rows = []
    for (measure, when, decoding), part in measured.groupby(["measure", "when", "decoding"]):
        if measure not in margins:
            continue
        values = part.set_index("run").value
        for first, second, alpha, found in each(runs, values, LAWS):
            said = f"{_label(str(measure), str(when), str(decoding))}: {first} − {second}{_at(alpha)}"
            rows.append(_row("O3", said, found, where, "within", float(margins[str(measure)])))
    return rows


def ordered(measured: pd.DataFrame, runs: pd.DataFrame, where: str) -> list[Row]:
    """O4: the arm that should be better is. A loss is first − second, a score second − first: at most 0 either way."""
    rows = []
    scored = measured[measured.measure.isin(QUALITY)]
    for (measure, when, decoding), part in scored.groupby(["measure", "when", "decoding"]):
        higher = measure in HIGHER_IS_BETTER
        values = (-1 if higher else 1) * part.set_index("run").value
        for first, second, alpha, found in each(runs, values, MAIN):
            pair = f"{second} − {first}" if higher else f"{first} − {second}"
            said = f"{_label(str(measure), str(when), str(decoding))}: {pair}{_at(alpha)}"
            rows.append(_at_most("O4", said, found, where))
    return rows


def _at_most(id: str, said: str, found: Pairs, where: str) -> Row:
    """A row that says the first arm is the lower. Where it diverged more often than the second, what is left flatters
    it, and the interval has no upper end."""
    return _row(id, said, found, where, "at most", 0.0, open_above=found.diverged[0] > found.diverged[1])


def _row(
    id: str, said: str, found: Pairs, where: str, relation: str, resolution: float, open_above: bool = False
) -> Row:
    d, lost = found.differences, found.seeds - found.missing - len(found.differences)
    mean = float(d.mean()) if len(d) else math.nan
    half = half_width(float(d.std(ddof=1)) / math.sqrt(len(d)), len(d) - 1) if len(d) > 1 else math.nan
    if lost:
        said += f"; {lost} of {found.seeds} pairs left out, a run diverged"
    if found.missing:
        said += f"; {found.missing} of {found.seeds} pairs left out, not measured"
    ends = (mean - half, math.inf if open_above else mean + half)
    return row(id, said, 0, mean, ends, resolution=resolution, where=where, n=len(d), relation=relation)


def _label(measure: str, when: str, decoding: str) -> str:
    return f"{measure}, {when}" + (f", {decoding}" if decoding else "")


def _at(alpha: float) -> str:
    return "" if math.isnan(alpha) else f", α = {alpha:g}"
