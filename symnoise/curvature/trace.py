"""Traces of the Hessian and of its Gauss-Newton part, with a standard error for each example."""

import time
import warnings
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Estimate, InputError, retained_heap, track, unknown
from symnoise.curvature.difference import hvp_difference
from symnoise.curvature.exact import exact_trace
from symnoise.curvature.gauss_newton import JacobianProducts, softmax_curvature
from symnoise.curvature.loss import Loss
from symnoise.curvature.loss import probes as probes_of
from symnoise.curvature.products import HessianProducts, inner, require_finite
from symnoise.curvature.taylor import UnsupportedOperation, taylor_quadratics
from symnoise.models import EmbeddingLoss

_WITH_PARTS = ("auto", "taylor", "hvp")
METHODS = ("auto", "taylor", "hvp", "difference", "exact")


@dataclass(frozen=True)
class TraceParts:
    """tr H = tr G + tr R of every example (claim P4), from the same probes.

    hessian: tr H.  gauss_newton: tr G, G = Jᵀ∇²ℓJ ⪰ 0 the curvature of the loss at the logits.
    rest: tr R, the bending of the logits weighted by the residual; its error is that of the difference.
    """

    hessian: Estimate
    gauss_newton: Estimate
    rest: Estimate


def trace(loss: Loss, method: str = "auto", probes: int = 16, seed: int = 0) -> Estimate:
    """tr ∇²ℓ_b(X) of every example b, (batch,), with its standard error.

    Hutchinson's estimate (1/K) Σ_k z_kᵀHz_k over K = `probes` Rademacher directions z (Hutchinson 1989); standard
    error from the spread of the probes, or of groups of probes.

    method: "taylor"      collapsed Taylor mode: one forward pass for all probes, no graph (Dangel et al. 2025). The
                          probes are summed in up to 4 groups as they go, so the error has as few degrees of freedom.
            "hvp"         Hessian-vector products, reverse over reverse; any model.
            "difference"  central differences of gradients; the systematic error is added to the standard error.
            "exact"       n Hessian products, no sampling; small problems only.
            "auto"        "taylor", or "hvp" with a warning where the model uses an operation without a Taylor rule.
    Raises `InputError` for an unknown method, probes < 1, a loss that is not finite, a problem too large for "exact".
    """
    _check(method, METHODS, probes)
    if method in ("auto", "taylor"):
        parts = _taylor_or_none(loss, method, probes, seed)
        if parts is not None:
            return parts.hessian
        method = "hvp"
    started = time.perf_counter()
    with retained_heap():
        if method == "exact":
            estimate = Estimate.exact(exact_trace(loss))
        elif method == "difference":
            estimate = _by_differences(loss, probes, seed)
        else:
            estimate = Estimate.from_draws(_hessian_forms(loss, probes, seed))
    return replace(estimate, method=method, seconds=time.perf_counter() - started)


def gauss_newton_trace(loss: EmbeddingLoss, method: str = "auto", probes: int = 16, seed: int = 0) -> Estimate:
    """tr G of every example, (batch,): G = Jᵀ∇²ℓJ, J = ∂logits/∂X, ∇²ℓ = (diag p − ppᵀ)/N at each of N scored tokens.

    The estimate is (1/K) Σ_k z_kᵀGz_k, where zᵀGz is the mean over scored tokens of the variance of Jz under the
    model's own prediction p: never negative. method "taylor", "hvp" (Jz by reverse over reverse) or "auto".
    Raises `InputError` as `trace` does.
    """
    _check(method, _WITH_PARTS, probes)
    if method != "hvp":
        parts = _taylor_or_none(loss, method, probes, seed)
        if parts is not None:
            return parts.gauss_newton
    started = time.perf_counter()
    with retained_heap():
        estimate = Estimate.from_draws(_gauss_newton_forms(loss, probes, seed))
    return replace(estimate, method="hvp", seconds=time.perf_counter() - started)


def trace_parts(loss: EmbeddingLoss, method: str = "auto", probes: int = 16, seed: int = 0) -> TraceParts:
    """tr H, tr G and tr R = tr H − tr G of every example from the same probes; methods "auto", "taylor", "hvp"."""
    _check(method, _WITH_PARTS, probes)
    if method != "hvp":
        parts = _taylor_or_none(loss, method, probes, seed)
        if parts is not None:
            return parts
    started = time.perf_counter()
    with retained_heap():
        hessian = _hessian_forms(loss, probes, seed)
        gauss_newton = _gauss_newton_forms(loss, probes, seed)
    facts = {"method": "hvp", "seconds": time.perf_counter() - started}
    return TraceParts(*(Estimate.from_draws(f, **facts) for f in (hessian, gauss_newton, hessian - gauss_newton)))


def _check(method: str, known: tuple[str, ...], probes: int) -> None:
    if method not in known:
        raise unknown("method", method, known)
    if probes < 1:
        raise InputError(f"probes must be 1 or more; got {probes}")


def _hessian_forms(loss: Loss, count: int, seed: int) -> Float[Tensor, "probe batch"]:
    """zᵀHz of each probe and example, one probe in memory at a time."""
    product = HessianProducts(loss)
    forms = []
    for k in track(range(count), "Hessian products"):
        (z,) = probes_of(loss, 1, seed=seed, first=k)
        forms.append(inner(z, product(z)))
    return torch.stack(forms)


def _gauss_newton_forms(loss: EmbeddingLoss, count: int, seed: int) -> Float[Tensor, "probe batch"]:
    """zᵀGz of each probe and example."""
    jacobian = JacobianProducts(loss)
    forms = []
    for k in track(range(count), "Jacobian products"):
        (z,) = probes_of(loss, 1, seed=seed, first=k)
        forms.append(loss.mean_over_tokens(softmax_curvature(jacobian.logits, jacobian(z))))
    return torch.stack(forms)


def _by_differences(loss: Loss, count: int, seed: int) -> Estimate:
    forms, errors = [], []
    for k in track(range(count), "Gradient differences"):
        (z,) = probes_of(loss, 1, seed=seed, first=k)
        difference = hvp_difference(loss, z)
        forms.append(inner(z, difference.product))
        # |zᵀ(D − Hz)| for an error vector that does not know z: its norm times the size of one coordinate of z.
        errors.append(difference.error)
    estimate = Estimate.from_draws(torch.stack(forms))
    systematic = torch.stack(errors).mean(0)
    return replace(estimate, stderr=(estimate.stderr**2 + systematic**2).sqrt())


def _taylor_or_none(loss: Loss, method: str, probes: int, seed: int) -> TraceParts | None:
    """By Taylor mode; None where `method` is "auto" and there is no way to."""
    if not isinstance(loss, EmbeddingLoss):
        if method == "taylor":
            raise InputError("method='taylor' needs an EmbeddingLoss; use method='hvp' for other functions")
        return None
    try:
        return _taylor(loss, probes, seed)
    except UnsupportedOperation as error:
        if method == "taylor":
            raise
        warnings.warn(f"{error}; falling back to method='hvp'", stacklevel=3)
        return None


def _taylor(loss: EmbeddingLoss, count: int, seed: int) -> TraceParts:
    started = time.perf_counter()
    # Four groups cost 3 K-ths of a forward pass a probe more than one, and give the error 3 degrees of freedom.
    groups = max(g for g in range(1, 5) if count % g == 0)
    require_finite(loss, loss.mean_over_tokens(loss.token_losses()))
    forms = taylor_quadratics(loss, probes_of(loss, count, seed=seed), groups=groups)
    gauss_newton = forms.gauss_newton.unflatten(0, (groups, -1)).mean(1)
    facts = {"method": "taylor", "count": count, "seconds": time.perf_counter() - started}
    return TraceParts(
        Estimate.from_draws(forms.hessian, **facts),
        Estimate.from_draws(forms.gauss_newton, **facts),
        Estimate.from_draws(forms.hessian - gauss_newton, **facts),
    )
