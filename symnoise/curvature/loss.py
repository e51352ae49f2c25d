"""Coordinates and random directions of a loss."""

from jaxtyping import Float, Int
from torch import Tensor

from symnoise.models import Loss
from symnoise.noise import directions


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
