"""Curvature along the ray through the embeddings: the radial identity (claim N3)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from symnoise.core import Estimate, InputError, quantities_frame, retained_heap, track
from symnoise.curvature.loss import UNIT, require_loss
from symnoise.curvature.operators.hessian import differentiable, require_derivatives, require_finite
from symnoise.models import Loss
from symnoise.noise import directions

if TYPE_CHECKING:
    import pandas as pd

DEGREE = -2  # of tr H if ℓ has degree 0 in X: tr H(cX) = c⁻² tr H(X)


@dataclass(frozen=True)
class RadialIdentity:
    """Change of tr H along the ray through X: (batch,), from the same probes, in nats per squared embedding unit.

    If ℓ(cX) = ℓ(X) for all c > 0, then H(cX) = H(X)/c² and the defect is 0.

    Attributes:
        trace: tr H.
        derivative: ⟨X, ∇ tr H⟩ = d/dc tr H(cX) at c = 1.
        defect: ⟨X, ∇ tr H⟩ + 2 tr H.
    """

    trace: Estimate
    derivative: Estimate
    defect: Estimate

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per example and quantity: value and stderr; `attrs` holds the unit."""
        return quantities_frame(self._named(), unit=UNIT)

    def __repr__(self) -> str:
        parts = "; ".join(f"{name} {part}" for name, part in self._named().items())
        return f"RadialIdentity({parts} {UNIT}{self.trace.facts('probes')})"

    def _named(self) -> dict[str, Estimate]:
        return {"tr H": self.trace, "⟨X, ∇ tr H⟩": self.derivative, "⟨X, ∇ tr H⟩ + 2 tr H": self.defect}


class _GeluWrittenOut(TorchFunctionMode):
    """The tanh form of GELU from its definition.

    PyTorch's own has NaN as third derivative from x = 14 on, where its cosh overflows in float32; models reach that.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is F.gelu and kwargs.get("approximate") == "tanh":
            x = args[0]
            return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return function(*args, **kwargs)


def radial_identity(loss: Loss, probes: int = 8, seed: int = 0) -> RadialIdentity:
    """Scale-invariance check of the loss: tr H, ⟨X, ∇ tr H⟩ and ⟨X, ∇ tr H⟩ + 2 tr H, by Hutchinson's estimate.

    ⟨X, ∇(zᵀHz)⟩ is exact for each Rademacher probe: reverse mode three times, with no step size to choose. Memory is
    about three times that of a Hessian product, so measure few short examples at a time.

    Args:
        loss: Any loss with `embeddings`, `mask` and `ids`.
        probes: Probes per example.
        seed: Random seed of the probes.

    Returns:
        The three estimates, (batch,), with standard errors over probes.

    Raises:
        InputError: For probes < 1; for a loss that is not finite or not differentiable, or whose third derivative is
            not finite.
    """
    require_loss(loss)
    if probes < 1:
        raise InputError(f"probes must be 1 or more; got {probes}")
    forms, slopes = [], []
    X = loss.embeddings.detach().requires_grad_()
    with retained_heap(), torch.enable_grad(), differentiable(loss), _GeluWrittenOut():
        values = loss(X)
        require_finite(loss, values.detach())
        require_derivatives(values)
        g = _derivative(values.sum(), X)
        for k in track(range(probes), "third derivatives"):
            (z,) = directions(X, loss.mask, loss.ids, 1, seed=seed, first=k)
            Hz = _derivative(g, X, z)
            form = (Hz.double() * z.double()).sum((1, 2))
            slope = _derivative(form.sum(), X, again=False)
            forms.append(form.detach())
            slopes.append((slope.double() * X.detach().double()).sum((1, 2)))
    form_, slope_ = torch.stack(forms), torch.stack(slopes)
    if not bool(slope_.isfinite().all()):
        raise InputError("⟨X, ∇ tr H⟩ is NaN or infinite although the loss is finite; try float64")
    return RadialIdentity(
        Estimate.from_draws(form_), Estimate.from_draws(slope_), Estimate.from_draws(slope_ - DEGREE * form_)
    )


def _derivative(of: Tensor, X: Tensor, along: Tensor | None = None, *, again: bool = True) -> Tensor:
    """∂of/∂X, `of` weighted by `along`, with its own graph if it is derived `again`; 0 where `of` does not depend on X,
    as a quadratic's Hessian."""
    if not of.requires_grad:
        return torch.zeros_like(X)
    (found,) = torch.autograd.grad(of, X, along, retain_graph=True, create_graph=again, materialize_grads=True)
    return found
