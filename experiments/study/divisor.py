"""Does the mirror act by AdamW's divisor? Two arms between one draw and a mirrored pair.

AdamW steps along a mean of gradients, over the root of a mean of their squares: its divisor. The part of a draw that is
odd in ε, which a mirrored pair removes, adds noise to the former and enlarges the latter, so that steps are smaller.
The arms take gradients and the pattern of the divisor from the one, and the divisor's size in each weight from the
other; a step costs the two forward and backward passes of a pair. (With the divisor exchanged entry by entry AdamW
breaks: where one gradient is small the other need not be, and both arms ended about a nat worse than either.)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from symnoise.core import InputError
from symnoise.training import SymNoiseTrainer


class DivisorTrainer(SymNoiseTrainer):
    """AdamW without decay on a mirrored pair's gradient or on that of its first side, X + ε, alone.

    Attributes:
        draw: Whether the gradient is of the first side alone.
        draw_size: Whether the divisor is as large as that of the first side alone, in each weight.
    """

    draw = False
    draw_size = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, pair_mode="two-pass", **kwargs)
        if self.args.world_size > 1:
            raise InputError("arms that take AdamW apart train in one process; launch without torchrun or accelerate")

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in the Trainer, of all weights that are trained."""
        trainer: Any = self
        if trainer.optimizer is None:
            given, parts = trainer.args, (self.draw, self.draw_size)
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


class DrawAtPairSize(DivisorTrainer):
    """A single draw, with steps as large as the pair's divisor makes them."""

    draw = True


class PairAtDrawSize(DivisorTrainer):
    """A pair, with steps as small as a single draw's divisor makes them."""

    draw_size = True


class _Adam(torch.optim.Optimizer):
    """AdamW without decay of the gradients `weight.draw` or `weight.grad`, its divisor as large as that of either.

    The divisor d is scaled by √(v̄'/v̄), v̄ and v̄' being the means over a weight's entries, and over steps as in d, of
    the squares of the gradient that is stepped along and of that which gives the size.
    """

    def __init__(self, weights: list[nn.Parameter], lr: float, draw: bool, draw_size: bool, **options: Any):
        super().__init__(weights, {"lr": lr, **options})
        self.draw, self.draw_size = draw, draw_size

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
                    zeros = (torch.zeros_like(weight), torch.zeros_like(weight), weight.new_zeros(()))
                    own.update(zip(("exp_avg", "exp_avg_sq", "size"), zeros, strict=True), step=0)
                own["step"] += 1
                along, sized = (weight.draw if one else weight.grad for one in (self.draw, self.draw_size))
                own["exp_avg"].lerp_(along, 1 - beta1)
                own["exp_avg_sq"].mul_(beta2).addcmul_(along, along, value=1 - beta2)
                own["size"].lerp_(sized.square().mean(), 1 - beta2)
                scale = own["size"] / own["exp_avg_sq"].mean().clamp_min(torch.finfo(weight.dtype).tiny)
                divisor = (scale * own["exp_avg_sq"] / (1 - beta2 ** own["step"])).sqrt_().add_(eps)
                weight.addcdiv_(own["exp_avg"], divisor, value=-lr / (1 - beta1 ** own["step"]))
