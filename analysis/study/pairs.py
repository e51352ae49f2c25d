"""Statistics of paired differences: d_i = outcome of one arm − outcome of another, both of seed i.

The seeds are the sample: rows, their order and the initial weights are equal within a pair.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats

from symnoise.core import generator, student_t

RESAMPLES = 10_000  # a 95 % interval of 6 pairs has its ends at the 24th smallest and largest of them
EXACT = 14  # pairs up to which all 2ⁿ signs are tried (16,384)


@dataclass(frozen=True)
class Interval:
    """mean of the differences, [low, high] (NaN if there is none), and its method: "bootstrap", "Student" or
    "none"."""

    mean: float
    low: float
    high: float
    method: str


def interval(differences: NDArray[np.float64], level: float, *key: str | float) -> Interval:
    """Confidence interval of the mean of the differences, of coverage `level`.

    Expanded percentile bootstrap: the quantiles Φ(∓√(n/(n − 1)) t_{n−1}) of the means of resamples, so that for
    near-normal differences it is as wide as Student's; without it 10 pairs would cover 90 % and not 95 %
    (Hesterberg, What teachers should know about the bootstrap, The American Statistician 69, 2015).
    Resampled means stay between the smallest and the largest difference, which cover at most 1 − 2^{1−n}; if that is
    below `level` the interval is Student's, which needs normal differences. Fewer than two pairs give none.

    key: names the random stream of the resamples; equal keys give equal intervals.
    """
    n = len(differences)
    mean = float(np.mean(differences)) if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, "none")
    t = student_t(level, n - 1)
    if 2.0 ** (1 - n) > 1 - level:
        half = t * float(np.std(differences, ddof=1)) / math.sqrt(n)
        return Interval(mean, mean - half, mean + half, "Student")
    draws = torch.randint(n, (RESAMPLES, n), generator=generator(0, "bootstrap", *map(str, key))).numpy()
    tail = float(stats.norm.cdf(-math.sqrt(n / (n - 1)) * t))
    low, high = np.quantile(differences[draws].mean(axis=1), [tail, 1 - tail])
    return Interval(mean, float(low), float(high), "bootstrap")


def student(values: NDArray[np.float64], level: float) -> dict[str, float]:
    """mean, its stderr, low and high, Student's interval of coverage `level`, and p, two-sided, of a mean of 0."""
    n = len(values)
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(n)
    half = student_t(level, n - 1) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error else math.nan
    return {"mean": mean, "stderr": error, "low": mean - half, "high": mean + half, "p": p}


def sign_flip(differences: NDArray[np.float64], *key: str | float) -> float:
    """p of the two-sided sign-flip permutation test: under the null each difference is as likely as its negative.

    The share of sign patterns whose |mean| reaches the observed one: all 2ⁿ up to n = 14, beyond that 10⁴ drawn ones,
    the observed pattern counted among them so that the test keeps its size (Phipson and Smyth 2010). The smallest
    possible p is 2^{1−n}. NaN without differences.
    """
    # Not scipy.stats.permutation_test: its tolerance is relative to the observed sum, so that differences which add up
    # to 0 but for rounding miss their ties (p 0.970 for 1.000, 14 rounded differences), and it takes 60 times as long.
    n = len(differences)
    if n == 0:
        return math.nan
    observed = abs(differences.sum())
    if n <= EXACT:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        drawn = torch.randint(2, (RESAMPLES, n), generator=generator(0, "signs", *map(str, key))).numpy()
        signs = np.vstack([np.ones(n, int), 1 - 2 * drawn])
    rounding = 1e-12 * np.abs(differences).sum()  # sums of the same numbers in another order are ties
    return float(np.mean(np.abs(signs @ differences) >= observed - rounding))


def least_p(pairs: int) -> float:
    """The smallest p that `sign_flip` and `sign_test` can give for this many pairs: 2^{1−n}, or one over the number of
    drawn patterns and the observed one. A p at this floor says that all pairs agree, not how clearly."""
    return max(2.0 ** (1 - pairs), 1 / (RESAMPLES + 1) if pairs > EXACT else 0.0) if pairs else math.nan


@lru_cache  # of two counts, which many contrasts share
def sign_test(better: int, worse: int) -> float:
    """p of the two-sided binomial sign test; ties are left out. A diverged run counts: it is worse."""
    return float(stats.binomtest(better, better + worse).pvalue) if better + worse else math.nan


def holm(p: Sequence[float], family: int = 0) -> NDArray[np.float64]:
    """Holm's adjusted p-values: max_{j≤i} (m − j + 1) p_(j), at most 1; NaN stays NaN.

    m is the number of p-values, or `family` where that is more: tests not yet made count as if they had the largest p.
    Rejecting if one is ≤ α keeps the chance of any false rejection in the family at α (Holm 1979).
    """
    values = np.array(p, dtype=float)
    order = np.argsort(values)[: np.count_nonzero(~np.isnan(values))]  # NaN comes last
    scaled = values[order] * (max(len(order), family) - np.arange(len(order)))
    values[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return values


def power(effect: float, sd: float, pairs: int, level: float = 0.95) -> float:
    """Power of the two-sided paired t test for a mean difference `effect`, if differences have standard deviation `sd`.

    From the noncentral t law with n − 1 degrees of freedom and noncentrality √n·effect/sd.
    """
    critical, shift = student_t(level, pairs - 1), math.sqrt(pairs) * abs(effect) / sd
    # The far tail is at most Φ(−shift), 1e-9 from here on; scipy gives NaN for some of it beyond 7, and so does
    # statsmodels' TTestPower, which agrees with this wherever it has a number.
    far = stats.nct.cdf(-critical, pairs - 1, shift) if shift < 6 else 0.0
    return float(stats.nct.sf(critical, pairs - 1, shift) + far)


def pairs_needed(effect: float, sd: float, wanted: float = 0.8, level: float = 0.95) -> int:
    """The fewest pairs, at least 2, with `power` ≥ wanted."""
    if not (effect and sd > 0 and math.isfinite(effect) and math.isfinite(sd)):
        raise ValueError(f"an effect other than 0 and a positive sd are needed, got {effect} and {sd}")
    high = 2
    while power(effect, sd, high, level) < wanted:
        high *= 2
    low = max(high // 2, 2)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, sd, middle, level) >= wanted else (middle + 1, high)
    return low


def detectable(sd: float, pairs: int, wanted: float = 0.8, level: float = 0.95) -> float:
    """The smallest effect that this many pairs detect with power `wanted`; NaN for under two pairs or no spread."""
    return sd * _detectable(pairs, wanted, level) if pairs > 1 and sd > 0 else math.nan


@lru_cache
def _detectable(pairs: int, wanted: float, level: float) -> float:
    """In standard deviations."""
    top = 1.0
    while power(top, 1.0, pairs, level) < wanted:
        top *= 2
    return float(optimize.brentq(lambda effect: power(effect, 1.0, pairs, level) - wanted, 1e-9, top))
