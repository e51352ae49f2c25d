"""What curvature needs of a loss."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from symnoise.noise import directions


@runtime_checkable
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
    """Random directions z number `first` … `first + count − 1` for each example; 0 at padding.

    With independent coordinates of unit variance E[zᵀHz] = tr H (Hutchinson 1989). Keyed to (seed, example id, k);
    see `symnoise.noise.directions`.
    """
    return directions(loss.embeddings, loss.mask, loss.ids, count, seed=seed, first=first, law_name=law_name)
