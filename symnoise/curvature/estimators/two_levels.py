"""Two levels of precision: many probes with bfloat16 derivatives, and few with both to remove their bias.

With zᵀBz the quadratic form zᵀHz as computed with bfloat16 derivatives,

    tr H = E zᵀBz + E (zᵀHz − zᵀBz),   estimated by the mean of zᵀBz over K probes, plus that of the difference over
                                       M pairs: other probes, computed in both precisions

(multilevel Monte Carlo with two levels, Giles 2008, Operations Research 56(3)). The variance is V₀/K + V₁/M.

symbol   here
K, M     `coarse.….count`, `difference.….count`
V₀, V₁   K·`coarse.….stderr`², M·`difference.….stderr`²
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from symnoise.core import Estimate, InputError
from symnoise.curvature.estimators.sampler import Sampler, TraceParts, parts_of
from symnoise.models import EmbeddingLoss

TWO_LEVELS = "two-level"  # the method's name
COARSE = torch.bfloat16
# Time of a pair, both precisions together, over that of a probe with bfloat16 derivatives: 3.6 measured on SmolLM2. It
# is not measured on each machine, so that a seed gives the same probes on all; the best split changes with its root.
_COST = 3.6
# Pairs per probe without a pilot. With V₁ = V₀/1100, as on SmolLM2, they add 1.5 % to the variance.
SHARE = 1 / 16
# Pairs are measured in passes of 4 to 16, in four groups each.
_GROUPS, _PASS = 4, 16
# Numbers of the pairs' probes start here, beyond those of any others: the levels are independent.
_PAIRS_FROM = 2**30


@dataclass(frozen=True)
class TwoLevels:
    """Traces with bfloat16 derivatives, and what these lack; independent estimates of every example.

    coarse: the mean over K probes.  difference: float32 minus bfloat16, the mean over M pairs.
    """

    coarse: TraceParts
    difference: TraceParts

    @staticmethod
    def joined(parts: Sequence["TwoLevels"]) -> "TwoLevels":
        """Concatenate the results of parts of a batch (`TraceParts.joined`)."""
        return TwoLevels(*(TraceParts.joined([getattr(part, f.name) for part in parts]) for f in fields(TwoLevels)))

    def noting(self, **facts: Any) -> "TwoLevels":
        """A copy with some fields of each estimate replaced."""
        return TwoLevels(self.coarse.noting(**facts), self.difference.noting(**facts))

    def total(self) -> TraceParts:
        """Their sums: without bias, errors in quadrature, Satterthwaite's degrees of freedom; `count` is K."""
        pairs = ((getattr(level, f.name) for level in (self.coarse, self.difference)) for f in fields(TraceParts))
        return TraceParts(*(_sum(coarse, difference) for coarse, difference in pairs))

    def share(self, of: Callable[[TraceParts], Estimate]) -> float:
        """M/K of the least variance at a given cost, √(V₁/(cV₀)) with c the cost of a pair in probes; at most 1/2.

        V₀ and V₁ are summed over examples: those of their mean. of: selects the quantity.
        """
        levels = of(self.coarse), of(self.difference)
        V_0, V_1 = (float(level.stderr.square().sum()) * level.count for level in levels)
        return min(0.5, max(2**-10, math.sqrt(V_1 / (_COST * V_0)))) if V_0 > 0 else 0.5

    def expected(self, share: float) -> TraceParts:
        """`total` with the standard errors that these K probes and share·K pairs would have."""
        used = self.difference.hessian.count / (share * self.coarse.hessian.count)
        scaled = (getattr(self.difference, f.name) for f in fields(TraceParts))
        difference = TraceParts(*(replace(one, stderr=one.stderr * math.sqrt(used)) for one in scaled))
        return TwoLevels(self.coarse, difference).total()


def by_two_levels(sampler: Sampler, loss: EmbeddingLoss, first: int, count: int, share: float = SHARE) -> TwoLevels:
    """Both levels by collapsed Taylor mode: `count` probes from number `first` on, and `share` as many pairs.

    The number of pairs is rounded up to a multiple of 4, above 16 to one of 16. Raises `InputError` as
    `Sampler.by_taylor` does, and for a model coarser than float32.
    """
    _require_fine(loss)
    chunk, pairs = _pairs(share * count)
    start = _PAIRS_FROM + math.ceil(first / _PASS) * _PASS
    coarse = replace(sampler, coefficients=COARSE).by_taylor(loss, first, count)
    fine, rough = (
        replace(sampler, probes=chunk, coefficients=dtype).taylor_forms(loss, start, pairs) for dtype in (None, COARSE)
    )
    hessian, gauss_newton = (one - other for one, other in zip(fine, rough, strict=True))
    return TwoLevels(coarse, parts_of(hessian, gauss_newton, pairs))


def _pairs(wanted: float) -> tuple[int, int]:
    """Pairs in a pass, and in all."""
    chunk = min(_PASS, _GROUPS * max(1, math.ceil(wanted / _GROUPS)))
    return chunk, chunk * max(1, math.ceil(wanted / chunk))


def _sum(coarse: Estimate, difference: Estimate) -> Estimate:
    return (coarse + difference).noting(count=coarse.count, stopped=coarse.stopped)


def _require_fine(loss: EmbeddingLoss) -> None:
    """`InputError` for a model with weights coarser than float32."""
    limit = torch.finfo(torch.float32).eps
    for name, weight in loss.model.named_parameters():
        if weight.is_floating_point() and torch.finfo(weight.dtype).eps > limit:
            kind = str(weight.dtype).removeprefix("torch.")
            raise InputError(
                f"method='two-level' removes the bias of bfloat16 derivatives by float32 ones, and this model has "
                f"{kind} weights ({name}): load it in float32, or use method='taylor'"
            )
