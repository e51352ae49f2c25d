"""Dials: how much of the even and of the odd part of a draw's effect a training step takes."""

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
    """The objective (1−μ) ℓ(X) + ½(μ+λs) ℓ(X+ε) + ½(μ−λs) ℓ(X−ε), for a draw ε and an independent sign s = ±1.

    With g₀ = ∇ℓ(X) and g± = ∇ℓ(X±ε), over whatever is trained, its gradient is g₀ + μE + λsO, where
    E = ½(g₊+g₋) − g₀ is even in ε (curvature and all higher even orders) and O = ½(g₊−g₋) is odd, so of mean zero.
    Given ε, the mean over s is g₀ + μE, whatever λ is: λ sets how much variance the noise adds to the gradient, and
    nothing else.

    | μ, λ | |
    |------|-----------------------------------------------------------------------------------------------------|
    | 1, 0 | a mirrored pair (SymNoise)                                                                          |
    | 1, 1 | a single draw, sε                                                                                   |
    | 0, 1 | noise in the gradient without curvature                                                             |
    | μ, 0 | an explicit penalty on the second difference, ℓ(X) + μ {½[ℓ(X+ε) + ℓ(X−ε)] − ℓ(X)}; with α/k and μ = k² \
its leading term is that of α, and the higher orders shrink by 1/k²: for large k, the penalty ½ εᵀHε            |
    | 1, ½√2 | the odd variance of two independent draws                                                         |

    A term whose weight is 0 is left out, so a step costs three forward and backward passes in general, two for μ = 1,
    and one for μ = 1, λ = ±1. ε is one draw per row, s one sign per micro-batch of a process; the law of the gradient
    is that of a sign per row, since ε is symmetric. E is a difference of gradients: in bfloat16 their rounding, some
    0.4 % of each, can exceed it.

    even: μ, a finite number.
    odd:  λ, a finite number; −λ has the law of λ.

    Raises `InputError` for a dial that is not finite, and where both are 0.
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
        """The weight of each side that has one: "none" for ℓ(X), "first" for ℓ(X+ε), "second" for ℓ(X−ε)."""
        odd = sign * self.odd
        sides = {"none": 1 - self.even, "first": (self.even + odd) / 2, "second": (self.even - odd) / 2}
        return {side: weight for side, weight in sides.items() if weight != 0}

    def sides(self, noise: Attached, batch: Mapping[str, Any]) -> list[tuple[float, AbstractContextManager[None]]]:
        """(weight, block) of each pass over `batch` in a loop of one's own: forwards within the block get that side's
        noise. Σ weight · loss is the objective, and the weights add up to 1.

            for weight, side in dials.sides(noise, batch):
                with side:
                    (weight * model(**batch).loss).backward()

        noise: what `attach` returned; each call takes the next micro-step of its optimizer step.
        batch: as it is, not doubled.

        Raises `InputError` for noise that dials do not work with: none, or two independent draws.
        """
        objective(noise.noise, self)
        plan = noise.next_plan(batch)
        weights = side_weights(noise, self, plan.key)
        return [(weight, noise.using(replace(plan, side=side))) for side, weight in weights.items()]


def objective(noise: Noise | None, dials: Dials | None) -> Dials | None:
    """The dials of a step: as given, those of a mirrored pair where none are, and None for all other noise.

    Given dials take one draw of `noise`, single or paired, and say what is done with it instead of its pairing.
    """
    if dials is None:
        return Dials() if noise is not None and noise.paired and noise.mirrored else None
    if noise is None:
        raise InputError("dials weigh the two sides of a noise; give a noise as well, such as symnoise")
    if noise.paired and not noise.mirrored:
        raise InputError(f"dials need one draw and its mirror image, and {noise.name} makes two draws; use symnoise")
    return dials


def passes(noise: Noise | None, dials: Dials | None) -> int:
    """How often a batch goes through the model."""
    if dials is not None:
        return len(dials.weights(1))
    return 2 if noise is not None and noise.paired else 1


def side_weights(noise: Attached, dials: Dials | None, key: tuple[int, ...]) -> dict[str, float]:
    """Side (as in `Frame`) → weight in the loss of micro-step `key`.

    The sign has a stream of its own, named by (seed, rank, step, micro-step), so ε is that of a run without dials.
    """
    if dials is not None:
        return dials.weights(_sign(noise, key) if dials.odd else 1)
    assert noise.noise is not None
    return {"first": 0.5, "second": 0.5} if noise.noise.paired else {"single": 1.0}


def _sign(noise: Attached, key: tuple[int, ...]) -> int:
    return 1 - 2 * int(torch.randint(2, (), generator=generator(noise.seed, "dial", noise.rank, *key)))


class CleanLoss:
    """The mean of ℓ(X) over optimizer steps, of the micro-batches that compute it anyway."""

    def __init__(self) -> None:
        self._losses: dict[tuple[int, int], Tensor] = {}
        self._averaged = False

    def add(self, loss: Tensor, micro_step: tuple[int, int], *, averaged: bool) -> None:
        """One micro-batch's; `averaged` says that a step's loss is their mean, not their sum."""
        self._losses[micro_step], self._averaged = loss, averaged

    def take(self) -> Tensor | None:
        """The mean since the last call, on this process; None where nothing was added."""
        losses, self._losses = self._losses, {}
        count = len(losses) if self._averaged else len({step for step, _ in losses})
        return torch.stack(list(losses.values())).sum() / count if losses else None
