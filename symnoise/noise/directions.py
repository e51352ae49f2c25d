"""Random directions in embedding space, keyed to the example they belong to."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Mask, generator
from symnoise.noise.laws import law


def directions(
    embeddings: Float[Tensor, "batch token dim"],
    mask: Mask,
    ids: Sequence[int],
    count: int,
    *,
    seed: int,
    first: int = 0,
    law_name: str = "rademacher",
) -> Float[Tensor, "probe batch token dim"]:
    """Directions z number `first` … `first + count − 1`: independent, unit variance at real tokens, 0 at padding.

    Direction k of an example depends on (seed, its id, k) and its true length alone: neither on the batch the
    example is in nor on how many are drawn. Only shape, dtype and device of `embeddings` matter.
    """
    chosen, real = law(law_name), mask != 0
    z = torch.zeros((count, *embeddings.shape), dtype=embeddings.dtype, device=embeddings.device)
    for b, example in enumerate(ids):
        shape = (int(real[b].sum()), embeddings.shape[-1])
        for k in range(count):
            draw = chosen.sample(shape, generator=generator(seed, "direction", example, first + k))
            z[k, b, real[b]] = (draw / chosen.variance**0.5).to(z)
    return z
