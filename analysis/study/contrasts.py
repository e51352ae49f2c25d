"""Contrasts between arms: which pairs, and their paired differences."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.study.data import StudyTables, measurements
from analysis.study.pairs import detectable, holm, interval, least_p, pairs_needed, sign_flip, sign_test
from result_schema.measures import improvement
from result_schema.study import PLAIN

LEVEL = 0.95  # of the table's intervals and its families of tests; the ledger has its own
# The paper's ordering, and SymNoise compared at equal cost: two independent draws, and half the rows.
MAIN = (
    ("uniform", "none"),
    ("symnoise", "uniform"),
    ("symnoise", "independent-pair"),
    ("symnoise", "symnoise-half-batch"),
    ("symnoise-half-batch", "uniform"),
)
LAWS = (("gaussian", "uniform"), ("rademacher", "uniform"), ("rademacher", "gaussian"))
CONTROLS = (
    ("none-double-batch", "none"),
    ("symnoise", "none"),
    ("rademacher", "none"),
    ("symnoise", "none-double-batch"),
    ("symnoise", "rademacher"),
    ("dials-1-1", "none"),  # both parts of a ±1 draw, each at weight 1: one draw in law
    ("symnoise", "dials-1-1"),
    ("symnoise", "uniform-pair"),
    ("symnoise", "gaussian-pair"),
    ("gaussian-raw", "gaussian"),
    ("penalty", "none"),
    ("symnoise", "penalty"),
    ("symnoise", "r3f"),
    ("symnoise", "weight-pair"),
    ("r3f", "none"),
    ("weight-pair", "none"),
)
FAMILIES = {"main": MAIN, "laws": LAWS, "controls": CONTROLS}


@dataclass(frozen=True)
class Pairs:
    """differences: first − second of each seed with a value in both.  ordered: the same with ±∞ if one diverged and
    0 if both did.  diverged: runs of the first and of the second arm, of `seeds` seeds run in both.
    missing: pairs of finished runs without a value."""

    differences: NDArray[np.float64]
    ordered: NDArray[np.float64]
    diverged: tuple[int, int]
    seeds: int
    missing: int


@dataclass(frozen=True)
class ArmRuns:
    """The runs of an arm at one α: their names and seeds, and whether they diverged."""

    runs: tuple[Any, ...] = ()
    seeds: tuple[int, ...] = ()
    diverged: tuple[bool, ...] = ()


Arms = Mapping[str, Mapping[float, ArmRuns]]  # by name and α, which is NaN for an arm without one
Values = Mapping[Any, float]  # by run


def arms_of(runs: pd.DataFrame) -> Arms:
    """The arms of the runs of one model and data set."""
    found: dict[str, dict[float, ArmRuns]] = {}
    for _, own in runs.groupby(["arm", "alpha"], sort=False, dropna=False):
        arm = ArmRuns(tuple(own.run), tuple(own.seed), tuple(own.status == "diverged"))
        found.setdefault(own.arm.iloc[0], {})[own.alpha.iloc[0]] = arm
    return found


def pair_up(arms: Arms, values: Values, first: str, second: str, alpha: float, worse: float = 1.0) -> Pairs:
    """The runs of two arms at one α, paired by seed.

    worse: 1 if +∞ is worst, −1 if −∞ is: the place of a diverged run in `ordered`.
    """
    one, two = (_side(arms, values, arm, alpha) for arm in (first, second))
    shared, *places = np.intersect1d(one[0], two[0], return_indices=True)
    lost = [side[1][place] for side, place in zip((one, two), places, strict=True)]
    one_value, two_value = one[2][places[0]], two[2][places[1]]
    kept = ~lost[0] & ~lost[1]
    known = kept & np.isfinite(one_value) & np.isfinite(two_value)
    difference = one_value[known] - two_value[known]
    ends = worse * np.inf * np.ones(int((lost[0] ^ lost[1]).sum()))
    ends[lost[1][lost[0] ^ lost[1]]] *= -1
    ordered = np.concatenate([difference, ends, np.zeros(int((lost[0] & lost[1]).sum()))])
    missing = int((kept & ~known).sum())
    return Pairs(difference, ordered, (int(lost[0].sum()), int(lost[1].sum())), len(shared), missing)


def _side(arms: Arms, values: Values, arm: str, alpha: float) -> tuple[NDArray[Any], ...]:
    """Seed, whether the run diverged, and value, of each run of the arm; an arm without α has the same at each."""
    at = arms.get(arm, {})
    own = next(iter(at.values()), ArmRuns()) if arm in PLAIN else at.get(alpha, ArmRuns())
    found = np.array([values.get(run, np.nan) for run in own.runs], float)
    return np.array(own.seeds, int), np.array(own.diverged, bool), found


def by_seed(arms: Arms, values: Values, arm: str, alpha: float) -> pd.Series:
    """The finite values of an arm's finished runs at one α, by seed."""
    seed, diverged, value = _side(arms, values, arm, alpha)
    known = ~diverged & np.isfinite(value)
    return pd.Series(value[known], index=seed[known], dtype=float)


def contrasts(study: StudyTables) -> pd.DataFrame:
    """Every contrast of every measure, one row each.

    low, high: 95 % interval of the mean difference, by `method`.  p: sign-flip test of the mean, or, if a run
    diverged, which a mean cannot count, of the sign test; floor: the smallest p that this many pairs can give.
    better, worse, sign_p: seeds in which the first arm is better or worse (lower or higher, if neither is better);
    a diverged run is worst.
    detectable: the difference detected with 80 % power.
    primary: whether the study file named this contrast and outcome before the runs. holm: p adjusted over all that it
    names, also those not yet run.
    verdict: of primary rows, "better" or "worse" (for a measure without a better: "lower", "higher") if holm ≤ 5 %,
    else "no significant difference", or "too few seeds" if no outcome could have been significant. All others are
    "exploratory": their p-values are not corrected for multiple tests.
    """
    measured = measurements(study)
    found = []
    for setting, runs in study.runs.groupby("setting", sort=False):
        own, arms = measured[measured.run.isin(runs.run)], arms_of(runs)
        rows: list[dict[str, Any]] = []
        for (measure, when, decoding), part in own.groupby(["measure", "when", "decoding"]):
            values = part.set_index("run").value.to_dict()
            key = {"setting": setting, "measure": measure, "when": when, "decoding": decoding}
            for family, pairs in _families(study).items():
                rows += [{**row, "family": family} for row in _family(arms, values, pairs, key)]
        if rows:
            found.append(_tested(pd.DataFrame(rows), study))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _families(study: StudyTables) -> dict[str, tuple[tuple[str, str], ...]]:
    """`FAMILIES`, and other contrasts that the study file names."""
    known = {pair for pairs in FAMILIES.values() for pair in pairs}
    return FAMILIES | {"named": tuple(pair for pair in study.primary.contrasts if pair not in known)}


def each(
    arms: Arms, values: Values, compared: tuple[tuple[str, str], ...], worse: float = 1.0
) -> Iterator[tuple[str, str, float, Pairs]]:
    """first, second, α and the pairs of each contrast that was measured."""
    for first, second in compared:
        for alpha in alphas(arms, first, second):
            found = pair_up(arms, values, first, second, alpha, worse)
            if found.seeds > found.missing:
                yield first, second, alpha, found


def alphas(arms: Arms, first: str, second: str) -> list[float]:
    """The α at which both arms were run; NaN where neither has one."""
    if not {first, second} <= arms.keys():
        return []
    at = [set(arms[arm]) for arm in (first, second) if arm not in PLAIN]
    return sorted(set.intersection(*at)) if at else [float("nan")]


def _family(
    arms: Arms, values: Values, pairs: tuple[tuple[str, str], ...], key: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    worse = 1.0 if improvement(str(key["measure"])) <= 0 else -1.0
    for first, second, alpha, found in each(arms, values, pairs, worse):
        d, name = found.differences, (*map(str, key.values()), first, second, f"{alpha:g}")
        made = interval(d, LEVEL, *name)
        sd = float(np.std(d, ddof=1)) if len(d) > 1 else float("nan")
        better, lost = int((worse * found.ordered < 0).sum()), int((worse * found.ordered > 0).sum())
        yield {
            **key,
            "first": first,
            "second": second,
            "alpha": alpha,
            "pairs": len(d),
            "diverged_first": found.diverged[0],
            "diverged_second": found.diverged[1],
            "missing": found.missing,
            "mean": made.mean,
            "low": made.low,
            "high": made.high,
            "method": made.method,
            "sd": sd,
            "better": better,
            "worse": lost,
            "sign_p": sign_test(better, lost),
            "p": sign_test(better, lost) if any(found.diverged) else sign_flip(d, *name),
            "floor": least_p(better + lost if any(found.diverged) else len(d)),
            "detectable": detectable(sd, len(d)),
        }


def _tested(table: pd.DataFrame, study: StudyTables) -> pd.DataFrame:
    """With Holm's correction over the primary rows of a setting, and the verdicts that it gives: by the sign of the
    mean, or by the seeds in which the first arm is better where the sign test decides."""
    primary = np.array([_is_primary(row, study) for row in table.to_dict("records")])
    adjusted = np.full(len(table), np.nan)
    adjusted[primary] = holm(table.p[primary].tolist(), study.primary.endpoints)
    attainable = np.minimum(study.primary.endpoints * table.floor, 1)
    signs = table.measure.map(improvement)
    by_mean = np.where(signs > 0, table["mean"] > 0, table["mean"] < 0)
    ahead = np.where(table.diverged_first + table.diverged_second > 0, table.better > table.worse, by_mean)
    told = np.where(signs == 0, np.where(ahead, "lower", "higher"), np.where(ahead, "better", "worse"))
    none = np.where(attainable > 1 - LEVEL, "too few seeds", "no significant difference")
    verdicts = np.where(primary, np.where(adjusted <= 1 - LEVEL, told, none), "exploratory")
    return table.assign(primary=primary, holm=adjusted, verdict=verdicts)


def _is_primary(row: dict[Any, Any], study: StudyTables) -> bool:
    """At the end, at the study's own α, and for replies with greedy decoding."""
    own_alpha = row["alpha"] != row["alpha"] or row["alpha"] == study.facts["alpha"]
    named = (row["first"], row["second"]) in study.primary.contrasts and row["measure"] in study.primary.outcomes
    return named and own_alpha and row["when"] == "end" and row["decoding"] in ("", "greedy")


def plan(table: pd.DataFrame, study: StudyTables) -> pd.DataFrame:
    """Seeds needed to detect each primary outcome's stated difference with 80 % power, by a two-sided paired t test at
    5 % over the number of endpoints (Holm's first step), from the standard deviation of this study's pairs: for the
    next study, or for this one from its pilot. At least as many as a permutation test needs to be significant there.

    A study without primary endpoints gets the detectable differences of its held-out loss alone."""
    wanted = ["setting", "measure", "first", "second", "alpha", "pairs", "mean", "sd", "detectable"]
    if table.empty:
        return pd.DataFrame(columns=wanted)
    effects = study.primary.outcomes
    if not effects:
        return table[(table.measure == "held-out loss") & (table.when == "end")][wanted].reset_index(drop=True)
    part = table[table.primary][wanted].reset_index(drop=True)
    effect = part.measure.map(effects)
    chance = (1 - LEVEL) / study.primary.endpoints
    least = next(n for n in range(2, 64) if least_p(n) <= chance)
    needed = [
        max(pairs_needed(e, sd, level=1 - chance), least) if sd > 0 else float("nan")
        for e, sd in zip(effect, part.sd, strict=True)
    ]
    return part.assign(effect=effect, seeds_needed=needed)
