"""Raw noise laws: symmetric, zero mean, independent coordinates.

law          density or weights       v = E u²    κ = E u⁴ / v²
uniform      U[-1, 1]                 1/3         9/5
gaussian     N(0, 1)                  1           3
rademacher   ±1, probability ½ each   1           1
sparse       ±κ^½, prob. 1/2κ each    1           κ        (0 otherwise; `sparse`)

A `Law` holds everything that the package needs to know about a law; adding one to `LAWS` is enough.
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
    """Symmetric distribution of one noise coordinate u, with its moments and sampler.

    Attributes:
        name: Name in configs, on the command line and in the keys of results.
        label: Name for readers.
        description: What u is, for readers.
        variance: v = E u².
        kurtosis: κ = E u⁴ / v².
        quantile: Inverse distribution function on (0, 1), in the dtype of its argument.
        characteristic_less_1: t ↦ E cos(tz) − 1 with z = u/√v, computed without cancellation.
        fill: Draws s·u in place; the default is s times the quantile of uniform draws.
        mean_norm: n ↦ E‖u‖ over n coordinates in closed form; None if only its expansion is known.

    Examples:
        >>> from symnoise import generator
        >>> from symnoise.noise import law
        >>> law("gaussian").kurtosis, law("rademacher").kurtosis
        (3.0, 1.0)
        >>> draw = law("rademacher").sample((4, 3), generator=generator(0))
        >>> draw.shape, draw.square().mean().item()
        (torch.Size([4, 3]), 1.0)
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
        """Independent draws of `size`·u, made on the generator's device and then moved to `device`.

        Args:
            shape: Shape of the result.
            generator: Source of all randomness.
            size: Factor s on u.
            dtype: dtype of the draws.
            device: Device of the result.

        Returns:
            A tensor of independent coordinates.
        """
        return self.draw(torch.empty(shape, dtype=dtype, device=generator.device), size, generator).to(device)

    def draw(self, out: Tensor, size: float, generator: torch.Generator) -> Tensor:
        """Fill `out`, on the generator's device, with independent draws of `size`·u, and return it."""
        if self.fill is not None:
            return self.fill(out, size, generator)
        return out.copy_(self.quantile(out.uniform_(generator=generator)).mul_(size))

    def standardised(self, uniforms: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Coordinates of unit variance, z = quantile(uniforms)/√v.

        Args:
            uniforms: Numbers in (0, 1), of any shape. Using the same ones for two laws couples their draws.

        Returns:
            z, shaped like `uniforms`.
        """
        return self.quantile(uniforms) / math.sqrt(self.variance)


def _sinc_less_1(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """sin(x)/x − 1, near 0 by its series, whose next term is below rounding there."""
    near = -(x.square() / 6) * (1 - x.square() / 20 * (1 - x.square() / 42 * (1 - x.square() / 72)))
    return torch.where(x.abs() < 0.1, near, torch.sinc(x / torch.pi) - 1)


# Scaled within the draw, as Transformers does for NEFTune: s·u rounds differently from a draw of U[-s, s].
UNIFORM = Law(
    name="uniform",
    label="uniform",
    description="uniform on [−1, 1]",
    variance=1 / 3,
    kurtosis=9 / 5,
    quantile=lambda p: 2 * p - 1,
    characteristic_less_1=lambda t: _sinc_less_1(t * 3**0.5),
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
    description="±1 with equal probability",
    variance=1.0,
    kurtosis=1.0,
    quantile=lambda p: torch.where(p < 0.5, -1.0, 1.0).to(p.dtype),
    characteristic_less_1=lambda t: -2 * (t / 2).sin().square(),
    fill=lambda draw, s, generator: draw.bernoulli_(0.5, generator=generator).sub_(0.5).mul_(2 * s),
    mean_norm=math.sqrt,
)

LAWS = {law.name: law for law in (UNIFORM, GAUSSIAN, RADEMACHER)}


def sparse(kurtosis: float) -> Law:
    """Law of any kurtosis κ ≥ 1: z = ±q^(−½) with probability q/2 each and 0 otherwise, q = 1/κ; unit variance (K1).

    For checking what depends on κ, not for training. Raises `InputError` for κ < 1, which no law has.
    """
    if not (math.isfinite(kurtosis) and kurtosis >= 1):
        raise InputError(f"the kurtosis must be a finite number, 1 or larger; got {kurtosis}")
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
    """The law called `name`; `InputError` suggesting the nearest name if there is none."""
    if name not in LAWS:
        raise unknown("law", name, LAWS)
    return LAWS[name]
