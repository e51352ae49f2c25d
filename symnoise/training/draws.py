"""One draw of noise for a batch whose tokens may each have their own L."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from symnoise.noise import Noise, law


def draw(
    noise: Noise,
    lengths: Int[Tensor, "batch token"],
    dim: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    padded: bool = False,
) -> Float[Tensor, "batch token dim"]:
    """ε = c·α/√(L·d)·u with L = `lengths`, exactly 0 where that is 0; `Noise.sample` where every row has one L.

    Drawn on the generator's device, in `dtype` (float32 or float64), and moved to that of `lengths`. With
    `padded`, all nonzero `lengths` being equal, uniform noise comes out bit for bit as
    Transformers' `neftune_post_forward_hook` makes it from the same generator state in float32.
    """
    shape, device = (*lengths.shape, dim), lengths.device
    if padded:
        magnitude = float(noise.calibration * noise.alpha / torch.sqrt(torch.tensor(lengths.shape[1] * dim)))
        if noise.law == "uniform":  # scaled within the draw, as there: u·m rounds differently from U(-m, m)
            u = torch.empty(shape, dtype=dtype, device=generator.device)
            return u.uniform_(-magnitude, magnitude, generator=generator).to(device) * (lengths != 0)[:, :, None]
        scale = magnitude * (lengths != 0).to(dtype)
    else:
        # `Noise.scale`'s formula without its check of the lengths, which would make an accelerator wait.
        scale = noise.calibration * noise.alpha / (lengths.double() * dim).sqrt()
        scale = scale.masked_fill(lengths == 0, 0.0).to(dtype)
    return law(noise.law).sample(shape, generator=generator, dtype=dtype, device=device).mul_(scale[:, :, None])
