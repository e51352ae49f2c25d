"""Held-out loss: the one definition that all runs report."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from symnoise.core import Diverged
from symnoise.models.evaluation import evaluation_mode


def held_out_loss(model: Any, batches: Sequence[Mapping[str, Tensor]], *, sharded: bool = False) -> float:
    """Held-out loss: mean cross-entropy over all scored tokens of `batches`, without noise and dropout.

    A router's loss is not part of it. Sums are in float64 and divided once, so batches with more tokens weigh more. It
    is the loss of the stored weights (float32 even if training computes in bfloat16).

    Args:
        model: A causal or encoder-decoder language model. Training mode and autocast are restored.
        batches: Encoded batches with labels.
        sharded: Whether FSDP has sharded the model. Then every process must take all batches, and the loss is in the
            precision of training.

    Raises:
        Diverged: If the loss is not finite.
    """
    first = 0 if model.config.is_encoder_decoder else 1  # a causal model does not predict its first token
    router = {"output_router_logits": False} if hasattr(model.config, "output_router_logits") else {}
    total, count = 0.0, 0
    with torch.no_grad(), _evaluating(model) if sharded else evaluation_mode(model, twice=False):
        for batch in batches:
            scored = int((batch["labels"][:, first:] != -100).sum())
            inputs = {key: value.to(model.device) for key, value in batch.items()}
            total += scored * float(model(**inputs, **router).loss)
            count += scored
    loss = total / count
    if not math.isfinite(loss):
        raise Diverged(f"loss is {loss} on the held-out rows")
    return loss


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def mean_of_processes(trainer: Any, value: float) -> float:
    """Mean of `value` over the processes of `trainer`."""
    value_here = torch.tensor(value, dtype=torch.float64, device=trainer.args.device)
    return float(trainer.accelerator.reduce(value_here, "mean"))
