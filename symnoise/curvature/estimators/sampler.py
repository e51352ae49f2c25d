"""Random probes through each method: from (first, count) to an estimate on one loss."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Estimate, InputError, quantities_frame, track
from symnoise.curvature.estimators.hutch_plus_plus import hutch_plus_plus
from symnoise.curvature.estimators.xnystrace import xnystrace
from symnoise.curvature.estimators.xtrace import xtrace
from symnoise.curvature.loss import UNIT, Loss, random_probes
from symnoise.curvature.operators.differences import hvp_difference
from symnoise.curvature.operators.gauss_newton import JacobianProducts, softmax_curvature
from symnoise.curvature.operators.hessian import (
    differentiable,
    inner,
    require_finite,
    require_repeatable,
    require_same,
)
from symnoise.curvature.operators.products import products
from symnoise.curvature.taylor import taylor_quadratics
from symnoise.models import EmbeddingLoss

if TYPE_CHECKING:
    import pandas as pd

Forms = Float[Tensor, "draw batch"]
# Name to function and the matrix that it is for.
ESTIMATORS = {
    "hutch++": (hutch_plus_plus, "hessian"),
    "xtrace": (xtrace, "hessian"),
    "xnystrace": (xnystrace, "gauss_newton"),
}


@dataclass(frozen=True)
class TraceParts:
    """Hessian trace split into parts, tr H = tr G + tr R (claim P4), of every example, from the same probes.

    Attributes:
        hessian: tr H.
        gauss_newton: tr G; G = Jᵀ∇²ℓJ ⪰ 0 comes from the curvature of the loss in the logits.
        rest: tr R, the curvature of the logits weighted by the residual; its error is that of the difference.
    """

    hessian: Estimate
    gauss_newton: Estimate
    rest: Estimate

    @staticmethod
    def joined(parts: Sequence["TraceParts"]) -> "TraceParts":
        """Concatenate the results of parts of a batch (`Estimate.joined`)."""
        return TraceParts(*(Estimate.joined([getattr(part, f.name) for part in parts]) for f in fields(TraceParts)))

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per example and quantity (tr H, tr G, tr R): value and stderr.

        Returns:
            The frame; `attrs` holds unit and method.
        """
        return quantities_frame(self.named(), unit=UNIT)

    def __repr__(self) -> str:
        parts = "; ".join(f"{name} {part}" for name, part in self.named().items())
        return f"TraceParts({parts} {UNIT}{self.hessian.facts('probes')})"

    def named(self) -> dict[str, Estimate]:
        """The parts by their names in tables and figures."""
        return {"tr H": self.hessian, "tr G": self.gauss_newton, "tr R": self.rest}

    def noting(self, **facts: Any) -> "TraceParts":
        """A copy with some fields of each estimate replaced, such as method and seconds."""
        return TraceParts(*(getattr(self, f.name).noting(**facts) for f in fields(TraceParts)))


@dataclass(frozen=True)
class Sampler:
    """Measurements with probes number first … first + count − 1, `first` and `count` being multiples of `probes`.

    probes: per chunk. directions, coefficients: as in `trace`. Each method raises `InputError` if the loss is not
    finite, not deterministic or not differentiable, or if a form zᵀHz is not finite.
    """

    probes: int
    seed: int
    directions: str
    coefficients: torch.dtype | None

    @property
    def groups(self) -> int:
        """Number of equal groups in a chunk: 4 or 3, else the smallest divisor above; for 2 probes and 1, as many.

        In Taylor mode four groups cost 3/K of a forward pass per probe more than one group, and give the error 3
        degrees of freedom. Orthogonal directions are orthogonal within a group.
        """
        K = self.probes
        return next((g for g in (4, 3, *range(5, K + 1)) if K % g == 0), K)

    def by_taylor(self, loss: EmbeddingLoss, first: int, count: int) -> TraceParts:
        """tr H, tr G and tr R by collapsed Taylor mode."""
        return parts_of(*self.taylor_forms(loss, first, count), count)

    def taylor_forms(self, loss: EmbeddingLoss, first: int, count: int) -> tuple[Forms, Forms]:
        """Means of zᵀHz and of zᵀGz over groups of probes, in one pass per chunk, or several if memory is short."""
        values = loss.mean_over_tokens(loss.token_losses())
        require_finite(loss, values)
        hessian, gauss_newton = [], []
        for start in track(range(first, first + count, self.probes), "Taylor passes"):
            V = self._draw(loss, start, self.probes)
            with differentiable(loss):
                forms = taylor_quadratics(loss, V, groups=self.groups, coefficients=self.coefficients)
            require_same(values, forms.loss, loss.embeddings.dtype)
            hessian.append(forms.hessian)
            gauss_newton.append(forms.gauss_newton.unflatten(0, (self.groups, -1)).mean(1))
        return torch.cat(hessian), torch.cat(gauss_newton)

    def by_products(self, loss: Loss, first: int, count: int) -> Estimate:
        """tr H by Hessian products."""
        return Estimate.from_draws(self.hessian_forms(loss, first, count), count=count)

    def gauss_newton_by_products(self, loss: EmbeddingLoss, first: int, count: int) -> Estimate:
        """tr G by Jacobian products."""
        require_repeatable(loss, loss.mean_over_tokens(loss.token_losses()))
        return Estimate.from_draws(self._gauss_newton(loss, first, count), count=count)

    def parts_by_products(self, loss: EmbeddingLoss, first: int, count: int) -> TraceParts:
        """Both, one graph after the other."""
        return parts_of(self.hessian_forms(loss, first, count), self._gauss_newton(loss, first, count), count)

    def by_differences(self, loss: Loss, first: int, count: int) -> Estimate:
        """tr H by central differences of gradients; their systematic error is added to the standard error."""
        with torch.no_grad():
            require_repeatable(loss, loss(loss.embeddings))
        forms, errors = [], []
        for start in track(range(first, first + count, self._block), "Gradient differences"):
            for z in self._draw(loss, start, self._block):
                difference = hvp_difference(loss, z)
                forms.append(inner(z, difference.product))
                # |zᵀ(D − Hz)| for an error vector independent of z: its norm times the size of one coordinate of z.
                errors.append(difference.error)
        found = Estimate.from_draws(self._independent(forms), count=count)
        return found.with_shared_error(torch.stack(errors).mean(0))

    def by_estimator(self, name: str, loss: Loss, first: int, count: int) -> Estimate:
        """tr H or tr G by the estimator called `name`, one run with `count` products."""
        estimator, matrix = ESTIMATORS[name]
        estimate = estimator(loss, products(loss, matrix), lambda k, many: self._draw(loss, k, many), count, first)
        require_finite_forms(estimate.value[None])
        return estimate

    def hessian_forms(self, loss: Loss, first: int, count: int) -> Forms:
        """zᵀHz by Hessian products; of orthogonal directions the means over blocks."""
        product, forms = products(loss), []
        for start in track(range(first, first + count, self._block), "Hessian products"):
            forms += [inner(z, product(z)) for z in self._draw(loss, start, self._block)]
        return self._independent(forms)

    def _gauss_newton(self, loss: EmbeddingLoss, first: int, count: int) -> Float[Tensor, "draw batch"]:
        jacobian, forms = JacobianProducts(loss), []
        for start in track(range(first, first + count, self._block), "Jacobian products"):
            for z in self._draw(loss, start, self._block):
                forms.append(loss.mean_over_tokens(softmax_curvature(jacobian.logits, jacobian(z))))
        return self._independent(forms)

    @property
    def _block(self) -> int:
        """Probes that depend on each other."""
        return self.probes // self.groups if self.directions == "orthogonal" else 1

    def _draw(self, loss: Loss, first: int, count: int) -> Float[Tensor, "probe batch token dim"]:
        return random_probes(loss, count, seed=self.seed, first=first, law_name=self.directions, block=self._block)

    def _independent(self, forms: list[Tensor]) -> Float[Tensor, "draw batch"]:
        """zᵀHz of each probe as independent draws: means over the blocks of dependent ones."""
        stacked = torch.stack(forms)
        require_finite_forms(stacked)
        return stacked.unflatten(0, (-1, self._block)).mean(1)


def parts_of(hessian: Forms, gauss_newton: Forms, count: int) -> TraceParts:
    """The parts from independent draws of zᵀHz and zᵀGz, or of means over as many probes each; `count` in all."""
    return TraceParts(*(Estimate.from_draws(f, count=count) for f in (hessian, gauss_newton, hessian - gauss_newton)))


def require_finite_forms(forms: Float[Tensor, "draw batch"]) -> None:
    """`InputError` if a form zᵀHz is NaN or infinite, naming example and probe."""
    bad = (~forms.isfinite()).nonzero()
    if len(bad):
        probe, b = (int(i) for i in bad[0])
        raise InputError(
            f"the curvature of example {b} is NaN or infinite along probe {probe} although its loss is finite; "
            "method='taylor' names the layer, try float32 or float64"
        )
