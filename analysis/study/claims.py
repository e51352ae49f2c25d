"""N3 and O1 to O4 as ledger rows: predictions on paired differences and on correlations, verdicts from their intervals.

An interval here is Student's at the ledger's level. A bootstrap of ten pairs cannot reach that coverage (see
`pairs.interval`); the 95 % bootstrap intervals and the permutation tests are in the table of contrasts.
"""

import math

import numpy as np
import pandas as pd

from analysis.study.association import Association, mixed_model, rank_correlation
from analysis.study.contrasts import LAWS, MAIN, Pairs, each
from analysis.study.data import Study, measurements
from analysis.study.measures import HIGHER_IS_BETTER
from symnoise.theory import CLAIMS, LEVEL, OUTCOMES, Row, row
from symnoise.theory.ledger import half_width, slug

CURVATURE = ("tr H", "tr G", "C")
QUALITY = ("held-out loss", "ROUGE-L", "chrF")  # against held-out references
ORDER = MAIN[:2]  # none < NEFTune < SymNoise; the other contrasts of MAIN ask what the order is owed to
LESS_CURVED = MAIN[1:3]
GROWN = (("uniform", "none"), ("symnoise", "none"))
STUDIED = {"N3": CLAIMS["N3"], **OUTCOMES}  # what a study has rows for


def ledger(study: Study) -> list[Row]:
    """Every row of N3 and O1 to O4 that the study's runs allow, in that order."""
    rows: list[Row] = []
    measured = measurements(study)
    for setting, runs in study.runs.groupby("setting", sort=False):
        own = measured[measured.run.isin(runs.run)]
        rows += grown(own, runs, str(setting))
        rows += less_curved(own, runs, str(setting))
        rows += associated(own, runs, str(setting))
        rows += equivalent(own, runs, str(setting), study.margins)
        rows += ordered(own, runs, str(setting))
    return sorted(rows, key=lambda made: made.id)


def grown(measured: pd.DataFrame, runs: pd.DataFrame, where: str) -> list[Row]:
    """N3 for training: embedding rows that the text uses grow more with noise than without, so without − with is at
    most 0. What the identity behind it needs, a loss invariant to the scale of X, is held to account elsewhere."""
    values = -measured[measured.measure == "used-row norm growth"].set_index("run").value
    return [
        _at_most(
            "N3",
            _key("growth", second, first, alpha),
            f"used-row norm growth, {second} − {first}{_at(alpha)}",
            found,
            where,
        )
        for first, second, alpha, found in each(runs, values, GROWN)
    ]


def less_curved(measured: pd.DataFrame, runs: pd.DataFrame, where: str) -> list[Row]:
    """O1: mean curvature over the held-out prompts at the end, SymNoise − each rival, is at most 0."""
    rows = []
    for quantity in CURVATURE:
        values = measured[measured.measure == quantity].set_index("run").value
        for first, second, alpha, found in each(runs, values, LESS_CURVED):
            key = _key(quantity, first, second, alpha)
            rows.append(_at_most("O1", key, f"{quantity}, {first} − {second}{_at(alpha)}", found, where))
    return rows


def associated(measured: pd.DataFrame, runs: pd.DataFrame, where: str) -> list[Row]:
    """O2: each of `associations` of curvature with quality (a loss counts as its negative) is at most 0."""
    rows = []
    for quantity in CURVATURE:
        for label, frame in outcomes(measured, runs, quantity):
            for what, made in associations(frame, where, quantity, label).items():
                said = f"{what} of {quantity} with quality: {label}"
                if made.runs < len(runs):
                    said += f"; {len(runs) - made.runs} of {len(runs)} runs left out, diverged or not measured"
                facts = {"resolution": 0.0, "where": where, "n": made.runs, "relation": "at most"}
                facts |= {"key": _key(what, quantity, label), "subject": "study"}
                rows.append(row("O2", said, 0, made.value, made.interval(LEVEL), **facts))  # type: ignore[arg-type]
    return rows


def associations(frame: pd.DataFrame, *key: str) -> dict[str, Association]:
    """Spearman's ρ over all runs, the mixed model's slope over all, and its slope within the settings of arm and α.

    The slopes are those of ranks, in standard deviations: one arm whose curvature is an order of magnitude away from
    the rest would set the slope of the values alone. The first two are mostly between settings of noise, which differ
    in curvature and in outcome together; the last speaks of runs with the same noise.
    """
    x, y, seed = frame.curvature, frame.quality, frame.seed
    setting = frame.arm + frame.alpha.map(" {:g}".format)
    return {
        "Spearman’s ρ": rank_correlation(x, y, seed, *key),
        "mixed-model slope of ranks": mixed_model(x.rank(), y.rank(), seed),
        "mixed-model slope of ranks within settings": mixed_model(x.rank(), y.rank(), seed, setting),
    }


def outcomes(measured: pd.DataFrame, runs: pd.DataFrame, quantity: str) -> list[tuple[str, pd.DataFrame]]:
    """For each measure of quality at the end: its label, and a frame of run, arm, alpha, seed, curvature, value and
    quality. A diverged run whose curvature is known has quality −∞; one whose curvature is not is left out."""
    curved = measured[measured.measure == quantity].set_index("run").value
    scored = measured[measured.measure.isin(QUALITY) & (measured.when == "end")]
    found = [
        (_label(str(measure), "end", str(decoding)), _against(runs, curved, part, str(measure)))
        for (measure, decoding), part in scored.groupby(["measure", "decoding"])
    ]
    return [(label, frame) for label, frame in found if len(frame) > 2]  # fewer have no correlation


def lengths(measured: pd.DataFrame, runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The same for the scores of replies, with the mean length of the same replies in the place of the curvature."""
    ended = measured[(measured.when == "end") & (measured.decoding != "")]
    scored, found = ended[ended.measure.isin(QUALITY)], []
    for (measure, decoding), part in scored.groupby(["measure", "decoding"]):
        own = ended[(ended.measure == "length") & (ended.decoding == decoding)].set_index("run").value
        frame = _against(runs, own, part, str(measure))
        if len(frame) > 2:
            found.append((_label(str(measure), "end", str(decoding)), frame))
    return found


def _against(runs: pd.DataFrame, curvature: pd.Series, scored: pd.DataFrame, measure: str) -> pd.DataFrame:
    frame = runs[["run", "arm", "alpha", "seed", "status"]].copy()
    frame["curvature"] = curvature.reindex(frame.run).to_numpy()
    frame["value"] = scored.set_index("run").value.reindex(frame.run).to_numpy()
    sign = 1 if measure in HIGHER_IS_BETTER else -1
    frame["quality"] = np.where(frame.status == "diverged", -math.inf, sign * frame.value)
    return frame[np.isfinite(frame.curvature) & frame.quality.notna()]


def equivalent(measured: pd.DataFrame, runs: pd.DataFrame, where: str, margins: dict[str, float]) -> list[Row]:
    """O3: the interval of the difference of two calibrated laws lies inside the stated margin: two one-sided tests."""
    rows = []
    for (measure, when, decoding), part in measured.groupby(["measure", "when", "decoding"]):
        if measure not in margins:
            continue
        values = part.set_index("run").value
        for first, second, alpha, found in each(runs, values, LAWS):
            said = f"{_label(str(measure), str(when), str(decoding))}: {first} − {second}{_at(alpha)}"
            key = _key(measure, when, decoding, first, second, alpha)
            rows.append(_row("O3", key, said, found, where, "within", float(margins[str(measure)])))
    return rows


def ordered(measured: pd.DataFrame, runs: pd.DataFrame, where: str) -> list[Row]:
    """O4: the arm that should be better is. A loss is first − second, a score second − first: at most 0 either way."""
    rows = []
    scored = measured[measured.measure.isin(QUALITY)]
    for (measure, when, decoding), part in scored.groupby(["measure", "when", "decoding"]):
        higher = measure in HIGHER_IS_BETTER
        values = (-1 if higher else 1) * part.set_index("run").value
        for first, second, alpha, found in each(runs, values, ORDER):
            pair = f"{second} − {first}" if higher else f"{first} − {second}"
            said = f"{_label(str(measure), str(when), str(decoding))}: {pair}{_at(alpha)}"
            key = _key(measure, when, decoding, first, second, alpha)
            rows.append(_at_most("O4", key, said, found, where))
    return rows


def _at_most(id: str, key: str, said: str, found: Pairs, where: str) -> Row:
    """A row that says the first arm is the lower. Where it diverged more often than the second, what is left flatters
    it, and the interval has no upper end."""
    return _row(id, key, said, found, where, "at most", 0.0, open_above=found.diverged[0] > found.diverged[1])


def _row(
    id: str,
    key: str,
    said: str,
    found: Pairs,
    where: str,
    relation: str,
    resolution: float,
    open_above: bool = False,
) -> Row:
    d, lost = found.differences, found.seeds - found.missing - len(found.differences)
    mean = float(d.mean()) if len(d) else math.nan
    half = half_width(float(d.std(ddof=1)) / math.sqrt(len(d)), len(d) - 1) if len(d) > 1 else math.nan
    if lost:
        said += f"; {lost} of {found.seeds} pairs left out, a run diverged"
    if found.missing:
        said += f"; {found.missing} of {found.seeds} pairs left out, not measured"
    ends = (mean - half, math.inf if open_above else mean + half)
    facts = {"key": key, "subject": "study", "where": where, "n": len(d), "relation": relation}
    return row(id, said, 0, mean, ends, resolution=resolution, **facts)  # type: ignore[arg-type]


def _key(*parts: object) -> str:
    """The parts as one key; a number is the α, and what is empty or NaN is left out."""
    said = [f"alpha={part:g}" if isinstance(part, float) else slug(str(part)) for part in parts if part == part]
    return ".".join(part for part in said if part)


def _label(measure: str, when: str, decoding: str) -> str:
    return f"{measure}, {when}" + (f", {decoding}" if decoding else "")


def _at(alpha: float) -> str:
    return "" if math.isnan(alpha) else f", α = {alpha:g}"
