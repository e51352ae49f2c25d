"""One draw of noise for a batch in which each token may have its own L."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from symnoise.noise import Noise, law, scale_of


def draw(
    noise: Noise,
    lengths: Int[Tensor, "batch token"],
    dim: int,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    padded: bool = False,
) -> Float[Tensor, "batch token dim"]:
    """ε = c·α/√(L·d)·u with L = `lengths`, exactly 0 if that is 0; equals `Noise.sample` if every row has one L.

    Drawn on the generator's device, in `dtype` (float32 or float64), and moved to that of `lengths`. With `padded`, all
    nonzero `lengths` being equal, uniform noise is bit for bit that of Transformers' `neftune_post_forward_hook` from
    the same generator state in float32.
    """
    shape, device = (*lengths.shape, dim), lengths.device
    amount, real = noise.calibration * noise.alpha, lengths != 0
    if padded:  # in float32, as there
        size = float(scale_of(amount, torch.tensor(lengths.shape[1]), dim, torch.float32))
        u = law(noise.law).sample(shape, generator=generator, size=size, dtype=dtype, device=device)
        return u * real[:, :, None]
    scale = scale_of(amount, lengths, dim).to(dtype)
    return law(noise.law).sample(shape, generator=generator, dtype=dtype, device=device).mul_(scale[:, :, None])
