"""Curvature along the ray through the embeddings: the radial identity (claim N3)."""

from dataclasses import dataclass

import torch

from symnoise.core import Estimate, InputError, retained_heap, track
from symnoise.models import Loss
from symnoise.noise import directions

DEGREE = -2  # of tr H where ℓ has degree 0 in X: tr H(cX) = c⁻² tr H(X)


@dataclass(frozen=True)
class RadialIdentity:
    """How tr H changes along the ray through X; in nats per squared embedding unit.

    trace:      tr H.
    derivative: ⟨X, ∇ tr H⟩ = d/dc tr H(cX) at c = 1.
    defect:     ⟨X, ∇ tr H⟩ + 2 tr H.

    Where ℓ(cX) = ℓ(X) for all c > 0, H(cX) = H(X)/c² and the defect is 0. All (batch,), from the same probes.
    """

    trace: Estimate
    derivative: Estimate
    defect: Estimate


def radial_identity(loss: Loss, probes: int = 8, seed: int = 0) -> RadialIdentity:
    """tr H, ⟨X, ∇ tr H⟩ and the defect from scale invariance, by Hutchinson with Rademacher probes.

    ⟨X, ∇(zᵀHz)⟩ is exact for each probe: reverse mode three times, no step to choose. Memory is about three times
    that of a Hessian product, so measure short examples, few at a time. Works for any loss with `embeddings`,
    `mask` and `ids`. Raises `InputError` for probes < 1.
    """
    if probes < 1:
        raise InputError(f"probes must be 1 or more; got {probes}")
    forms, slopes = [], []
    X = loss.embeddings.detach().requires_grad_()
    with retained_heap(), torch.enable_grad():
        (g,) = torch.autograd.grad(loss(X).sum(), X, create_graph=True)
        for k in track(range(probes), "third derivatives"):
            (z,) = directions(X, loss.mask, loss.ids, 1, seed=seed, first=k)
            (Hz,) = torch.autograd.grad(g, X, z, create_graph=True)
            form = (Hz.double() * z.double()).sum((1, 2))
            (slope,) = torch.autograd.grad(form.sum(), X, retain_graph=True)
            forms.append(form.detach())
            slopes.append((slope.double() * X.detach().double()).sum((1, 2)))
    form_, slope_ = torch.stack(forms), torch.stack(slopes)
    return RadialIdentity(
        Estimate.from_draws(form_), Estimate.from_draws(slope_), Estimate.from_draws(slope_ - DEGREE * form_)
    )
