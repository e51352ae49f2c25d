"""Moments of the noise: closed forms (claims M1 and M2) and those of a draw."""

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from symnoise.core import Mask, lengths
from symnoise.noise.laws import Law

if TYPE_CHECKING:
    import pandas as pd

LEAST_KURTOSIS = 1  # E u⁴ ≥ (E u²)², with equality if u² is constant
DEFICIT = 1 / 8  # in E√S ≈ √m (1 − Var S/8m²), m the mean of S
_ONE = "embedding units"
UNITS = {
    "mean_square_norm": f"{_ONE}²",
    "var_square_norm": f"{_ONE}⁴",
    "mean_norm": _ONE,
    "variance": f"{_ONE}²",
    "kurtosis": "1",
}
SYMBOLS = {"mean_square_norm": "E‖ε‖²", "var_square_norm": "Var‖ε‖²", "mean_norm": "E‖ε‖"}


@dataclass(frozen=True)
class Moments:
    """Closed-form moments of noise ε = s·u over n coordinates, u of variance v and kurtosis κ; in embedding units.

    Attributes:
        mean_square_norm: E‖ε‖² = n s² v: α²v for s = α/√n, and α²/3 once calibrated.
        var_square_norm: Var‖ε‖² = n s⁴ v² (κ − 1): 0 for Rademacher.
        mean_norm: E‖ε‖: exactly s√2·Γ((n+1)/2)/Γ(n/2) for Gaussian and s√n for Rademacher. For laws without a closed
            form it is s√(nv)·(1 − (κ−1)/(8n)), with an error of order n⁻².
        variance: s² v, of one coordinate.
        kurtosis: κ, of one coordinate.
    """

    mean_square_norm: float
    var_square_norm: float
    mean_norm: float
    variance: float
    kurtosis: float

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per moment: quantity and value; `attrs` holds units."""
        import pandas as pd

        frame = pd.DataFrame({"quantity": list(UNITS), "value": list(asdict(self).values())})
        frame.attrs = {"units": UNITS}
        return frame

    def __repr__(self) -> str:
        said = ", ".join(f"{symbol} {getattr(self, name):.4g}" for name, symbol in SYMBOLS.items())
        return f"Moments({said}; of a coordinate: variance {self.variance:.4g}, kurtosis {self.kurtosis:g}; {_ONE})"


def closed_form_moments(law: Law, scale: float, n: int) -> Moments:
    """Moments of `scale`·u over `n` independent coordinates u of `law`; formulas in `Moments`.

    Examples:
        >>> from symnoise.noise import closed_form_moments, law
        >>> moments = closed_form_moments(law("rademacher"), scale=0.5, n=100)
        >>> moments.mean_square_norm, moments.var_square_norm, moments.mean_norm
        (25.0, 0.0, 5.0)
    """
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
    """Realised moments of one draw ε per row, over the n = L·d coordinates of its real tokens; (batch,), float64.

    Attributes:
        square_norm: ‖ε‖².
        norm: ‖ε‖.
        mean: Σε/n.
        variance: Σε²/n, about the known mean 0.
        kurtosis: n·Σε⁴/(Σε²)², NaN if ε = 0.
    """

    square_norm: Float[Tensor, " batch"]
    norm: Float[Tensor, " batch"]
    mean: Float[Tensor, " batch"]
    variance: Float[Tensor, " batch"]
    kurtosis: Float[Tensor, " batch"]

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per example and a column for each moment; `attrs` holds units."""
        import pandas as pd

        frame = pd.DataFrame({f.name: getattr(self, f.name).tolist() for f in fields(self)}).rename_axis("example")
        frame.attrs = {"units": {"square_norm": f"{_ONE}²", "norm": _ONE, "mean": _ONE, "variance": f"{_ONE}²"}}
        return frame

    def __repr__(self) -> str:
        norm, square = float(self.norm.mean()), float(self.square_norm.mean())
        return f"RealisedMoments({len(self.norm)} draws; mean ‖ε‖ {norm:.4g}, mean ‖ε‖² {square:.4g}; {_ONE})"


def realised_moments(
    epsilon: Float[Tensor, "batch token dim"],
    mask: Mask,
) -> RealisedMoments:
    """Realised norm, variance and kurtosis of each row's noise, excluding padding; sums in float64.

    Args:
        epsilon: (batch, token, dim), one draw per row.
        mask: (batch, token), 1 at real tokens.

    Returns:
        The moments; each field is (batch,).

    Examples:
        >>> import torch
        >>> from symnoise import realised_moments
        >>> realised_moments(torch.full((1, 4, 25), 0.5), torch.tensor([[1, 1, 1, 0]])).square_norm.item()
        18.75
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
