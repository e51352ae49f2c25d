"""Attention masks: which tokens are real, and how many."""

from jaxtyping import Bool, Int
from torch import Tensor

# 1 or True at real tokens, 0 or False at padding.
Mask = Bool[Tensor, "batch token"] | Int[Tensor, "batch token"]


def lengths(mask: Mask) -> Int[Tensor, " batch"]:
    """True (unpadded) length of each row: the number of nonzero mask entries."""
    return (mask != 0).sum(1)


def positions(mask: Mask) -> Int[Tensor, "batch token"]:
    """Position of each real token among those of its row, from 0; at padding that of the last before it, or 0."""
    return ((mask != 0).cumsum(1) - 1).clamp(min=0)


def is_right_padded(mask: Mask) -> bool:
    """Whether every row is real tokens followed by padding."""
    return bool((mask[:, 1:] <= mask[:, :-1]).all()) and bool(mask[:, :1].all())
