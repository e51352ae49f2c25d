"""Raw noise laws: symmetric, zero mean, independent coordinates.

law          density or weights       v = E u²    κ = E u⁴ / v²
uniform      U[-1, 1]                 1/3         9/5
gaussian     N(0, 1)                  1           3
rademacher   ±1 with equal odds       1           1
sparse       ±κ^½ with odds 1/2κ each 1           κ        (0 otherwise; `sparse`)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import InputError, unknown


@dataclass(frozen=True)
class Law:
    """A symmetric law of one coordinate u.

    variance: v = E u².
    kurtosis: κ = E u⁴ / v².
    quantile: the inverse distribution function on (0, 1).
    """

    name: str
    variance: float
    kurtosis: float
    quantile: Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]

    def sample(
        self,
        shape: tuple[int, ...] | torch.Size,
        *,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "*shape"]:
        """Independent draws of u, from `generator` alone, made on its device and then moved to `device`."""
        draw = torch.empty(shape, dtype=dtype, device=generator.device)
        if self.name == "uniform":
            draw.uniform_(-1, 1, generator=generator)
        elif self.name == "gaussian":
            draw.normal_(generator=generator)
        elif self.name == "rademacher":
            draw.bernoulli_(0.5, generator=generator).mul_(2).sub_(1)
        else:
            draw = self.quantile(draw.uniform_(generator=generator))
        return draw.to(device)

    def standardised(self, uniforms: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """z = quantile(uniforms)/√v: unit variance. The same `uniforms` for two laws couples their draws."""
        return self.quantile(uniforms) / math.sqrt(self.variance)


def _sign(p: Tensor) -> Tensor:
    return torch.where(p < 0.5, -1.0, 1.0).to(p.dtype)


LAWS = {
    law.name: law
    for law in (
        Law("uniform", 1 / 3, 9 / 5, lambda p: 2 * p - 1),
        Law("gaussian", 1.0, 3.0, torch.special.ndtri),
        Law("rademacher", 1.0, 1.0, _sign),
    )
}


def sparse(kurtosis: float) -> Law:
    """z = ±q^(−½) with probability q/2 each and 0 otherwise, q = 1/κ: unit variance and any kurtosis κ ≥ 1 (K1).

    Not for training: a law to set κ with, so that what depends on it can be seen. Raises `InputError` for κ < 1, which
    no law has.
    """
    if not (math.isfinite(kurtosis) and kurtosis >= 1):
        raise InputError(f"a kurtosis is a finite number, 1 or larger; got {kurtosis}")
    q = 1 / kurtosis

    def quantile(p: Tensor) -> Tensor:
        return torch.where(p < q / 2, -1.0, torch.where(p >= 1 - q / 2, 1.0, 0.0)).to(p.dtype) * math.sqrt(kurtosis)

    return Law(f"sparse-{kurtosis:g}", 1.0, kurtosis, quantile)


def law(name: str) -> Law:
    """The law called `name`; `InputError` with the nearest name if there is none."""
    if name not in LAWS:
        raise unknown("law", name, LAWS)
    return LAWS[name]
