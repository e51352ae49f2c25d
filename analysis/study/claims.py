"""O1 to O4, D1 and E1 as ledger rows: predictions on paired differences, correlations and slopes, verdicts from their
intervals.

An interval here is Student's at the ledger's level. A bootstrap of ten pairs cannot reach that coverage (see
`pairs.interval`); the 95 % bootstrap intervals and the permutation tests are in the table of contrasts.

N3 has no rows here. The rows of a table that is tied to the head grow with Adam's signal-to-noise ratio: a doubled
batch without noise makes them grow as much as SymNoise does. `used-row norm growth` is in the tables, as a measure.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd
import torch

from analysis.study.association import Association, between_settings, within_settings
from analysis.study.contrasts import LAWS, MAIN, Arms, Pairs, Values, alphas, arms_of, by_seed, each, pair_up
from analysis.study.data import StudyTables, measurements
from analysis.study.dials import EVEN, slopes
from result_schema.measures import CURVATURE, ENDING, SCORES, improvement
from result_schema.study import Equivalence
from symnoise.curvature import Pooled, ratio_of_means
from symnoise.theory import LEVEL, Row, row
from symnoise.theory.ledger import half_width, slug, verdict

QUALITY = ("held-out loss", *SCORES)  # against held-out references
EQUAL = ("held-out loss", "training loss", "tr G")  # O3, at the end of training
ORDER = MAIN[:2]  # none < NEFTune < SymNoise; the other contrasts of MAIN ask what causes the order
LESS_CURVED = MAIN[1:3]
FALLING = ("tr G", "held-out loss")  # D1: with the weight of the even part
ENDING_LESS = (("uniform", "none"), ("symnoise", "none"))  # E1: by noise
MIRRORED = (("symnoise", "independent-pair"),)  # what the mirror adds at the same cost; E1: not by it
ODD_ONE_OUT = "penalty"  # its tr H differs from all others by an order of magnitude, so O2's rows leave it out
ASSOCIATIONS: dict[str, Callable[..., Association]] = {
    "between settings": between_settings,
    "within settings": within_settings,
}


def outcome_ledger(study: StudyTables, dials: pd.DataFrame | None = None) -> list[Row]:
    """Every row of O1 to O4, D1 and E1 that the study's runs allow, in alphabetical order.

    dials: `slopes` of the study, where the caller has them already.
    """
    rows: list[Row] = []
    measured = measurements(study)
    for setting, runs in study.runs.groupby("setting", sort=False):
        own = measured[measured.run.isin(runs.run)]
        rows += less_curved(own, runs, str(setting))
        rows += associated(study, runs, str(setting))
        rows += equivalent(own, runs, str(setting), study.equivalence)
        rows += ordered(own, runs, str(setting))
        rows += ending(own, runs, str(setting), study.primary.outcomes)
    rows += dialled(study, slopes(study) if dials is None else dials)
    return sorted(rows, key=lambda made: made.id)


def dialled(study: StudyTables, dials: pd.DataFrame) -> list[Row]:
    """D1, for each outcome that the study's file names: over the cells' whole range of λ² it changes by no more than
    the difference that the file calls worth knowing, and the slope on μ of tr G and of the held-out loss is at most 0.
    Student's interval over seeds; none where a cell diverged, which may be what its weights do."""
    rows = []
    for _, found in dials.iterrows():
        if not found.primary or (found.term == EVEN and found.measure not in FALLING):
            continue
        half, even = half_width(found.stderr, found.seeds - 1), found.term == EVEN
        lost = f"; {found.diverged} seeds left out, a cell diverged" if found.diverged else ""
        resolution = 0.0 if even else study.primary.outcomes[found.measure] / found.span
        made = row(
            "D1",
            f"slope of {found.measure} on {'μ' if even else 'λ²'}{lost}",
            0,
            found["mean"],
            math.inf if lost else half,
            key=_key("slope", found.measure, "even" if even else "odd"),
            subject="study",
            resolution=resolution,
            where=str(found.setting),
            n=int(found.seeds),
            relation="at most" if even else "within",
        )
        rows.append(made)
    return rows


def less_curved(measured: pd.DataFrame, runs: pd.DataFrame, where: str) -> list[Row]:
    """O1: mean curvature over the held-out prompts at the end, SymNoise − each rival, is at most 0."""
    rows, arms = [], arms_of(runs)
    for quantity in CURVATURE:
        values = measured[measured.measure == quantity].set_index("run").value.to_dict()
        for first, second, alpha, found in each(arms, values, LESS_CURVED):
            said, key = f"{quantity}, {first} − {second}{_at(alpha)}", _key(quantity, first, second, alpha)
            rows.append(_compared("O1", key, said, found, where))
    return rows


def associated(study: StudyTables, runs: pd.DataFrame, where: str) -> list[Row]:
    """O2: the correlation of curvature with quality (a loss counts as its negative) is at most 0, between settings and
    within them. The arm with a curvature penalty is left out; of a score, the length of the replies is partialled
    out."""
    rows = []
    plain = runs[runs.arm != ODD_ONE_OUT]
    for quantity in CURVATURE:
        for outcome in plain_outcomes(study, where, quantity):
            for what, made in outcome.associations.items():
                said = f"correlation of {quantity} with quality {what}: {outcome.label}"
                said += ", given the length of the replies" if outcome.given else ""
                if made.runs < len(plain):
                    said += f"; {len(plain) - made.runs} of {len(plain)} runs left out, diverged or not measured"
                facts = {"resolution": 0.0, "where": where, "n": made.units, "relation": "at most"}
                facts |= {"key": _key(what, quantity, outcome.slug), "subject": "study", "scheme": what}
                rows.append(row("O2", said, 0, made.value, made.interval(LEVEL), **facts))  # type: ignore[arg-type]
    return rows


@dataclass(frozen=True)
class Quality:
    """A measure of quality at the end. frame: run, setting (arm and α), arm, alpha, seed, curvature, value, quality
    and, for scores of replies, length. given: "length" there, else ""."""

    measure: str
    decoding: str
    frame: pd.DataFrame
    given: str

    @cached_property
    def associations(self) -> dict[str, Association]:
        """By their names in `ASSOCIATIONS`."""
        return {what: correlate(self.frame, self.given) for what, correlate in ASSOCIATIONS.items()}

    @property
    def label(self) -> str:
        """The label shown to readers."""
        return _label(self.measure, "end", self.decoding)

    @property
    def slug(self) -> str:
        """As part of a key."""
        return f"{self.measure} end {self.decoding}"


@lru_cache(maxsize=64)  # the ledger and the table of associations ask for the same
def plain_outcomes(study: StudyTables, setting: str, quantity: str) -> tuple[Quality, ...]:
    """`outcomes` of a setting's runs without the arm with a curvature penalty."""
    runs = study.runs[(study.runs.setting == setting) & (study.runs.arm != ODD_ONE_OUT)]
    return tuple(outcomes(measurements(study), runs, quantity))


def outcomes(measured: pd.DataFrame, runs: pd.DataFrame, quantity: str) -> list[Quality]:
    """Every measure of quality at the end.

    quantity: the measure of curvature. A diverged run has quality −∞ if its curvature is known, and is left out if not.
    """
    curved = measured[measured.measure == quantity].set_index("run").value
    ended = measured[measured.when == "end"]
    found = []
    for (measure, decoding), part in ended[ended.measure.isin(QUALITY)].groupby(["measure", "decoding"]):
        frame = _against(runs, curved, part, improvement(str(measure)))
        given = "length" if measure in SCORES else ""
        if given:
            own = ended[(ended.measure == given) & (ended.decoding == decoding)].set_index("run").value
            frame = frame.assign(length=own.reindex(frame.run).to_numpy())
        if len(frame) > 2:  # fewer have no correlation
            found.append(Quality(str(measure), str(decoding), frame, given))
    return found


def _against(runs: pd.DataFrame, curvature: pd.Series, scored: pd.DataFrame, sign: int) -> pd.DataFrame:
    frame = runs[["run", "arm", "alpha", "seed", "status"]].copy()
    frame["setting"] = frame.arm + frame.alpha.map(" {:g}".format)
    frame["curvature"] = curvature.reindex(frame.run).to_numpy()
    frame["value"] = scored.set_index("run").value.reindex(frame.run).to_numpy()
    frame["quality"] = np.where(frame.status == "diverged", -math.inf, sign * frame.value)
    return frame[np.isfinite(frame.curvature) & frame.quality.notna()]


def equivalent(measured: pd.DataFrame, runs: pd.DataFrame, where: str, stated: Equivalence) -> list[Row]:
    """O3: the difference of two calibrated laws, as a share of what noise itself does, lies inside the stated margin.

    The share is mean(first − second)/|mean(uniform − none)| over the same seeds, with Fieller's interval, so that the
    uncertainty of the margin is included. If a positive control does not lie outside the margin as it must, or none was
    run at that α, nothing is decided.
    """
    rows, arms = [], arms_of(runs)
    for measure in EQUAL:
        values = measured[(measured.measure == measure) & (measured.when == "end")].set_index("run").value.to_dict()
        blind = {
            alpha: _blind(arms, values, alpha, stated)
            for alpha in sorted({alpha for pair in LAWS for alpha in alphas(arms, *pair)})
        }
        for first, second in LAWS:
            for alpha in alphas(arms, first, second):
                made = share_of_noise(arms, values, first, second, alpha)
                if made is None:
                    continue
                found, seeds = made
                said = f"{measure}, end: ({first} − {second})/|uniform − none|{_at(alpha)}"
                ends = (found.low, found.high)
                lost = any(any(arms[arm][alpha].diverged) for arm in (first, second))
                why = "a run diverged" if lost else blind[alpha]
                if why:
                    said, ends = f"{said}; {why}", (-math.inf, math.inf)
                facts = {"where": where, "n": seeds, "relation": "within", "resolution": stated.margin}
                facts |= {"key": _key(measure, first, second, alpha), "subject": "study"}
                rows.append(row("O3", said, 0, found.value, ends, **facts))  # type: ignore[arg-type]
    return rows


def share_of_noise(
    arms: Arms, values: Values, first: str, second: str, alpha: float, level: float = LEVEL
) -> tuple[Pooled, int] | None:
    """mean(first − second)/|mean(uniform − none)| over the seeds that all four have, and how many those are; None where
    an arm was not run. The interval is Fieller's, unbounded where noise has no significant effect."""
    sides = [by_seed(arms, values, arm, alpha) for arm in (first, second, "uniform", "none")]
    table = pd.concat(sides, axis=1).dropna()
    if table.empty:
        return None
    one, two, noisy, plain = (torch.tensor(table[k].to_numpy(float)) for k in range(4))
    effect = noisy - plain
    found = ratio_of_means((one - two)[:, None], (effect * effect.mean().sign())[:, None], "draw", level)
    return found, len(table)


def _blind(arms: Arms, values: Values, alpha: float, stated: Equivalence) -> str:
    """Why no two laws can be called equivalent at this α, "" if they can: a positive control is not outside the
    margin, or none was run."""
    run = 0
    for first, second in stated.controls:
        made = share_of_noise(arms, values, first, second, alpha)
        if made is None:
            continue
        run += {first, second} != {"none", "uniform"}  # the share's own denominator: lies outside wherever it is known
        if verdict("within", 0, made[0].low, made[0].high, stated.margin) != "fails":
            return f"the positive control {first} − {second} is not outside the margin"
    return "" if run else "no positive control was run but none − uniform"


def ordered(measured: pd.DataFrame, runs: pd.DataFrame, where: str) -> list[Row]:
    """O4: the arm that should be better is. A loss is first − second, a score second − first: at most 0 either way.

    At the lowest held-out loss ("best") only where some pair differs from the end: the same numbers are no second row.
    """
    rows, arms = [], arms_of(runs)
    scored = measured[measured.measure.isin(QUALITY)]
    for (measure, when, decoding), part in scored.groupby(["measure", "when", "decoding"]):
        higher = improvement(str(measure)) > 0
        values = ((-1 if higher else 1) * part.set_index("run").value).to_dict()
        ended = scored[(scored.measure == measure) & (scored.when == "end") & (scored.decoding == decoding)]
        last = ((-1 if higher else 1) * ended.set_index("run").value).to_dict()
        for first, second, alpha, found in each(arms, values, ORDER):
            if when != "end" and np.array_equal(
                found.differences, pair_up(arms, last, first, second, alpha).differences
            ):
                continue
            pair = f"{second} − {first}" if higher else f"{first} − {second}"
            said = f"{_label(str(measure), str(when), str(decoding))}: {pair}{_at(alpha)}"
            key = _key(measure, when, decoding, first, second, alpha)
            rows.append(_compared("O4", key, said, found, where))
    return rows


def ending(measured: pd.DataFrame, runs: pd.DataFrame, where: str, worth: Mapping[str, float]) -> list[Row]:
    """E1, where the study's file names log p(end) among its outcomes: noise lowers it where the reference goes on, and
    the mirror changes it by no more than the difference that the file calls worth knowing."""
    if ENDING not in worth:
        return []
    rows, arms = [], arms_of(runs)
    values = measured[(measured.measure == ENDING) & (measured.when == "end")].set_index("run").value.to_dict()
    for first, second, alpha, found in each(arms, values, ENDING_LESS + MIRRORED):
        said, key = f"{ENDING}, {first} − {second}{_at(alpha)}", _key(ENDING, first, second, alpha)
        margin = worth[ENDING] if (first, second) in MIRRORED else None
        rows.append(_compared("E1", key, said, found, where, margin))
    return rows


def _compared(id: str, key: str, said: str, found: Pairs, where: str, margin: float | None = None) -> Row:
    """A row that says the first arm is lower, or within `margin` of the second.

    Where a run of the first diverged, the remaining pairs are biased in its favour, and the interval has no upper end;
    of the second, no lower end. If either diverged, the remaining pairs cannot show equivalence. Where no pair differs
    at all, as two arms at their best before any training, the two are one model, which says nothing of the arms.
    """
    d, lost = found.differences, found.seeds - found.missing - len(found.differences)
    mean = float(d.mean()) if len(d) else math.nan
    half = half_width(float(d.std(ddof=1)) / math.sqrt(len(d)), len(d) - 1) if len(d) > 1 else math.nan
    if lost:
        said += f"; {lost} of {found.seeds} pairs left out, a run diverged"
    if found.missing:
        said += f"; {found.missing} of {found.seeds} pairs left out, not measured"
    ends = (-math.inf if found.diverged[1] else mean - half, math.inf if found.diverged[0] else mean + half)
    same = len(d) > 0 and not d.any()
    said += "; no pair differs" * same
    if same or (margin is not None and any(found.diverged)):
        ends = (-math.inf, math.inf)
    facts = {"key": key, "subject": "study", "where": where, "n": len(d)}
    facts |= {"relation": "at most" if margin is None else "within", "resolution": margin or 0.0}
    return row(id, said, 0, mean, ends, **facts)  # type: ignore[arg-type]


def _key(*parts: object) -> str:
    """The parts as one key; a number is the α, and what is empty or NaN is left out."""
    said = [f"alpha={part:g}" if isinstance(part, float) else slug(str(part)) for part in parts if part == part]
    return ".".join(part for part in said if part)


def _label(measure: str, when: str, decoding: str) -> str:
    return f"{measure}, {when}" + (f", {decoding}" if decoding else "")


def _at(alpha: float) -> str:
    return "" if math.isnan(alpha) else f", α = {alpha:g}"
