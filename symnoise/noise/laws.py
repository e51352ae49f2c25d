"""Raw noise laws: symmetric, zero mean, independent coordinates.

law          density or weights       v = E u²    κ = E u⁴ / v²
uniform      U[-1, 1]                 1/3         9/5
gaussian     N(0, 1)                  1           3
rademacher   ±1 with equal odds       1           1
sparse       ±κ^½ with odds 1/2κ each 1           κ        (0 otherwise; `sparse`)

A `Law` carries all that the package asks of one, so a new law is one definition, put into `LAWS`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.special import gammaln
from torch import Tensor

from symnoise.core import InputError, unknown

# (empty tensor, s, generator) ↦ the tensor filled with s·u.
Fill = Callable[[Tensor, float, torch.Generator], Tensor]


@dataclass(frozen=True)
class Law:
    """A symmetric law of one coordinate u, and all that follows from it.

    name:                  in configs, on the command line and in the keys of results.
    label, description:    the law's name and what u is, for readers.
    variance:              v = E u².
    kurtosis:              κ = E u⁴ / v².
    quantile:              the inverse distribution function on (0, 1), in the dtype of its argument.
    characteristic_less_1: t ↦ E cos(tz) − 1 of z = u/√v, with the digits that a difference of near equals would lose.
    fill:                  draws s·u in place; by default s times the quantile of uniform draws.
    mean_norm:             n ↦ E‖u‖ over n coordinates in closed form; None where only its expansion is known.
    """

    name: str
    label: str
    description: str
    variance: float
    kurtosis: float
    quantile: Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]
    characteristic_less_1: Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]
    fill: Fill | None = None
    mean_norm: Callable[[int], float] | None = None

    def sample(
        self,
        shape: tuple[int, ...] | torch.Size,
        *,
        generator: torch.Generator,
        size: float = 1.0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Float[Tensor, "*shape"]:
        """Independent draws of `size`·u, from `generator` alone, made on its device and then moved to `device`."""
        draw = torch.empty(shape, dtype=dtype, device=generator.device)
        if self.fill is not None:
            return self.fill(draw, size, generator).to(device)
        return self.quantile(draw.uniform_(generator=generator)).mul_(size).to(device)

    def standardised(self, uniforms: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """z = quantile(uniforms)/√v: unit variance. The same `uniforms` for two laws couples their draws."""
        return self.quantile(uniforms) / math.sqrt(self.variance)


# Scaled within the draw, as Transformers does for NEFTune: s·u rounds differently from a draw of U[-s, s].
UNIFORM = Law(
    name="uniform",
    label="uniform",
    description="uniform on [−1, 1]",
    variance=1 / 3,
    kurtosis=9 / 5,
    quantile=lambda p: 2 * p - 1,
    characteristic_less_1=lambda t: torch.sinc(t * 3**0.5 / torch.pi) - 1,
    fill=lambda draw, s, generator: draw.uniform_(-s, s, generator=generator),
)

GAUSSIAN = Law(
    name="gaussian",
    label="Gaussian",
    description="standard normal",
    variance=1.0,
    kurtosis=3.0,
    quantile=torch.special.ndtri,
    characteristic_less_1=lambda t: (-t.square() / 2).expm1(),
    fill=lambda draw, s, generator: draw.normal_(generator=generator).mul_(s),
    mean_norm=lambda n: math.sqrt(2) * math.exp(gammaln((n + 1) / 2) - gammaln(n / 2)),
)

RADEMACHER = Law(
    name="rademacher",
    label="Rademacher",
    description="±1 with equal odds",
    variance=1.0,
    kurtosis=1.0,
    quantile=lambda p: torch.where(p < 0.5, -1.0, 1.0).to(p.dtype),
    characteristic_less_1=lambda t: -2 * (t / 2).sin().square(),
    fill=lambda draw, s, generator: draw.bernoulli_(0.5, generator=generator).mul_(2).sub_(1).mul_(s),
    mean_norm=math.sqrt,
)

LAWS = {law.name: law for law in (UNIFORM, GAUSSIAN, RADEMACHER)}


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

    return Law(
        name=f"sparse-{kurtosis:g}",
        label=f"sparse, κ = {kurtosis:g}",
        description=f"±{math.sqrt(kurtosis):.4g} with probability {q / 2:.3g} each, else 0",
        variance=1.0,
        kurtosis=kurtosis,
        quantile=quantile,
        characteristic_less_1=lambda t: -2 * q * (t / (2 * q**0.5)).sin().square(),
    )


def law(name: str) -> Law:
    """The law called `name`; `InputError` with the nearest name if there is none."""
    if name not in LAWS:
        raise unknown("law", name, LAWS)
    return LAWS[name]
