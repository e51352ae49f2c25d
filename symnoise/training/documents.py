"""Length of the document around each token, also in packed rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional as F

from symnoise.core import InputError

_MEDIA = ("pixel", "image", "video", "audio", "input_features")


def document_lengths(batch: Mapping[str, Any], placeholders: Sequence[int] = ()) -> Int[Tensor, "batch token"]:
    """Number of real tokens in each token's document; 0 at padding and at `placeholders`, the ids of images or sounds.

    A row is one document unless the batch says otherwise: `cu_seq_lens_q`, the boundaries of a flattened batch
    of one row, or `position_ids` (batch, token) that do not go up by one from a real token to the next.
    `attention_mask` (batch, token) marks what is real; without it everything is.
    """
    ids = batch["input_ids"]
    real = _real(batch)
    text = real & ~torch.isin(ids, torch.tensor(placeholders, dtype=ids.dtype, device=ids.device))
    boundaries = batch.get("cu_seq_lens_q")
    positions = batch.get("position_ids")
    if boundaries is not None:
        start = torch.zeros_like(ids, dtype=torch.bool)
        start[0, boundaries[:-1].long()] = True
    elif positions is not None and positions.shape == ids.shape:
        start = F.pad(positions[:, 1:] != positions[:, :-1] + 1, (1, 0), value=True)
        start |= ~F.pad(real[:, :-1], (1, 0), value=False)
    else:
        return text.sum(1, keepdim=True) * text
    document = start.cumsum(1)
    counts = torch.zeros(ids.shape[0], ids.shape[1] + 1, dtype=torch.long, device=ids.device)
    counts.scatter_add_(1, document, text.long())
    return counts.gather(1, document) * text


def noised_lengths(
    batch: Mapping[str, Any], length: str, where: str, placeholders: Sequence[int] = ()
) -> Int[Tensor, "batch token"]:
    """The L of each token's scale, 0 for tokens without noise; `length` and `where` as in `NoiseOptions`."""
    ids = batch["input_ids"]
    chosen = torch.full_like(ids, ids.shape[1]) if length == "padded" else document_lengths(batch, placeholders)
    if where == "all":
        return chosen
    labels = batch.get("labels")
    if labels is None or labels.shape != ids.shape:
        raise InputError(f"where={where!r} needs labels of the shape of input_ids, {tuple(ids.shape)}, in every batch")
    scored = labels != -100
    return chosen * (_real(batch) & (scored if where == "response" else ~scored))


def _real(batch: Mapping[str, Any]) -> Bool[Tensor, "batch token"]:
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask {tuple(mask.shape)} must have the shape of input_ids {tuple(ids.shape)}")
    return mask != 0


def has_media(batch: Mapping[str, Any]) -> bool:
    """Whether examples have images, video or sound, whose rows differ from those of the text."""
    return any(key.startswith(_MEDIA) and value is not None for key, value in batch.items())
