"""Embedding norms under noise, in closed form (claims N1 and N2)."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from symnoise.core import Mask, lengths
from symnoise.noise import Noise, law
from symnoise.noise.moments import LEAST_KURTOSIS

if TYPE_CHECKING:
    import pandas as pd

CROSS = 4  # Var(2X·ε) = 4σ²‖X‖²


@dataclass(frozen=True)
class SquareNorm:
    """Moments of ‖X + ε‖² over draws, one entry per row; (batch,), float64.

    Attributes:
        mean: E‖X+ε‖² = ‖X‖² + nσ² (N1; nσ² is α²v, once calibrated α²/3: M1).
        variance: Var‖X+ε‖² = 4σ²‖X‖² + nσ⁴(κ−1), of one draw.
        pair_variance: nσ⁴(κ−1), the variance of ½(‖X+ε‖² + ‖X−ε‖²), which is exactly ‖X‖² + ‖ε‖² for each mirrored
            pair (N2).
    """

    mean: Float[Tensor, " batch"]
    variance: Float[Tensor, " batch"]
    pair_variance: Float[Tensor, " batch"]

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per example: mean, variance and pair_variance; `attrs` holds units."""
        import pandas as pd

        frame = pd.DataFrame({f.name: getattr(self, f.name).tolist() for f in fields(self)}).rename_axis("example")
        variance = "embedding units⁴"
        frame.attrs = {"units": {"mean": "embedding units²", "variance": variance, "pair_variance": variance}}
        return frame

    def __repr__(self) -> str:
        mean, spread = float(self.mean.mean()), float(self.variance.sqrt().mean())
        return f"SquareNorm({len(self.mean)} examples; mean E‖X+ε‖² {mean:.5g}, √Var {spread:.3g}; embedding units²)"


def expected_square_norm(
    embeddings: Float[Tensor, "batch token dim"],
    mask: Mask,
    noise: Noise,
) -> SquareNorm:
    """Mean and variance of the squared Frobenius norm ‖X + ε‖² of each row's noisy embeddings, excluding padding.

    Args:
        embeddings: (batch, token, dim).
        mask: (batch, token), 1 at real tokens.
        noise: The noise ε.

    Returns:
        Moments over draws, in squared embedding units.

    Raises:
        InputError: For a row without a real token.

    Examples:
        >>> import torch
        >>> from symnoise import Noise, expected_square_norm
        >>> X, mask = torch.ones(1, 4, 25), torch.tensor([[1, 1, 1, 0]])
        >>> round(expected_square_norm(X, mask, Noise.symnoise(3.0)).mean.item(), 6)  # 75 + 3²/3
        78.0
    """
    length, dim = lengths(mask), embeddings.shape[-1]
    variance = noise.sigma(length, dim).to(embeddings.device) ** 2
    clean = square_norm(embeddings, mask)
    n = length * dim
    pair = n * variance**2 * (law(noise.law).kurtosis - LEAST_KURTOSIS)
    return SquareNorm(mean=clean + n * variance, variance=CROSS * variance * clean + pair, pair_variance=pair)


def square_norm(values: Float[Tensor, "batch token dim"], mask: Mask) -> Float[Tensor, " batch"]:
    """‖·‖² of each row over its real tokens, summed in float64."""
    return (values.double().square().sum(-1) * (mask != 0)).sum(1)
