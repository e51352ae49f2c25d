"""What is left of the quadratic term at the size of the noise, over many draws and examples: two numbers.

y = ½[ℓ(X+ε) + ℓ(X−ε)] − ℓ(X) is a pair's excess and x = ½εᵀHε its second order, for each draw and example.

attenuation slope  Σxy/Σx²   draws weigh by x²: how much of a *large* curvature is left at this σ
ratio of means     Σy/Σx     training averages y, signed: how much of the *mean* curvature is left, ΣC(σ)/Σtr H where
                             all examples have the same σ

They differ where the excess is no multiple of x, and neither stands for the other.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from scipy import stats
from torch import Tensor

from symnoise.core import jackknife_variance

Unit = Literal["draw", "example"]


@dataclass(frozen=True)
class Pooled:
    """A ratio of sums with its interval [low, high].

    −∞ to ∞ where the denominator may be 0 (`unbounded`), NaN where there are fewer than two of what is independent.

    stderr: of the value, to first order.
    dof:    degrees of freedom behind the interval.
    """

    value: float
    low: float
    high: float
    stderr: float
    dof: float

    @property
    def unbounded(self) -> bool:
        """Whether the denominator cannot be told from 0, so that no finite interval has the coverage."""
        return math.isinf(self.low) or math.isinf(self.high)


def attenuation_slope(
    y: Float[Tensor, "draw batch"], x: Float[Tensor, "draw batch"], unit: Unit, level: float = 0.95
) -> Pooled:
    """Σxy/Σx², least squares through 0, with an interval of coverage `level` by the delete-one jackknife.

    unit: what is independent. "example": whole examples are left out, however their draws hang together; the interval
          speaks of texts like these. "draw": draws are left out within each example; it speaks of these texts.

    The jackknife is wider than the residuals' spread where few draws of large x² decide (as HC3 is: MacKinnon and White
    1985).
    """
    above, below = _sums((x * y).double(), (x * x).double(), unit)
    value = float(above.sum() / below.sum())
    if len(above) < 2:
        return Pooled(value, math.nan, math.nan, math.nan, 0.0)
    parts = jackknife_variance((above.sum() - above) / (below.sum() - below))  # one for each stratum
    dof = _satterthwaite(parts, len(above))
    stderr = math.sqrt(float(parts.sum()))
    half = _t(level, dof) * stderr
    return Pooled(value, value - half, value + half, stderr, dof)


def ratio_of_means(
    y: Float[Tensor, "draw batch"], x: Float[Tensor, "draw batch"], unit: Unit, level: float = 0.95
) -> Pooled:
    """Σy/Σx with Fieller's interval: all r for which Σ(y − rx) is not told from 0 at `level`.

    Unlike value ± error it keeps its coverage where Σx, whose sign is open, is near 0; it is then unbounded, and
    −∞ to ∞ is returned also where the set is two half-lines. `unit` as in `attenuation_slope` (Fieller 1954).
    """
    above, below = _sums(y.double(), x.double(), unit)
    n = len(above)
    A, B = float(above.mean(0).sum()), float(below.mean(0).sum())
    if n < 2:
        return Pooled(A / B if B else math.nan, math.nan, math.nan, math.nan, 0.0)
    a, b = above - above.mean(0), below - below.mean(0)
    scale = n * (n - 1)
    v_aa, v_ab, v_bb = (float(v.sum()) / scale for v in (a * a, a * b, b * b))
    value = A / B if B else math.nan
    parts = (a - value * b).square().sum(0) / scale if B else b.square().sum(0) / scale
    dof = _satterthwaite(parts, n)
    stderr = math.sqrt(float(parts.sum())) / abs(B) if B else math.inf
    t2 = _t(level, dof) ** 2
    quadratic, linear, constant = B * B - t2 * v_bb, A * B - t2 * v_ab, A * A - t2 * v_aa
    if not quadratic > 0:
        return Pooled(value, -math.inf, math.inf, stderr, dof)
    root = math.sqrt(max(linear * linear - quadratic * constant, 0.0))
    return Pooled(value, (linear - root) / quadratic, (linear + root) / quadratic, stderr, dof)


def range_of_validity(alphas: Iterable[float], slopes: Iterable[float], margin: float = 0.1) -> float:
    """The α at which |slope − 1| first passes `margin`, linear between the rising `alphas`; NaN if it never does.

    |slope − 1| is taken to start at 0 for α = 0, where the slope is 1 by definition.
    """
    before, off = 0.0, 0.0
    for alpha, slope in zip(alphas, slopes, strict=True):
        now = abs(slope - 1)
        if now > margin:
            return float(before + (alpha - before) * (margin - off) / (now - off))
        before, off = alpha, now
    return math.nan


def _sums(above: Tensor, below: Tensor, unit: Unit) -> tuple[Float[Tensor, "n stratum"], Float[Tensor, "n stratum"]]:
    """Independent entries in strata: the draws of each example, or the examples' sums in a single stratum."""
    return (above.sum(0)[:, None], below.sum(0)[:, None]) if unit == "example" else (above, below)


def _satterthwaite(variances: Float[Tensor, " stratum"], n: int) -> float:
    """Degrees of freedom of a sum of variances, each with n − 1 (Satterthwaite 1946)."""
    total = float(variances.sum())
    return (n - 1) * total**2 / float(variances.square().sum()) if total > 0 else float((n - 1) * len(variances))


def _t(level: float, dof: float) -> float:
    return float(stats.t.ppf(0.5 + level / 2, dof))


__all__ = ["Pooled", "Unit", "attenuation_slope", "range_of_validity", "ratio_of_means"]
