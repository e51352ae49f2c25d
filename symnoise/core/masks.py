"""Which tokens are real, and how many there are."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def lengths(mask: Bool[Tensor, "batch token"] | Int[Tensor, "batch token"]) -> Int[Tensor, " batch"]:
    """True (unpadded) length of each row: the number of nonzero mask entries."""
    return (mask != 0).sum(1)


def is_right_padded(mask: Bool[Tensor, "batch token"]) -> bool:
    """Whether every row is real tokens followed by padding."""
    return bool((mask[:, 1:] <= mask[:, :-1]).all()) and bool(mask[:, :1].all())


def real_tokens(values: torch.Tensor, mask: Bool[Tensor, "batch token"] | Int[Tensor, "batch token"]) -> torch.Tensor:
    """`values` (batch, token, …) of the real tokens alone, as (tokens, …)."""
    return values[mask != 0]
