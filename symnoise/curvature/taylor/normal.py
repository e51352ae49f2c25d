"""LayerNorm and RMSNorm as one function: n = r c with c = x − mean(x) (RMSNorm: c = x) and r = (mean(c²) + ε)^(−1/2).

With a_k = mean(n0 c1_k) and b_k = mean(c1_k²):
    n1_k = r (c1_k − n0 a_k)
    n2   = r (c2 − n0 mean(n0 c2)) + r² Σ_k [ n0 (3 a_k² − b_k) − 2 a_k c1_k ]
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from symnoise.curvature.taylor.tensor import Frame, Taylor


@dataclass(frozen=True)
class Normalised:
    """Origin of n · gain (+ any constant); r with `dims` kept as ones."""

    x: Taylor
    r: Tensor
    gain: Tensor | None
    dims: list[int]
    centred: bool


def normalised(value: Tensor, how: Normalised, frame: Frame) -> Taylor:
    # A gain can be taken in later only while there is none.
    return Taylor(value, lambda: _coefficients(value, how, frame), frame, how if how.gain is None else None)


def _coefficients(value: Tensor, how: Normalised, frame: Frame) -> Tensor:
    c, dims, centred = how.x.coefficients, how.dims, how.centred
    dtype = frame.dtype_beside(value)
    own = torch.promote_types(c.dtype, dtype)
    r, x0 = how.r.to(own), how.x.value.to(own)
    n0 = (x0 - x0.mean(dims, keepdim=True)) * r if centred else x0 * r
    gain = torch.ones((), dtype=own, device=c.device) if how.gain is None else how.gain.to(own)
    r_gain, minus_r_n_gain = r * gain, -r * n0 * gain
    out = torch.empty_like(c, dtype=dtype)
    squares = [torch.zeros_like(r) for _ in range(frame.groups)]  # Σ 3a² − b
    mixed = [torch.zeros_like(n0) for _ in range(frame.groups)]  # Σ a c1

    def first_order(index: int) -> tuple[Tensor, Tensor, Tensor]:
        one = c[index].to(own)
        if centred:
            one = one - one.mean(dims, keepdim=True)
        a = (n0 * one).mean(dims, keepdim=True)
        return one, a, torch.addcmul(one * r_gain, minus_r_n_gain, a)

    for g, k in frame.members():
        one, a, out[k] = first_order(k)
        squares[g - frame.probes].add_(3 * a * a - one.square().mean(dims, keepdim=True))
        mixed[g - frame.probes].addcmul_(one, a)
    for g in range(frame.groups):
        _, _, linear = first_order(frame.probes + g)
        bent = (n0 * squares[g]).sub_(mixed[g], alpha=2).mul_(r * r * gain)
        out[frame.probes + g] = linear.add_(bent)
    return out
