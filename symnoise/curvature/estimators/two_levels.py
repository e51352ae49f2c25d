"""Two levels of precision: most probes with bfloat16 derivatives, and a few with both to remove the bias.

With zᵀBz the quadratic form zᵀHz as computed with bfloat16 derivatives,

    tr H = E zᵀBz + E (zᵀHz − zᵀBz)

(multilevel Monte Carlo with two levels, Giles 2008, Operations Research 56(3)). The first mean is over all probes, the
second over M pairs: probes measured in both precisions. With K other probes and w = K/(K + M), that sum is

    w · mean of zᵀBz over the K others + mean of zᵀHz − w zᵀBz over the M pairs,

two independent means. The variance is V₀/(K + M) + V₁/M, but for the covariance of zᵀBz and the difference, which the
spread of the second mean's terms includes.

symbol   here
K, M     `others`, `pairs`
V₀, V₁   variances of zᵀBz and of zᵀHz − zᵀBz
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Estimate, InputError
from symnoise.curvature.estimators.sampler import Sampler, TraceParts, parts_of
from symnoise.curvature.taylor.engine import parts_of_a_sum
from symnoise.models import EmbeddingLoss

TWO_LEVELS = "two-level"  # the method's name
COARSE = torch.bfloat16
# Time of a pair, both precisions together, over that of a probe with bfloat16 derivatives: 3.6 measured on SmolLM2. It
# is not measured on each machine, so that a seed gives the same probes on all; the best share changes with its root.
_COST = 3.6
# Pairs per other probe without a pilot. With V₁ = V₀/1100, as on SmolLM2, V₁/M adds 1.5 % to the variance.
SHARE = 1 / 16
# Pairs are measured in passes of four groups, so that their error has 3 degrees of freedom or more.
_GROUPS = 4
# Numbers of the pairs' probes start here, beyond those of all others.
_PAIRS_FROM = 2**30

Both = Float[Tensor, "2 draw batch"]  # zᵀHz and zᵀGz, means over groups of probes


@dataclass(frozen=True)
class TwoLevels:
    """Quadratic forms of every example in two precisions.

    coarse: in bfloat16, of `others` probes.  rough, fine: in bfloat16 and in the model's own, of the same `pairs`
    probes. Each (2, group, batch): zᵀHz and zᵀGz, the means over equal groups of probes.
    """

    coarse: Float[Tensor, "2 others batch"]
    rough: Float[Tensor, "2 paired batch"]
    fine: Float[Tensor, "2 paired batch"]
    others: int
    pairs: int

    @staticmethod
    def joined(parts: Sequence["TwoLevels"]) -> "TwoLevels":
        """Concatenate the forms of parts of a batch."""
        coarse, rough, fine = (
            torch.cat([getattr(part, name) for part in parts], -1) for name in ("coarse", "rough", "fine")
        )
        return TwoLevels(coarse, rough, fine, parts[0].others, parts[0].pairs)

    def total(self) -> TraceParts:
        """The estimate, without bias and with Satterthwaite's degrees of freedom; `count` is K + M."""
        count = self.others + self.pairs
        w = self.others / count
        first, second = w * self.coarse, self.fine - w * self.rough
        return _sum(_means(first, self.others), _means(second, self.pairs), count)

    def share(self, of: Callable[[TraceParts], Estimate]) -> float:
        """M/K of about the least variance at a given cost, √(V₁/(cV₀)) with c the cost of a pair in probes; at most 1.

        V₀ and V₁ are summed over examples: those of their mean. of: selects the quantity.
        """
        V_0, V_1 = (float(of(level).stderr.square().sum()) * of(level).count for level in self._levels())
        return min(1.0, max(2**-10, math.sqrt(V_1 / (_COST * V_0)))) if V_0 > 0 else 1.0

    def expected(self, share: float) -> TraceParts:
        """The estimate, with the standard errors to expect of K other probes and share·K pairs.

        `count` is K: they fall as 1/√K.
        """
        coarse, difference = self._levels()
        pairs = share * self.others
        coarse = _scaled(coarse, self.others / (self.others + pairs))
        return _sum(coarse, _scaled(difference, self.pairs / pairs), self.others)

    def _levels(self) -> tuple[TraceParts, TraceParts]:
        """Means of zᵀBz over the K others and of zᵀHz − zᵀBz over the M pairs."""
        return _means(self.coarse, self.others), _means(self.fine - self.rough, self.pairs)


def by_two_levels(sampler: Sampler, loss: EmbeddingLoss, first: int, count: int, share: float = SHARE) -> TwoLevels:
    """Both levels by collapsed Taylor mode: K = `count` probes from number `first` on, and M ≥ share·K pairs.

    bfloat16 rounds a sum of forms differently from its terms, so pairs are summed over as many probes as the others
    are: M is a multiple of 4 such sums. Raises `InputError` as `Sampler.by_taylor` does, and for a model with weights
    coarser than float32.
    """
    _require_fine(loss)
    members = sampler.probes // sampler.groups
    chunk = _GROUPS * (members // parts_of_a_sum(members, COARSE))
    pairs = chunk * max(1, math.ceil(share * count / chunk))
    start = _PAIRS_FROM + math.ceil(first / chunk) * chunk

    def forms(probes: int, dtype: torch.dtype | None, first: int, count: int) -> Both:
        one = replace(sampler, probes=probes, coefficients=dtype)
        return torch.stack(one.taylor_forms(loss, first, count))

    coarse = forms(sampler.probes, COARSE, first, count)
    rough, fine = (forms(chunk, dtype, start, pairs) for dtype in (COARSE, None))
    return TwoLevels(coarse, rough, fine, count, pairs)


def split(
    pilot: TwoLevels, measure: Callable[..., TwoLevels], of: Callable[[TraceParts], Estimate]
) -> tuple[Estimate, Callable[[int, int], TraceParts]]:
    """The plan of `two_stages`: for its fresh probes, the share of pairs that the pilot finds best.

    measure(first, count, share=…): `by_two_levels` of a sampler and a loss.
    """
    share = pilot.share(of)
    return of(pilot.expected(share)), lambda first, count: measure(first, count, share=share).total()


def _means(forms: Both, count: int) -> TraceParts:
    hessian, gauss_newton = forms
    return parts_of(hessian, gauss_newton, count)


def _scaled(parts: TraceParts, variance: float) -> TraceParts:
    """With standard errors for `variance` times the variance."""
    each = (getattr(parts, f.name) for f in fields(TraceParts))
    return TraceParts(*(replace(one, stderr=one.stderr * math.sqrt(variance)) for one in each))


def _sum(one: TraceParts, other: TraceParts, count: int) -> TraceParts:
    """Of independent estimates."""
    pairs = ((getattr(level, f.name) for level in (one, other)) for f in fields(TraceParts))
    return TraceParts(*((a + b).noting(count=count) for a, b in pairs))


def coarse_weight(loss: EmbeddingLoss) -> str | None:
    """The first weight of the model that is coarser than float32, in words; None if there is none."""
    limit = torch.finfo(torch.float32).eps
    for name, weight in loss.model.named_parameters():
        if weight.is_floating_point() and torch.finfo(weight.dtype).eps > limit:
            return f"{str(weight.dtype).removeprefix('torch.')} ({name})"
    return None


def _require_fine(loss: EmbeddingLoss) -> None:
    if coarse := coarse_weight(loss):
        raise InputError(
            f"method='two-level' removes the bias of bfloat16 derivatives by float32 ones, but the weights of this "
            f"model are {coarse}: load it in float32, or use method='taylor'"
        )
