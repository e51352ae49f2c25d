"""Curvature at the size of the noise: C(σ) and T(σ), and how they depart from the Hessian."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Estimate, InputError, ratio_of_sums, retained_heap, track, unknown
from symnoise.curvature.loss import UNIT, Loss, random_probes, require_loss
from symnoise.curvature.operators.differences import gradient
from symnoise.curvature.operators.hessian import differentiable, inner, require_same
from symnoise.curvature.operators.products import hessian_products
from symnoise.curvature.routing import told_of_rerouting
from symnoise.curvature.taylor import UnsupportedOperation, taylor_quadratics
from symnoise.models import EmbeddingLoss

if TYPE_CHECKING:
    import pandas as pd

SECOND_ORDER = 1 / 2  # of Taylor's expansion: ½εᵀHε


@dataclass(frozen=True)
class SmoothedCurvature:
    """Finite-σ curvature of every example, from the same directions z at every σ (coupled draws).

    σ is in embedding units, losses in nats, C and zᵀHz in nats per squared embedding unit.

    Attributes:
        sigmas: (sigma, batch) standard deviation of one coordinate of the noise.
        C: (sigma, batch) C(σ) = 2(E ℓ(X + σz) − ℓ(X))/σ², by mirrored pairs. → tr H as σ → 0.
        T: (sigma, batch) T(σ) = Σ_z (½[ℓ(X+σz) + ℓ(X−σz)] − ℓ) / Σ_z (σ²/2) zᵀHz. → 1 as σ → 0 (claim V1). A ratio of
            sums over draws, since a single draw's zᵀHz may be near 0; its error is ∞ where that of the draws' mean
            says that tr H itself may be 0 (`core.ratio_of_sums`), as is often so for a single example.
        pair: (sigma, draw, batch) ½[ℓ(X+σz) + ℓ(X−σz)] − ℓ(X): what a pair keeps, its even part.
        odd: (sigma, draw, batch) ½[ℓ(X+σz) − ℓ(X−σz)]: what a pair cancels, σ∇ℓ·z to first order.
        forms: (draw, batch) zᵀHz.
        loss: (batch,) ℓ(X).
        gradient_square_norm: (batch,) ‖∇ℓ(X)‖².
    """

    sigmas: Float[Tensor, "sigma batch"]
    C: Estimate
    T: Estimate
    pair: Float[Tensor, "sigma draw batch"]
    odd: Float[Tensor, "sigma draw batch"]
    forms: Float[Tensor, "draw batch"]
    loss: Float[Tensor, " batch"]
    gradient_square_norm: Float[Tensor, " batch"]

    @property
    def second_order(self) -> Float[Tensor, "sigma draw batch"]:
        """½εᵀHε of each draw, ε = σz: `pair` to second order."""
        return SECOND_ORDER * self.sigmas[:, None] ** 2 * self.forms

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per σ and example: sigma, C and T with their standard errors.

        Returns:
            The frame; `attrs` holds units and the number of draws.
        """
        import pandas as pd

        sizes, batch = self.sigmas.shape
        columns: dict[str, list[Any]] = {"example": [*range(batch)] * sizes, "sigma": self.sigmas.flatten().tolist()}
        for name, part in (("C", self.C), ("T", self.T)):
            columns |= {name: part.value.flatten().tolist(), f"{name}_stderr": part.stderr.flatten().tolist()}
        frame = pd.DataFrame(columns)
        frame.attrs = {"units": {"sigma": "embedding units", "C": UNIT, "T": "1"}, "draws": len(self.forms)}
        return frame

    def __repr__(self) -> str:
        draws, batch = self.forms.shape
        means = ", ".join(
            f"σ = {float(sigma.mean()):.3g}: C {self.C[i].mean()}" for i, sigma in enumerate(self.sigmas[:4])
        )
        more = ", …" * (len(self.sigmas) > 4)
        return f"SmoothedCurvature({batch} examples, {draws} mirrored draws; means at {means}{more}; {UNIT})"

    @staticmethod
    def joined(parts: Sequence["SmoothedCurvature"]) -> "SmoothedCurvature":
        """Concatenate the results of batches with the same σ and draws, example after example."""
        first = parts[0]
        joined: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts], -1)
            for name in ("sigmas", "pair", "odd", "forms", "loss", "gradient_square_norm")
        }
        joined |= {name: Estimate.joined([getattr(part, name) for part in parts]) for name in ("C", "T")}
        return replace(first, **joined)


def smoothed_curvature(
    loss: Loss,
    sigmas: Float[Tensor, "sigma batch"] | Float[Tensor, " sigma"] | Sequence[float] | float,
    noise: str = "rademacher",
    draws: int = 8,
    seed: int = 0,
    *,
    method: str = "auto",
) -> SmoothedCurvature:
    """Curvature at the size of the noise: C(σ) and T(σ) of every example, for each σ.

    C(σ) = 2(E ℓ(X + σz) − ℓ(X))/σ², and T(σ) is the pairs' mean excess loss over its second-order prediction; see
    `SmoothedCurvature`. Costs 2·sigmas·draws forward passes and the forms zᵀHz. Losses are differenced in float64 but
    computed in the model's dtype: below σ²·|tr H| ≈ 1e-6 a float32 model gives only rounding. The standard errors
    include the rounding of ℓ(X), which all draws share: one unit in its last place. Warns where a mixture of experts
    routes tokens differently at X ± σz than at X, since zᵀHz is then not the whole of the curvature there.

    Args:
        loss: The loss and the embeddings X.
        sigmas: One number or (sigma,) for all examples, or (sigma, batch); in embedding units.
        noise: Law of z, standardised to unit variance: "uniform", "gaussian", "rademacher".
        draws: Number of z, each mirrored; an error of T needs two.
        seed: Random seed of the draws.
        method: Method for zᵀHz: "taylor", one pass for all draws in a fraction of the memory, for an `EmbeddingLoss`
            whose model has only operations with Taylor rules; "hvp", one Hessian product per draw; "auto", Taylor mode
            or, with a warning that names the operation, Hessian products.

    Returns:
        C and T with standard errors over draws, and the draws themselves.

    Raises:
        InputError: For σ ≤ 0 or not finite, draws < 1, an unknown law or method, or a loss that is not finite or not
            deterministic.

    Examples:
        >>> import torch
        >>> from symnoise import smoothed_curvature
        >>> class Square:  # ℓ(x) = ½‖x‖², so C(σ) = tr H = 6 at every σ
        ...     embeddings = torch.ones(1, 2, 3, dtype=torch.float64)
        ...     mask, ids = torch.ones(1, 2, dtype=torch.long), [0]
        ...     def __call__(self, X):
        ...         return X.square().sum((1, 2)) / 2
        >>> found = smoothed_curvature(Square(), [0.1, 1.0], draws=4)
        >>> [f"{value:.6f}" for value in found.C.value.flatten().tolist()]
        ['6.000000', '6.000000']
    """
    require_loss(loss)
    X, sizes = loss.embeddings, _sizes(sigmas, loss, draws)
    if method not in _FORMS:
        raise unknown("method", method, _FORMS)
    pair, odd = [], []
    with retained_heap(), told_of_rerouting(loss):
        Z = random_probes(loss, draws, seed=seed, law_name=noise)
        base, gradient_square_norm, forms = _FORMS[method](loss, Z)
        for z in track(Z, "draws"):
            parts = [even_and_odd(loss, X, s.to(X)[:, None, None] * z, base) for s in sizes]
            pair.append(torch.stack([even for even, _ in parts]))
            odd.append(torch.stack([odd for _, odd in parts]))
    pair_, odd_ = torch.stack(pair, 1), torch.stack(odd, 1)
    below, rounding = SECOND_ORDER * sizes**2 * forms[:, None], _rounding(base, X.dtype)
    C = Estimate.from_draws((2 * pair_ / sizes[:, None] ** 2).transpose(0, 1), method="pairs")
    return SmoothedCurvature(
        sigmas=sizes,
        C=C.with_shared_error(2 * rounding / sizes**2),
        T=ratio_of_sums(pair_.transpose(0, 1), below).with_shared_error(rounding / below.mean(0).abs()),
        pair=pair_,
        odd=odd_,
        forms=forms,
        loss=base,
        gradient_square_norm=gradient_square_norm,
    )


def _by_products(loss: Loss, Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """ℓ(X), ‖∇ℓ‖² and zᵀHz of each draw."""
    product = hessian_products(loss)
    forms = torch.stack([inner(z, product(z)) for z in track(Z, "Hessian products")])
    return product.values.double(), inner(product.gradient, product.gradient), forms


def _by_taylor(loss: Loss, Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same; each draw is a group of its own, so that none is summed away."""
    if not isinstance(loss, EmbeddingLoss):
        raise InputError("method='taylor' needs an EmbeddingLoss; use method='hvp' for other functions")
    slope = gradient(loss, loss.embeddings)
    with differentiable(loss):
        found = taylor_quadratics(loss, Z, groups=len(Z))
    with torch.no_grad():
        base = loss(loss.embeddings).double()
    require_same(base, found.loss, loss.embeddings.dtype)
    return base, inner(slope, slope), found.hessian


def _by_either(loss: Loss, Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By Taylor mode where it is possible."""
    if isinstance(loss, EmbeddingLoss):
        try:
            return _by_taylor(loss, Z)
        except UnsupportedOperation as error:
            warnings.warn(f"{error}; falling back to method='hvp'", stacklevel=3)
    return _by_products(loss, Z)


_FORMS = {"auto": _by_either, "hvp": _by_products, "taylor": _by_taylor}


def finite_curvature(
    loss: Loss,
    sigma: Float[Tensor, " batch"] | Sequence[float] | float,
    noise: str = "rademacher",
    draws: int = 8,
    seed: int = 0,
) -> Estimate:
    """C(σ) of every example, (batch,), as in `smoothed_curvature` and from the same draws, but without a derivative.

    Costs 2·draws + 1 forward passes and the memory of one. `sigma` is one number per example, or one
    for all. Raises `InputError` for σ ≤ 0 or not finite, another number of sigmas, draws < 1, an unknown law.
    """
    require_loss(loss)
    X, size = loss.embeddings, size_of(sigma, loss, draws)
    step = size.to(X)[:, None, None]
    with torch.no_grad():
        base = loss(X).double()
    pair = []
    for k in track(range(draws), "draws"):
        (z,) = random_probes(loss, 1, seed=seed, first=k, law_name=noise)
        pair.append(even_and_odd(loss, X, step * z, base)[0])
    found = Estimate.from_draws(2 * torch.stack(pair) / size**2, method="pairs")
    return found.with_shared_error(2 * _rounding(base, X.dtype) / size**2)


@torch.no_grad()
def even_and_odd(
    loss: Callable[[Tensor], Tensor], X: Tensor, epsilon: Tensor, base: Float[Tensor, "*batch"] | float
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """½[ℓ(X+ε) + ℓ(X−ε)] − ℓ(X), what a mirrored pair keeps, and ½[ℓ(X+ε) − ℓ(X−ε)], what it cancels; float64.

    base: ℓ(X).
    """
    plus, minus = loss(X + epsilon).double(), loss(X - epsilon).double()
    return (plus + minus) / 2 - base, (plus - minus) / 2


def size_of(sigma: Any, loss: Loss, draws: int) -> Float[Tensor, " batch"]:
    """One sigma, or one for each example, as `_sizes` has them."""
    return _sizes(sigma[None] if isinstance(sigma, Tensor) else [sigma], loss, draws)[0]


def _sizes(sigmas: Any, loss: Loss, draws: int) -> Float[Tensor, "sigma batch"]:
    """The given sigmas for every example, on its device; `InputError` unless they are numbers above 0 that fit."""
    batch = len(loss.embeddings)
    try:
        given = torch.atleast_1d(torch.as_tensor(sigmas, dtype=torch.float64))
        sizes = given.reshape(len(given), -1).expand(-1, batch)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"sigmas are numbers above 0, in embedding units, each for all examples or one for each of {batch}; "
            f"got {sigmas!r}"
        ) from error
    if not bool((sizes.isfinite() & (sizes > 0)).all()) or draws < 1:
        raise InputError("every sigma must be a finite number above 0, and draws at least 1")
    return sizes.to(loss.embeddings.device)


def _rounding(base: Float[Tensor, " batch"], dtype: torch.dtype) -> Float[Tensor, " batch"]:
    """One unit in the last place of ℓ(X)."""
    return torch.finfo(dtype).eps * base.abs()
