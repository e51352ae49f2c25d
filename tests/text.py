"""A small ragged batch that every tiny model can read, and its loss."""

from contextlib import nullcontext

import torch

from symnoise.core import generator
from symnoise.models import EmbeddingLoss, float64_throughout
from tests.tiny import VOCABULARY, tiny


def batch(rows: int = 2, tokens: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random ids; the second row is two tokens shorter; the first two labels of each row are not scored."""
    ids = torch.randint(3, VOCABULARY, (rows, tokens), generator=generator(seed, "text"))
    mask = torch.ones_like(ids)
    mask[1:, tokens - 2 :] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :2] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def loss_of(name: str, dtype: torch.dtype = torch.float64, **kwargs: int) -> EmbeddingLoss:
    return EmbeddingLoss(tiny(name, dtype), batch(**kwargs))


def lifted(lift: bool):
    """`float64_throughout` or nothing."""
    return float64_throughout() if lift else nullcontext()
