"""Through which part of AdamW does the mirror act? Two arms between one draw and a mirrored pair.

AdamW steps along a mean of gradients, over the root of a mean of their squares: its divisor. The part of a draw that is
odd in ε, which a mirrored pair removes, adds noise to the former and enlarges the latter. The arms take one from a
single draw and the other from the pair; each step costs the two forward and backward passes of a pair.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from symnoise.core import InputError
from symnoise.training import SymNoiseTrainer


class DivisorTrainer(SymNoiseTrainer):
    """AdamW without decay, of a mirrored pair's gradient and that of its first side, X + ε, alone.

    Attributes:
        draw_steps: Whether the mean of gradients, along which it steps, is of the first side alone.
        draw_divides: Whether the mean of their squares is.
    """

    draw_steps = False
    draw_divides = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, pair_mode="two-pass", **kwargs)
        if self.args.world_size > 1:
            raise InputError("arms that take AdamW apart train in one process; launch without torchrun or accelerate")

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in the Trainer, of all weights that are trained."""
        trainer: Any = self
        if trainer.optimizer is None:
            given, parts = trainer.args, (self.draw_steps, self.draw_divides)
            weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
            options = {"betas": (given.adam_beta1, given.adam_beta2), "eps": given.adam_epsilon}
            trainer.optimizer = _Adam(weights, given.learning_rate, *parts, **options)
        return trainer.optimizer

    def _one_side(self, side: str, model: nn.Module, one_pass: Callable[[], Tensor], *, last: bool) -> Tensor:
        """One side's pass; the first side's gradient, twice its half of the pair's, is kept apart as well."""
        if side != "first":
            return super()._one_side(side, model, one_pass, last=last)
        weights: list[Any] = [weight for weight in model.parameters() if weight.requires_grad]
        before = [weight.grad for weight in weights]
        for weight in weights:
            weight.grad = None
        loss = super()._one_side(side, model, one_pass, last=last)
        for weight, earlier in zip(weights, before, strict=True):
            if self._micro[1] == 0:
                weight.draw = torch.zeros_like(weight)
            if weight.grad is not None:
                weight.draw += 2 * weight.grad
            weight.grad = _sum(earlier, weight.grad)
        return loss


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other


class DrawOverPair(DivisorTrainer):
    """Steps along a single draw's gradients, over the pair's divisor."""

    draw_steps = True


class PairOverDraw(DivisorTrainer):
    """Steps along the pair's gradients, over a single draw's divisor."""

    draw_divides = True


class _Adam(torch.optim.Optimizer):
    """AdamW without decay, where either mean may be of the gradients `weight.draw` instead of `weight.grad`."""

    def __init__(self, weights: list[nn.Parameter], lr: float, draw_steps: bool, draw_divides: bool, **options: Any):
        super().__init__(weights, {"lr": lr, **options})
        self.draw_steps, self.draw_divides = draw_steps, draw_divides

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; bias is corrected in both means."""
        for group in self.param_groups:
            (beta1, beta2), lr, eps = group["betas"], group["lr"], group["eps"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                own = self.state[weight]
                if not own:
                    own.update(step=0, exp_avg=torch.zeros_like(weight), exp_avg_sq=torch.zeros_like(weight))
                own["step"] += 1
                along, squared = (weight.draw if one else weight.grad for one in (self.draw_steps, self.draw_divides))
                own["exp_avg"].lerp_(along, 1 - beta1)
                own["exp_avg_sq"].mul_(beta2).addcmul_(squared, squared, value=1 - beta2)
                divisor = (own["exp_avg_sq"] / (1 - beta2 ** own["step"])).sqrt_().add_(eps)
                weight.addcdiv_(own["exp_avg"], divisor, value=-lr / (1 - beta1 ** own["step"]))
