"""How an outcome goes with curvature across the runs of one model and data set (O2); runs of one seed are not
independent."""

import math
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from symnoise.core import generator

Values = NDArray[np.float64]
RESAMPLES = 2_000  # they give a standard error only, to 2 %


@dataclass(frozen=True)
class Association:
    """value, with its standard error on the scale of the interval and its degrees of freedom; a method of its own makes
    the interval of any level.  runs, seeds: how many.  note: why there is no interval, "" where there is one."""

    value: float
    stderr: float
    dof: float
    runs: int
    seeds: int
    note: str = ""
    fisher: bool = False

    def interval(self, level: float) -> tuple[float, float]:
        """Student's interval; on Fisher's scale, atanh ρ, for a correlation."""
        if not (self.stderr > 0 and self.dof > 0):
            return math.nan, math.nan
        half = float(stats.t.ppf(0.5 + level / 2, self.dof)) * self.stderr
        if self.fisher:
            return math.tanh(_atanh(self.value) - half), math.tanh(_atanh(self.value) + half)
        return self.value - half, self.value + half


def rank_correlation(x: pd.Series, y: pd.Series, seed: pd.Series, *key: str) -> Association:
    """Spearman's ρ of x and y over runs, its standard error from a bootstrap that resamples whole seeds.

    The arms are as they are and the seeds the sample: the interval speaks of other seeds of these arms. The standard
    error is that of atanh ρ times √(k/(k − 1)) for k seeds, which a bootstrap of k lacks. An infinite value, the
    outcome of a diverged run, has the last rank. Without two seeds or three runs there is no interval.
    """
    a, b, own = x.to_numpy(float), y.to_numpy(float), seed.to_numpy()
    rho = float(_spearman(a, b, np.ones((1, len(a))))[0])
    seeds, member = np.unique(own, return_inverse=True)
    k = len(seeds)
    if k < 2 or len(a) < 3 or math.isnan(rho):
        note = "one seed gives no interval" if k < 2 else "no spread" if len(a) >= 3 else "fewer than three runs"
        return Association(rho, math.nan, math.nan, len(a), k, note, fisher=True)
    draws = torch.randint(k, (RESAMPLES, k), generator=generator(0, "clusters", *key)).numpy()
    times = np.stack([(draws == i).sum(axis=1) for i in range(k)], axis=1)  # how often each seed was drawn
    found = _spearman(a, b, times[:, member].astype(float))
    found = found[~np.isnan(found)]
    limit = 1 - 1e-6  # atanh is infinite at ±1
    stderr = float(np.std(np.arctanh(np.clip(found, -limit, limit)), ddof=1)) * math.sqrt(k / (k - 1))
    note = "" if stderr > 0 else "every resample gives the same correlation"
    return Association(rho, stderr, k - 1, len(a), k, note, fisher=True)


def _spearman(x: Values, y: Values, weights: Values) -> Values:
    """ρ of samples in which run i stands weights[s, i] times, one for each s; NaN where one side has no spread."""
    ranks = []
    for side in (x, y):
        _, place = np.unique(side, return_inverse=True)
        order = np.argsort(place, kind="stable")
        starts = np.searchsorted(place[order], np.arange(place.max() + 1))
        tied = np.add.reduceat(weights[:, order], starts, axis=1)
        middle = np.cumsum(tied, axis=1) - tied / 2  # the mean rank of the tied, less ½ for all
        ranks.append(middle[:, place] - weights.sum(axis=1, keepdims=True) / 2)  # mean rank 0
    a, b = ranks
    size = np.sqrt((weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1))
    with np.errstate(invalid="ignore"):
        return np.where(size > 0, (weights * a * b).sum(axis=1) / size, np.nan)


def _atanh(r: float) -> float:
    return math.atanh(min(max(r, -1 + 1e-6), 1 - 1e-6))


def mixed_model(x: pd.Series, y: pd.Series, seed: pd.Series, within: pd.Series | None = None) -> Association:
    """Slope b of y_ij = a + b x_ij + u_i + e_ij over runs j of seed i, u_i and e_ij normal: standard deviations of y
    for one of x, both over all runs.

    within: groups of runs that have an intercept each in the place of the common a, so that b speaks of runs of the
    same group alone. Fitted by REML (statsmodels MixedLM; Pinheiro and Bates, Mixed-Effects Models in S and S-PLUS,
    2000); degrees of freedom runs − seeds − groups. No interval, and a note, where the model is not identified or the
    fit does not converge.
    """
    from statsmodels.regression.mixed_linear_model import MixedLM

    keep = np.isfinite(x) & np.isfinite(y)
    x, y, seed = x[keep], y[keep], seed[keep]
    group = np.zeros(len(x), int) if within is None else np.unique(within[keep], return_inverse=True)[1]
    intercepts = np.eye(int(group.max(initial=0)) + 1)[group]
    runs, seeds = len(x), int(seed.nunique())
    dof = runs - seeds - intercepts.shape[1]
    if seeds < 2 or dof < 1 or not (x.std() > 0 and y.std() > 0):
        return Association(math.nan, math.nan, math.nan, runs, seeds, "too few seeds, too few runs, or no spread")
    scaled = ((x - x.mean()) / x.std()).to_numpy(), ((y - y.mean()) / y.std()).to_numpy()
    design = np.column_stack([intercepts, scaled[0]])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a seed variance of 0, at the edge, is an answer: the seeds are alike
            fit = MixedLM(scaled[1], design, groups=seed.to_numpy()).fit(reml=True)
            slope, stderr, converged = float(fit.fe_params[-1]), float(fit.bse_fe[-1]), bool(fit.converged)
    except np.linalg.LinAlgError:
        slope, stderr, converged = math.nan, math.nan, False
    if not (converged and math.isfinite(stderr)):
        return Association(slope, math.nan, math.nan, runs, seeds, "the fit did not converge")
    return Association(slope, stderr, float(dof), runs, seeds)
