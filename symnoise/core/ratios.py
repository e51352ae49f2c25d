"""Ratios of means, whose errors know that a denominator may be 0."""

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core.estimate import Estimate, student_t

LEVEL = 0.95


def fieller(
    means: tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]],
    covariances: tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]],
    t: float,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Fieller's interval of A/B: all r for which A − rB is within t of its standard errors of 0 (Fieller 1954).

    −∞ to ∞ where B is within t of its own of 0, even if the set is two half-lines.

    Args:
        means: A and B.
        covariances: Of these means: var A, cov(A, B), var B.
        t: Student's quantile.

    Returns:
        (low, high).
    """
    (A, B), (v_aa, v_ab, v_bb) = means, covariances
    quadratic, linear, constant = B * B - t**2 * v_bb, A * B - t**2 * v_ab, A * A - t**2 * v_aa
    root = (linear * linear - quadratic * constant).clamp(min=0).sqrt()
    bounded = quadratic > 0
    low = torch.where(bounded, (linear - root) / quadratic, -torch.inf)
    return low, torch.where(bounded, (linear + root) / quadratic, torch.inf)


def ratio_of_sums(above: Float[Tensor, "draw *shape"], below: Float[Tensor, "draw *shape"]) -> Estimate:
    """Ratio of sums over the draws, Σ above/Σ below.

    The standard error is the one for which value ± t·stderr just holds Fieller's 95 % interval; ∞ where Σ below may be
    0, and NaN for one draw. Where Σ below is known well that is the delta method's, and the jackknife's.
    """
    n, value = len(above), above.sum(0) / below.sum(0)
    if n == 1:
        return Estimate(value, torch.full_like(value, torch.nan), count=1, dof=0.0, method="ratio")
    t = student_t(LEVEL, n - 1)
    a, b, scale = above - above.mean(0), below - below.mean(0), n * (n - 1)
    covariances = (a * a).sum(0) / scale, (a * b).sum(0) / scale, (b * b).sum(0) / scale
    low, high = fieller((above.mean(0), below.mean(0)), covariances, t)
    return Estimate(value, torch.maximum(high - value, value - low) / t, count=n, dof=n - 1.0, method="ratio")
