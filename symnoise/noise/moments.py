"""Moments of a draw: closed forms (claims M1 and M2) and what was realised."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from symnoise.core import Mask, lengths
from symnoise.noise.laws import Law

LEAST_KURTOSIS = 1  # that of a coordinate whose square is constant: E u⁴ ≥ (E u²)²
DEFICIT = 1 / 8  # of E√S where S has mean m: √m (1 − Var S/8m²)


@dataclass(frozen=True)
class Moments:
    """Closed-form moments of ε = s·u over n coordinates, u of variance v and kurtosis κ; in embedding units.

    mean_square_norm: E‖ε‖² = n s² v            (α²v for s = α/√n; α²/3 once calibrated)
    var_square_norm:  Var‖ε‖² = n s⁴ v² (κ − 1)  (0 for Rademacher)
    mean_norm:        E‖ε‖: exactly s√2·Γ((n+1)/2)/Γ(n/2) for Gaussian, exactly s√n for Rademacher; for laws without
                      a closed form s√(nv)·(1 − (κ−1)/(8n)), with an error of order n⁻².
    variance:         s² v, of one coordinate.
    kurtosis:         κ, of one coordinate.
    """

    mean_square_norm: float
    var_square_norm: float
    mean_norm: float
    variance: float
    kurtosis: float


def closed_form_moments(law: Law, scale: float, n: int) -> Moments:
    """Moments of `scale`·u over `n` independent coordinates u of `law`; formulas in `Moments`."""
    v, kappa = law.variance, law.kurtosis
    if law.mean_norm is not None:
        mean_norm = scale * law.mean_norm(n)
    else:
        mean_norm = scale * math.sqrt(n * v) * (1 - DEFICIT * (kappa - LEAST_KURTOSIS) / n)
    return Moments(
        mean_square_norm=n * scale**2 * v,
        var_square_norm=n * scale**4 * v**2 * (kappa - LEAST_KURTOSIS),
        mean_norm=mean_norm,
        variance=scale**2 * v,
        kurtosis=kappa,
    )


@dataclass(frozen=True)
class RealisedMoments:
    """What one draw ε of each row turned out to be, over the n = L·d coordinates of its real tokens; float64.

    square_norm: ‖ε‖².
    norm:        ‖ε‖.
    mean:        Σε/n.
    variance:    Σε²/n (about the known mean 0).
    kurtosis:    n·Σε⁴/(Σε²)², NaN where ε = 0.
    """

    square_norm: Float[Tensor, " batch"]
    norm: Float[Tensor, " batch"]
    mean: Float[Tensor, " batch"]
    variance: Float[Tensor, " batch"]
    kurtosis: Float[Tensor, " batch"]


def realised_moments(
    epsilon: Float[Tensor, "batch token dim"],
    mask: Mask,
) -> RealisedMoments:
    """Realised moments of each row of `epsilon`, (batch, token, dim), padding left out; sums in float64.

    mask: (batch, token), 1 at real tokens. Each field of the result is (batch,).
    """
    kept = (epsilon * (mask != 0)[:, :, None]).double().flatten(1)
    n = lengths(mask).double() * epsilon.shape[-1]
    square = kept.square()
    square_norm = square.sum(1)
    return RealisedMoments(
        square_norm=square_norm,
        norm=square_norm.sqrt(),
        mean=kept.sum(1) / n,
        variance=square_norm / n,
        kurtosis=n * square.square().sum(1) / square_norm.square(),
    )
