"""How an outcome correlates with curvature across the runs of one model and data set (O2).

Runs of one arm are not independent of each other: two arms that differ in curvature and in outcome give as many
concordant runs as there are seeds and α, whatever the reason for either difference. The unit of `between_settings` is
therefore the arm, and the unit of `within_settings` the seed. Neither resamples.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from symnoise.core import student_t

Values = NDArray[np.float64]
EDGE = 1 - 1e-6  # atanh is infinite at ±1
LEAST_SEEDS = 5  # of a correlation within settings: with 4 its 95 % intervals cover 91 %, with 3 they cover 76 %
STEP = 1e-4  # of a seed's weight, for a derivative by central differences


@dataclass(frozen=True)
class Association:
    """A correlation, with the standard error of its atanh and the degrees of freedom behind it.

    units: how many independent units there are: arms, or seeds.  runs: how many runs went in.
    note:  why there is no interval, "" where there is one.
    """

    value: float
    stderr: float
    dof: float
    units: int
    runs: int
    note: str = ""

    def interval(self, level: float) -> tuple[float, float]:
        """tanh(atanh ρ ± t·stderr), by Student's t; NaN where there is no interval."""
        if not (self.stderr > 0 and self.dof > 0):
            return math.nan, math.nan
        half = student_t(level, self.dof) * self.stderr
        return math.tanh(_atanh(self.value) - half), math.tanh(_atanh(self.value) + half)


def between_settings(frame: pd.DataFrame, given: str = "") -> Association:
    """Rank correlation over arms of the mean curvature and quality of their settings at the same α; partial, given a
    third column, where one is named.

    frame: setting, arm, alpha, seed, curvature, quality (and `given`), one row per run. Each seed's mean is
    subtracted first, so that settings with different seeds remain comparable. Curvature and quality both change with α:
    ranks are taken within each α (arms without noise are a group of their own), so that α by itself creates no
    correlation, and averaged over an arm's α, since what it does at one it does at the next. A setting with a diverged
    run (quality −∞) has the last rank.
    The standard error of atanh ρ is √((1 + ρ²/2)/(K − A − 2 − g)) for K arms and g given columns, with A = 2 where arms
    without noise are among them, else 1 (after Bonett and Wright, Psychometrika 65, 2000, where A = 1); degrees of
    freedom K − A − 1 − g. Arms with nearly the same noise are not independent, which this ignores: read it together
    with `within_settings`.
    """
    columns = ["curvature", "quality", *([given] if given else [])]
    settings = frame.groupby("setting")[["arm", "alpha"]].first()
    groups = settings.alpha.fillna(0.0)
    ranks = _setting_means(frame, columns).groupby(groups).rank()
    several = groups.groupby(groups).transform("size") > 1  # an α with one setting carries no information
    ranks = (ranks - ranks.groupby(groups).transform("mean"))[several].groupby(settings.arm).mean()
    plain = (groups[several] == 0).groupby(settings.arm).first()
    ranks -= ranks.groupby(plain).transform("mean")
    count, conditions = len(ranks), len(columns) - 2
    free = count - plain.nunique() - conditions
    if free < 4:
        return Association(math.nan, math.nan, math.nan, count, len(frame), "too few arms at the same α")
    rho = float(_partial(*ranks.to_numpy().T))
    if math.isnan(rho):
        return Association(rho, math.nan, math.nan, count, len(frame), "no spread")
    if abs(rho) > EDGE:  # atanh has no standard error there, and few arms are often in a perfect order
        return Association(rho, math.nan, math.nan, count, len(frame), "a perfect order has no interval")
    return Association(rho, math.sqrt((1 + rho**2 / 2) / (free - 2)), free - 1, count, len(frame))


def within_settings(frame: pd.DataFrame, given: str = "") -> Association:
    """The correlation of curvature and quality over the seeds of a setting, pooled over settings: among runs
    with the same noise, are those with lower curvature better?

    Ranks are taken over the seeds of each setting, and the seed's mean rank over settings is subtracted, so neither a
    setting nor a seed by itself creates a correlation. Seeds missing from a setting (a diverged run) are left out.
    The standard error of atanh ρ is that of the infinitesimal jackknife over S seeds (Efron 1982): S/(S − 1)·√Σ(u − ū)²
    with u the derivative of atanh ρ by a seed's weight, 1, in ranks, means and products alike; one factor √(S/(S − 1))
    is that of a mean, one is for a seed's share in what it is held against (as in HC3); degrees of freedom S − 1.
    Leaving seeds out, as the plain jackknife does, makes new ranks of fewer seeds: its 95 % intervals cover 98 % with 8
    seeds, and with 4 only 84 %.
    """
    columns = ["curvature", "quality", *([given] if given else [])]
    known = frame[np.isfinite(frame[columns]).all(axis=1)]
    wide = known.pivot(index="seed", columns="setting", values=columns).dropna()
    seeds, settings = len(wide), wide.shape[1] // len(columns)
    runs = seeds * settings
    if seeds < LEAST_SEEDS or settings < 2:
        return Association(math.nan, math.nan, math.nan, seeds, runs, f"fewer than {LEAST_SEEDS} seeds or two settings")
    values = [wide[column].to_numpy(float) for column in columns]
    one, more = np.ones((1, seeds)), STEP * np.eye(seeds)
    rho, *moved = _two_way(values, np.concatenate([one, one + more, one - more]))
    if not np.isfinite([rho, *moved]).all():
        return Association(rho, math.nan, math.nan, seeds, runs, "no spread")
    above, below = np.arctanh(np.clip(moved, -EDGE, EDGE)).reshape(2, seeds)
    influence = (above - below) / (2 * STEP)
    stderr = seeds / (seeds - 1) * math.sqrt(float(np.square(influence - influence.mean()).sum()))
    return Association(float(rho), stderr, seeds - 1, seeds, runs, "" if stderr > 0 else "no spread over the seeds")


def _setting_means(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Means over the seeds of each setting, after subtracting each seed's mean over its runs."""
    finite = frame[columns].where(np.isfinite(frame[columns]))
    centred = frame[columns] - finite.groupby(frame.seed).transform("mean")
    return centred.groupby(frame.setting).mean()


def _two_way(tables: list[Values], weights: Values) -> Values:
    """Partial correlations of the ranks within settings (columns) minus their means over settings in each seed (row).

    weights: (case, seed); a seed of weight w counts like w seeds of these values. One correlation for each case.
    """
    root, scaled = np.sqrt(weights)[:, :, None], []
    for table in tables:
        order = np.sign(table[None, :, :] - table[:, None, :])  # (other seed, seed, setting)
        ranks = np.einsum("co,osk->csk", weights, order) / 2  # but for a constant; equal values share one
        scaled.append((root * (ranks - ranks.mean(axis=-1, keepdims=True))).reshape(len(weights), -1))
    return _partial(*scaled)


def _partial(x: Values, y: Values, given: Values | None = None) -> Values:
    """Pearson's correlation of x and y, of mean 0 over the last axis, given a third if there is one; NaN if one has no
    spread of its own."""
    r = _pearson(x, y)
    if given is None:
        return r
    a, b = _pearson(x, given), _pearson(y, given)
    spread = (1 - a * a) * (1 - b * b)
    return np.where(spread > 1e-12, (r - a * b) / np.sqrt(np.maximum(spread, 1e-12)), math.nan)


def _pearson(x: Values, y: Values) -> Values:
    size = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return np.where(size > 0, (x * y).sum(axis=-1) / np.where(size > 0, size, 1), math.nan)


def _atanh(r: float) -> float:
    return math.atanh(min(max(r, -EDGE), EDGE))
