"""Size of the curvature regardless of sign, E|zᵀHz| and ‖H‖_F, and the divergence between a pair's two sides."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Estimate, InputError, quantities_frame, retained_heap, track
from symnoise.curvature.halving import Halving, padded
from symnoise.curvature.loss import UNIT, Loss, random_probes, require_loss
from symnoise.curvature.operators.hessian import inner
from symnoise.curvature.operators.products import hessian_products
from symnoise.curvature.smoothing import size_of
from symnoise.models import EmbeddingLoss

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class CurvatureSize:
    """Per example, in nats per squared embedding unit; z is Rademacher.

    absolute:  E|zᵀHz|, the mean size of a probe's curvature.
    frobenius: ‖H‖_F = √E‖Hz‖². The mean square is unbiased, its root low by about Var(‖Hz‖²)/(8·probes·‖H‖_F³); the
               standard error is the delta method's.
    square:    ‖H‖_F² = tr H² = E‖Hz‖², unbiased; the sum of the squared eigenvalues (in the unit's square).
    gradient:  (batch, token, dim) ∇ℓ(X), which the products need anyway.

    ‖Hz‖² is skewed if a few eigenvalues dominate: intervals of `square` from few probes then cover less than stated.
    """

    absolute: Estimate
    frobenius: Estimate
    square: Estimate
    gradient: Float[Tensor, "batch token dim"] = field(repr=False)

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per example and quantity: value and stderr; `attrs` holds unit and method.

        The unit of tr H² is the square of that of the others.
        """
        return quantities_frame(self._named(), unit=UNIT)

    def __repr__(self) -> str:
        parts = "; ".join(f"{name} {part}" for name, part in self._named().items())
        return f"CurvatureSize({parts}; {UNIT}, of tr H² its square{self.absolute.facts('probes')})"

    def _named(self) -> dict[str, Estimate]:
        return {"E|zᵀHz|": self.absolute, "‖H‖_F": self.frobenius, "tr H²": self.square}


def curvature_size(loss: Loss, count: int = 8, seed: int = 0) -> CurvatureSize:
    """Size of the curvature regardless of sign: E|zᵀHz|, ‖H‖_F and ‖H‖_F² = tr H² of every example.

    From `count` Hessian products. Positive and negative curvature cannot cancel in these, as they can in tr H. If
    memory runs out, the batch is halved and retried, with a warning.

    Args:
        loss: The loss and the embeddings at which to measure.
        count: Products per example; standard errors need two.
        seed: Random seed of the probes, which are those of `trace`.

    Returns:
        Means over probes with standard errors, each (batch,).

    Raises:
        InputError: For fewer than one product; for a loss that is not finite, not deterministic or not differentiable;
            and for a problem too large for memory.
    """
    require_loss(loss)
    if count < 1:
        raise InputError(f"count must be 1 or more; got {count}")
    with retained_heap():
        parts = Halving(loss)(lambda part: _forms_squares_gradient(part, count, seed))
    forms, squares = (torch.cat([part[i] for part in parts], -1) for i in (0, 1))
    gradient = torch.cat([padded(part[2].mT, loss.embeddings.shape[1]).mT for part in parts])
    square = Estimate.from_draws(squares, method="products")
    root = square.value.sqrt()
    frobenius = replace(square, value=root, stderr=square.stderr / (2 * root))
    return CurvatureSize(Estimate.from_draws(forms, method="products"), frobenius, square, gradient)


def _forms_squares_gradient(
    loss: Loss, count: int, seed: int
) -> tuple[Float[Tensor, "probe batch"], Float[Tensor, "probe batch"], Float[Tensor, "batch token dim"]]:
    """|zᵀHz| and ‖Hz‖² of each probe, and ∇ℓ(X)."""
    product, forms, squares = hessian_products(loss), [], []
    for k in track(range(count), "products"):
        (z,) = random_probes(loss, 1, seed=seed, first=k)
        hz = product(z)
        forms.append(inner(z, hz).abs())
        squares.append(inner(hz, hz))
    return torch.stack(forms), torch.stack(squares), product.gradient


def two_sided_divergence(
    loss: EmbeddingLoss, sigma: Float[Tensor, " batch"], draws: int = 8, seed: int = 0
) -> Estimate:
    """Symmetric KL divergence ½[KL(p₊‖p₋) + KL(p₋‖p₊)] between the predictions p± at X ± σz, in nats per token.

    (batch,), means over draws of Rademacher z. Each draw is the mean over the example's scored tokens of
    ½ Σ_v (p₊ − p₋)(log p₊ − log p₋), which is 2σ² zᵀGz + O(σ⁴) with G the Gauss-Newton part of the Hessian: what a
    mirrored pair penalises, at the size of its noise, without an expansion in σ. Costs 2·draws forward passes. Raises
    `InputError` for σ ≤ 0 or not finite, and draws < 1.
    """
    require_loss(loss, EmbeddingLoss)
    X = loss.embeddings
    step, found = size_of(sigma, loss, draws).to(X)[:, None, None], []
    with torch.no_grad():
        for k in track(range(draws), "draws"):
            (z,) = random_probes(loss, 1, seed=seed, first=k)
            plus, minus = (loss.logits(X + sign * step * z).log_softmax(-1) for sign in (1, -1))
            found.append(loss.mean_over_tokens(((plus.exp() - minus.exp()) * (plus - minus)).sum(-1) / 2))
    return Estimate.from_draws(torch.stack(found), method="pairs")
