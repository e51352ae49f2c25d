"""Several processes that end alike."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from symnoise.training.mixin import NotFiniteError
from symnoise.training.trainer import SymNoiseTrainer


class AgreeingTrainer(SymNoiseTrainer):
    """A `SymNoiseTrainer` of which every process stops where a loss is not finite on one.

    Else the others would wait for that one, until the launcher kills them all and nothing is recorded.
    """

    def training_step(self, model: nn.Module, inputs: Mapping[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As the base class's, with one number exchanged."""
        error = None
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except NotFiniteError as found:
            error = found
            loss = torch.tensor(math.nan, device=self.args.device)
        mean = mean_of_processes(self, float(loss)) if self.args.world_size > 1 else 0.0
        if error is not None:
            raise error
        if math.isnan(mean):
            raise NotFiniteError(f"loss is not finite on another process, at step {self.state.global_step}")
        return loss


def mean_of_processes(trainer: Any, value: float) -> float:
    """The mean of what the processes of `trainer` call `value`; `value` itself where there is one process."""
    value_here = torch.tensor(value, dtype=torch.float64, device=trainer.args.device)
    return float(trainer.accelerator.reduce(value_here, "mean"))
