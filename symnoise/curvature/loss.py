"""Coordinates and random directions of a loss."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from symnoise.core import InputError
from symnoise.models import Loss
from symnoise.noise import directions, orthogonal_directions

UNIT = "nats per squared embedding unit"  # of curvature


def require_loss(loss: Any, kind: type = Loss) -> None:
    """`InputError` for something that is not a loss of that kind, such as a model."""
    if not isinstance(loss, kind):
        raise InputError(f"give a loss, such as EmbeddingLoss(model, batch), not {type(loss).__name__}; make one first")


def coordinates(loss: Loss) -> Int[Tensor, " batch"]:
    """n = L·d of each example, L its true length."""
    return (loss.mask != 0).sum(1) * loss.embeddings.shape[-1]


def random_probes(
    loss: Loss, count: int, *, seed: int, first: int = 0, law_name: str = "rademacher", block: int = 1
) -> Float[Tensor, "probe batch token dim"]:
    """Random directions z number `first` … `first + count − 1` for each example; 0 at padding.

    With E[zzᵀ] = I, E[zᵀHz] = tr H (Hutchinson 1990). Keyed to (seed, example id, k). law_name: the law of independent
    coordinates of unit variance (`symnoise.noise.directions`), or "orthogonal" for directions that are orthogonal
    within blocks of `block` (`symnoise.noise.orthogonal_directions`; `first` and `count` are then multiples of it).
    """
    where = (loss.embeddings, loss.mask, loss.ids, count)
    if law_name == "orthogonal":
        return orthogonal_directions(*where, seed=seed, first=first, block=block)
    return directions(*where, seed=seed, first=first, law_name=law_name)
