"""Doubled batches for the two sides of a pair."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import InputError

_BOUNDARIES = ("cu_seq_lens_q", "cu_seq_lens_k")


def layout(batch: Mapping[str, Any]) -> str:
    """Layout of the two sides in a doubled batch: "rows" (rows 2i and 2i+1) or "tokens" (both halves of the one row).

    A flattened ("padding-free") batch is one row without attention mask whose several documents are separated by
    `cu_seq_lens_q` or `position_ids`. Attention kernels read the former from the whole row and the latter only if there
    is a single row, so such a batch must remain one row. The model must read them, too:
    `Attached.require_documents_apart`.
    """
    boundaries = batch.get("cu_seq_lens_q") is not None
    if boundaries and batch["input_ids"].shape[0] != 1:
        raise InputError("a batch with cu_seq_lens_q must be one row of concatenated documents")
    one_row = batch["input_ids"].shape[0] == 1 and batch.get("attention_mask") is None
    return "tokens" if boundaries or (one_row and _several(batch.get("position_ids"))) else "rows"


def _several(positions: Tensor | None) -> bool:
    """Whether positions (1, token) restart somewhere."""
    return positions is not None and bool((positions.diff(dim=-1) != 1).any())


def double_batch(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Every example twice, in the order of `layout`; the given batch is not changed.

    Numbers, strings, None and 0-dimensional tensors are passed on. `InputError` naming the key if a tensor's first
    dimension is not the batch, or if a value cannot be doubled.
    """
    if "input_ids" not in batch:
        raise InputError(f"the batch has no input_ids, only {', '.join(batch)}; noise needs token ids")
    double = _double_tokens if layout(batch) == "tokens" else _double_rows
    doubled = {key: _doubled(double, key, value, batch["input_ids"]) for key, value in batch.items()}
    if double is _double_tokens:
        doubled["use_cache"] = False  # with a cache Transformers would take the row for one document
    return doubled


def _doubled(double: Callable[[str, Tensor, Tensor], Tensor], key: str, value: Any, ids: Tensor) -> Any:
    if value is None or isinstance(value, int | float | str) or (isinstance(value, Tensor) and value.ndim == 0):
        return value
    if not isinstance(value, Tensor):
        raise InputError(
            f"batch key {key!r} is a {type(value).__name__} and cannot be doubled; remove it in the collator"
        )
    return double(key, value, ids)


def _double_rows(key: str, value: Tensor, ids: Tensor) -> Tensor:
    if value.shape[0] != ids.shape[0]:
        raise InputError(
            f"batch key {key!r} has shape {tuple(value.shape)}, whose first dimension is not the batch of "
            f"{ids.shape[0]} rows; a pair cannot double it"
        )
    return value.repeat_interleave(2, 0)


def _double_tokens(key: str, value: Tensor, ids: Tensor) -> Tensor:
    if key in _BOUNDARIES:
        return torch.cat([value, value[1:] + value[-1]])
    if value.shape[:2] != ids.shape:
        raise InputError(
            f"batch key {key!r} has shape {tuple(value.shape)}, whose first dimensions are not the flattened batch's "
            f"{tuple(ids.shape)}; a pair cannot double it"
        )
    second = value + value.max() + 1 if key == "seq_idx" else value
    if key == "labels":
        second = value.clone()
        second[:, 0] = -100  # the first side must not predict the first token of the second
    return torch.cat([value, second], 1)


def join_sides(
    first: Float[Tensor, "batch token dim"], second: Float[Tensor, "batch token dim"], layout: str
) -> Float[Tensor, "sides tokens dim"]:
    """The noise of a doubled batch: `first` on one copy of each example, `second` on the other."""
    return torch.stack([first, second], 1).flatten(0, 1) if layout == "rows" else torch.cat([first, second], 1)


def first_side(values: Tensor, layout: str) -> Tensor:
    """`values` (batch, token) of one copy of each example in a doubled batch. `InputError` if there are no pairs."""
    one, other = (values[0::2], values[1::2]) if layout == "rows" else values.chunk(2, 1)
    if one.shape != other.shape or not torch.equal(one, other):
        raise InputError("paired noise needs every example twice in the batch; wrap the collator in PairedCollator")
    return one


class PairedCollator:
    """Collator for paired noise in your own training loop: each example twice, in rows 2i and 2i+1.

    For training batches only. Do not combine with the SymNoise Trainers, which double batches themselves.

    Args:
        collator: The collator to wrap.
    """

    def __init__(self, collator: Callable[[Any], Mapping[str, Any]]) -> None:
        self.collator = collator

    def __call__(self, examples: Any) -> dict[str, Any]:
        return double_batch(self.collator(examples))
