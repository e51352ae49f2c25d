"""Dials: weights of the even and of the odd part of the noise in a training step."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from symnoise.core import InputError, generator
from symnoise.noise import Noise
from symnoise.training.attach import Attached


@dataclass(frozen=True)
class Dials:
    """Weights μ and λ of the even and odd part of the noise: (1−μ) ℓ(X) + ½(μ+λs) ℓ(X+ε) + ½(μ−λs) ℓ(X−ε).

    ε is a draw and s = ±1 an independent sign. With g₀ = ∇ℓ(X) and g± = ∇ℓ(X±ε), over the trained weights, the gradient
    of this objective is g₀ + μE + λsO. E = ½(g₊+g₋) − g₀ is even in ε (curvature and all higher even orders), and
    O = ½(g₊−g₋) is odd, so its mean is zero. Given ε, the mean over s is g₀ + μE for any λ: λ sets only how much
    variance the noise adds to the gradient.

    | μ, λ | |
    |------|-----------------------------------------------------------------------------------------------------|
    | 1, 0 | a mirrored pair (SymNoise)                                                                          |
    | 1, 1 | a single draw, sε                                                                                   |
    | 0, 1 | noise in the gradient without curvature                                                             |
    | μ, 0 | an explicit penalty on the second difference, ℓ(X) + μ {½[ℓ(X+ε) + ℓ(X−ε)] − ℓ(X)}; with α/k and μ = k² \
its leading term is that of α, and the higher orders shrink by 1/k²: for large k, the penalty ½ εᵀHε            |
    | 1, ½√2 | the odd variance of two independent draws                                                         |

    Terms of weight 0 are skipped, so a step costs three forward and backward passes in general, two for μ = 1, and one
    for μ = 1, λ = ±1. ε is one draw per row, s one sign per micro-batch and process; since ε is symmetric, the gradient
    has the distribution of one sign per row. E is a difference of gradients: in bfloat16 their rounding, about 0.4 % of
    each, can exceed it.

    Attributes:
        even: μ, a finite number.
        odd: λ, a finite number; −λ is equivalent to λ in distribution.

    Raises:
        InputError: For a dial that is not finite, and if both are 0.

    Examples:
        >>> from symnoise import Dials
        >>> Dials().weights(1)  # a mirrored pair
        {'first': 0.5, 'second': 0.5}
        >>> Dials(even=1, odd=1).weights(-1)  # a single draw
        {'second': 1.0}
    """

    even: float = 1.0
    odd: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("even", self.even), ("odd", self.odd)):
            if not math.isfinite(value):
                raise InputError(f"the {name} dial must be a finite number; got {value}")
        if self.even == self.odd == 0:
            raise InputError("with both dials at 0 nothing of the noise is left: for plain training use no noise")

    def weights(self, sign: int) -> dict[str, float]:
        """Nonzero weight of each side: "none" for ℓ(X), "first" for ℓ(X+ε), "second" for ℓ(X−ε).

        Args:
            sign: s, 1 or −1.
        """
        odd = sign * self.odd
        sides = {"none": 1 - self.even, "first": (self.even + odd) / 2, "second": (self.even - odd) / 2}
        return {side: weight for side, weight in sides.items() if weight != 0}

    def sides(self, noise: Attached, batch: Mapping[str, Any]) -> list[tuple[float, AbstractContextManager[None]]]:
        """The passes over `batch` in your own training loop, as (weight, block): forwards in the block get one side.

        Σ weight · loss is the objective, and the weights sum to 1.

            for weight, side in dials.sides(noise, batch):
                with side:
                    (weight * model(**batch).loss).backward()

        Args:
            noise: The handle from `attach`; each call takes the next micro-step of its optimizer step.
            batch: The batch, not doubled.

        Returns:
            (weight, context manager) of each side with a weight.

        Raises:
            InputError: For noise that dials do not work with: none, or two independent draws.
        """
        objective(noise.noise, self)
        plan = noise.next_plan(batch)
        weights = side_weights(noise, self, plan.key)
        return [(weight, noise.using(replace(plan, side=side))) for side, weight in weights.items()]


def objective(noise: Noise | None, dials: Dials | None) -> Dials | None:
    """The dials of a step: those given, else those of a mirrored pair, and None for all other noise.

    Given dials take one draw of `noise`, single or paired, and replace its pairing.
    """
    if dials is None:
        return Dials() if noise is not None and noise.paired and noise.mirrored else None
    if noise is None:
        raise InputError("dials weigh the two sides of a noise; give a noise as well, such as symnoise")
    if noise.independent:
        raise InputError(f"dials need one draw and its mirror image, and {noise.name} makes two draws; use symnoise")
    return dials


def passes(noise: Noise | None, dials: Dials | None) -> int:
    """Number of passes of a batch through the model."""
    if dials is not None:
        return len(dials.weights(1))
    return 2 if noise is not None and noise.paired else 1


def side_weights(noise: Attached, dials: Dials | None, key: tuple[int, ...]) -> dict[str, float]:
    """Side (as in `NoisePlan`) → weight in the loss of micro-step `key`.

    The sign has its own random stream, keyed by (seed, rank, step, micro-step), so ε is that of a run without dials.
    """
    if dials is not None:
        return dials.weights(_sign(noise, key) if dials.odd else 1)
    assert noise.noise is not None
    return {"first": 0.5, "second": 0.5} if noise.noise.paired else {"single": 1.0}


def _sign(noise: Attached, key: tuple[int, ...]) -> int:
    return 1 - 2 * int(torch.randint(2, (), generator=generator(noise.seed, "dial", noise.rank, *key)))


class CleanLoss:
    """Mean of ℓ(X) over optimizer steps, from the micro-batches that compute it anyway."""

    def __init__(self) -> None:
        self._losses: dict[tuple[int, int], Tensor] = {}
        self._averaged = False

    def add(self, loss: Tensor, micro_step: tuple[int, int], *, averaged: bool) -> None:
        """Add the loss of a micro-batch; `averaged`: a step's loss is their mean, not their sum."""
        self._losses[micro_step], self._averaged = loss, averaged

    def take(self) -> Tensor | None:
        """The mean since the last call, on this process; None if nothing was added."""
        losses, self._losses = self._losses, {}
        count = len(losses) if self._averaged else len({step for step, _ in losses})
        return torch.stack(list(losses.values())).sum() / count if losses else None
