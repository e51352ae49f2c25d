"""Losses that are not a mean over rows, for which a doubled batch does not give the mean of the two sides."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from symnoise.training.attach import Attached, NoisePlan
from symnoise.training.documents import has_media

# Losses of TRL's DPO that sort over the batch.
_OVER_THE_BATCH = {"aot", "aot_unpaired"}


def sides_apart(trainer: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether it is known beforehand that the sides of a pair must go through the model one after the other.

    If the loss has a term over all tokens of the batch (the router losses of mixtures of experts) or over its rows; if
    the Trainer builds the model's batch itself (GRPO, ORPO) or several of them (KTO); if examples have images.
    """
    made_there = "input_ids" not in inputs or any(
        key.endswith("_input_ids") and key != "decoder_input_ids" for key in inputs
    )
    loss_types = set(getattr(trainer, "loss_types", None) or ())
    return made_there or has_media(inputs) or bool(loss_types & _OVER_THE_BATCH) or _router_loss(trainer.model)


def _router_loss(model: Any) -> bool:
    """Whether the loss includes one that balances the load of experts over the batch."""
    config = getattr(model, "config", None)
    parts = [config, *(getattr(config, name, None) for name in ("text_config", "encoder", "decoder"))]
    return any(getattr(part, "output_router_logits", False) is True for part in parts)


def one_after_the_other(
    plain: Callable[..., Any], noise: Attached, plan: NoisePlan, inputs: Mapping[str, Any], count: Any
) -> Any:
    """The mean of the losses of both sides, each on the undoubled batch; outputs, if requested, of the first."""
    results = []
    for side in ("first", "second"):
        own = {k: v.clone() if k == "input_ids" else v for k, v in inputs.items()}  # checkpointing knows a draw by it
        with noise.using(replace(plan, side=side)):
            results.append(plain(own, num_items_in_batch=count))
    if isinstance(results[0], tuple):
        return (results[0][0] + results[1][0]) / 2, *results[0][1:]
    return (results[0] + results[1]) / 2


def couples_rows(
    model: nn.Module, noise: Attached, doubled: Callable[[], Any], apart: Callable[[], Any], device: torch.device
) -> bool:
    """Whether the loss of a doubled batch differs from the mean over its sides, tested on a batch without dropout.

    Costs three forward passes without gradients. Values are compared up to eps^(2/3) of the forward's precision: far
    more than the rounding of a mean, but less than the effect of a term over the batch. Warns if they differ.
    """
    with torch.no_grad(), torch.random.fork_rng(), without_dropout(model, noise.model), _unseen(noise):
        found = [result[0] if isinstance(result, tuple) else result for result in (doubled(), apart())]
    one, other = (float(value) for value in found)
    dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else found[0].dtype
    parameter = next(model.parameters()).dtype
    eps = max(torch.finfo(kind).eps for kind in (dtype, parameter, torch.float32) if kind.is_floating_point)
    if not abs(one - other) > eps ** (2 / 3) * max(abs(one), abs(other)):
        return False
    warnings.warn(
        f"the loss of a doubled batch, {one:.6g}, is not the mean of the losses of its sides, {other:.6g}: it has a "
        "term over the rows of the batch. The sides of each pair go through the model one after the other instead",
        stacklevel=2,
    )
    return True


@contextmanager
def without_dropout(*models: nn.Module) -> Iterator[None]:
    """Submodules in evaluation mode; the models themselves, whose mode switches the noise on, in training mode."""
    modes = [(part, part.training) for model in models for part in model.modules()]
    try:
        for part, _ in modes:
            part.training = part in models
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _unseen(noise: Attached) -> Iterator[None]:
    """Draws in the block are neither counted nor shown to a tracker."""
    fired, on_draw = noise.fired, noise.on_draw
    noise.on_draw = None
    try:
        yield
    finally:
        noise.fired, noise.on_draw = fired, on_draw


@contextmanager
def unrecorded(trainer: Any) -> Iterator[None]:
    """Losses in the block are not counted in the metrics of TRL's Trainers."""
    metrics = getattr(trainer, "_metrics", {}).get("train")
    kept = {key: list(values) for key, values in (metrics or {}).items()}
    tokens = getattr(trainer, "_total_train_tokens", None)
    try:
        yield
    finally:
        if metrics is not None:
            metrics.clear()
            metrics.update(kept)
        if tokens is not None:
            trainer._total_train_tokens = tokens
