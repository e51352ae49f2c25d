"""What curvature needs of a loss."""

from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from symnoise.core import generator
from symnoise.noise import law


class Loss(Protocol):
    """One differentiable number an example: `EmbeddingLoss`, or any function shaped like it.

    embeddings (batch, token, dim): where curvature is measured.  mask (batch, token): which tokens are real.
    ids: one number an example, to which its random probes are keyed.  Examples must not influence each other.
    """

    @property
    def embeddings(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def ids(self) -> Sequence[int]: ...
    def __call__(self, X: Tensor) -> Tensor:
        """ℓ(X), (batch,)."""
        ...


def coordinates(loss: Loss) -> Int[Tensor, " batch"]:
    """n = L·d of each example, L its true length."""
    return (loss.mask != 0).sum(1) * loss.embeddings.shape[-1]


def probes(
    loss: Loss, count: int, *, seed: int, first: int = 0, law_name: str = "rademacher"
) -> Float[Tensor, "probe batch token dim"]:
    """Random directions z number `first` … `first + count − 1`: unit variance at real tokens, 0 at padding.

    Probe k of an example depends on (seed, its id, k) and its true length alone: neither on the batch it is in
    nor on how many probes are drawn. With Rademacher or Gaussian coordinates E[zᵀHz] = tr H (Hutchinson 1989).
    """
    chosen, real = law(law_name), loss.mask != 0
    z = torch.zeros((count, *loss.embeddings.shape), dtype=loss.embeddings.dtype, device=loss.embeddings.device)
    for b, example in enumerate(loss.ids):
        shape = (int(real[b].sum()), loss.embeddings.shape[-1])
        for k in range(count):
            draw = chosen.sample(shape, generator=generator(seed, "probe", example, first + k))
            z[k, b, real[b]] = (draw / chosen.variance**0.5).to(z)
    return z
