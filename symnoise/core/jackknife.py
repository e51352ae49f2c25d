"""Delete-one jackknife: standard errors of statistics other than means, such as ratios."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from symnoise.core.estimate import Estimate


def jackknife_variance(without: Float[Tensor, "n *shape"]) -> Float[Tensor, "*shape"]:
    """Jackknife variance (n − 1)/n · Σ_j (θ₍₋ⱼ₎ − mean)², where θ₍₋ⱼ₎ is the statistic without unit j of n.

    The squared standard error of θ, with n − 1 degrees of freedom; on average too large (Efron and Stein 1981).
    """
    n = len(without)
    return (n - 1) / n * (without - without.mean(0)).square().sum(0)


def without_each(
    statistic: Callable[[Int[Tensor, " some"]], Float[Tensor, "*shape"]], count: int
) -> Float[Tensor, "n *shape"]:
    """`statistic(indices)` of `count` units, leaving out each unit in turn."""
    every = torch.arange(count)
    return torch.stack([statistic(every[every != j]) for j in range(count)])


def jackknife(statistic: Callable[[Int[Tensor, " some"]], Float[Tensor, "*shape"]], count: int) -> Estimate:
    """Jackknife estimate of `statistic(indices)` of n units, its bias of order 1/n removed: nθ − (n − 1) mean θ₍₋ⱼ₎."""
    without = without_each(statistic, count)
    value = (count * statistic(torch.arange(count)) - (count - 1) * without).mean(0)
    return Estimate(value, jackknife_variance(without).sqrt(), count=count, dof=count - 1.0, method="jackknife")
