"""Sampled moments of the noise, to compare with the closed forms."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Estimate, InputError, generator, track
from symnoise.noise.moments import SYMBOLS, UNITS, realised_moments
from symnoise.noise.noise import Noise

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SampledMoments:
    """Estimates of E‖ε‖², Var‖ε‖² and E‖ε‖ with standard errors, and the norm of each draw, (draw,), float64."""

    mean_square_norm: Estimate
    var_square_norm: Estimate
    mean_norm: Estimate
    norms: Float[Tensor, " draw"] = field(repr=False)

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per moment: value and stderr; `attrs` holds units and the number of draws."""
        import pandas as pd

        rows = [{"quantity": name, "value": float(e.value), "stderr": float(e.stderr)} for name, e in self._named()]
        frame = pd.DataFrame(rows)
        frame.attrs = {"units": {name: UNITS[name] for name, _ in self._named()}, "draws": len(self.norms)}
        return frame

    def __repr__(self) -> str:
        said = ", ".join(f"{SYMBOLS[name]} {estimate}" for name, estimate in self._named())
        return f"SampledMoments({said}; embedding units; {len(self.norms)} draws)"

    def _named(self) -> list[tuple[str, Estimate]]:
        return [(name, getattr(self, name)) for name in ("mean_square_norm", "var_square_norm", "mean_norm")]


def sampled_moments(noise: Noise, length: int, dim: int, draws: int, seed: int = 0) -> SampledMoments:
    """Moments over `draws` draws of one row of (length, dim), made in float32 as in training, summed in float64.

    Raises `InputError` for fewer than 2 draws, or a length or width below 1.
    """
    if draws < 2:
        raise InputError(f"draws must be 2 or more; got {draws}")
    if length < 1 or dim < 1:
        raise InputError(f"length and dim must be 1 or more; got {length} and {dim}")
    owner = generator(seed, "moments", noise.name, length, dim)
    chunk = max(1, 10_000_000 // (length * dim))  # 40 MB of float32 at a time
    norms = []
    for start in track(range(0, draws, chunk), "draws"):
        rows = min(chunk, draws - start)
        mask = torch.ones((rows, length), dtype=torch.long)
        epsilon = noise.sample(torch.empty((rows, length, dim)), mask, generator=owner)
        norms.append(realised_moments(epsilon, mask).norm)
    norm = torch.cat(norms)
    square = norm.square()
    return SampledMoments(
        mean_square_norm=Estimate.from_draws(square),
        var_square_norm=Estimate.variance(square),
        mean_norm=Estimate.from_draws(norm),
        norms=norm,
    )
