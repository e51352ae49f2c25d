"""The curvature penalty that a pair stands for, written out."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from symnoise.core import InputError, unknown
from symnoise.training.attach import Attached, Frame

METHODS = ("difference", "hutchinson")


@dataclass(frozen=True)
class CurvaturePenalty:
    """ℓ(X) + weight·P(ε): the clean loss and an explicit penalty, where noise would leave P inside the loss.

    "difference": P = ½[ℓ(X+ε) + ℓ(X−ε)] − ℓ(X), the symmetric second difference; three forwards and backwards. With
                  weight 1 this is the pair's loss.
    "hutchinson": P = ½ εᵀHε with H = ∇²ℓ(X), by differentiating twice along ε: the same without the terms of
                  fourth and higher order. It needs three derivatives of everything in the model, so
                  attention runs on PyTorch's math kernel; not for TRL's fused loss nor several processes.
    Both have the mean (σ²/2) tr H up to fourth order; ε is the Trainer's noise.
    """

    method: str = "difference"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("penalty method", self.method, METHODS)
        if not 0 <= self.weight < float("inf"):
            raise InputError(f"the penalty's weight must be a finite number, 0 or larger; got {self.weight}")


def penalised_loss(
    penalty: CurvaturePenalty,
    loss: Callable[[], Tensor],
    paired_loss: Callable[[], Tensor],
    noise: Attached,
    frame: Frame,
) -> Tensor:
    """`loss()` on the batch as it is, penalised; `paired_loss()` is the mean of its two sides."""
    if penalty.method == "difference":
        with noise.using(replace(frame, side="none")):
            clean = loss()
        return clean + penalty.weight * (paired_loss() - clean)
    if frame.lengths is None:
        raise InputError("the hutchinson penalty needs batches with input_ids; use CurvaturePenalty('difference')")
    along = torch.zeros((), device=frame.lengths.device, requires_grad=True)
    with noise.using(replace(frame, along=along)), sdpa_kernel(SDPBackend.MATH):
        clean = loss()
    (slope,) = torch.autograd.grad(clean, along, create_graph=True)  # ε·∇ℓ
    (bend,) = torch.autograd.grad(slope, along, create_graph=True)  # εᵀHε
    return clean + penalty.weight * bend / 2
