"""Traces of the Hessian and of its Gauss-Newton part, with a standard error for each example."""

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch

from symnoise.core import Estimate, InputError, retained_heap, unknown
from symnoise.curvature.estimators import LEAST
from symnoise.curvature.exact import exact_trace
from symnoise.curvature.halving import Halving
from symnoise.curvature.loss import Loss, require_loss
from symnoise.curvature.products import require_repeatable
from symnoise.curvature.sampler import ESTIMATORS, Sampler, TraceParts
from symnoise.curvature.sequential import two_stages
from symnoise.curvature.taylor import UnsupportedOperation
from symnoise.models import EmbeddingLoss

_WITH_PARTS = ("auto", "taylor", "hvp")
METHODS = ("auto", "taylor", "hvp", "difference", *ESTIMATORS, "exact")
DIRECTIONS = ("rademacher", "gaussian", "orthogonal")

Result = TypeVar("Result", Estimate, TraceParts)


def trace(
    loss: Loss,
    method: str = "auto",
    probes: int = 16,
    seed: int = 0,
    *,
    directions: str = "rademacher",
    rtol: float | None = None,
    max_probes: int = 256,
    coefficients: torch.dtype | None = None,
) -> Estimate:
    """tr ∇²ℓ_b(X) of every example b, (batch,), with its standard error, in nats per squared embedding unit.

    Hutchinson's estimate (1/K) Σ_k z_kᵀHz_k over K = `probes` random directions z with E[zzᵀ] = I (Hutchinson 1990);
    standard error from the spread of the probes, or of groups of probes. A probe is one Hessian product in every
    method, so that methods compare at equal `probes`.

    method: "taylor"      collapsed Taylor mode: one forward pass for all probes, no graph (Dangel et al. 2025). The
                          probes are summed in groups as they go, 4 where that divides them, and the error has one
                          degree of freedom fewer than groups.
            "hvp"         Hessian-vector products, reverse over reverse; any model.
            "difference"  central differences of gradients; the systematic error is added to the standard error.
            "hutch++"     products: two thirds for the range of large eigenvalues, where the trace is then exact, and
                          Hutchinson's estimate for what is left (`estimators.hutch_plus_plus`).
            "xtrace"      products: the same with every probe used for both, and a leave-one-out error
                          (`estimators.xtrace`). Both pay where a few eigenvalues carry the spectrum.
            "exact"       n Hessian products, no sampling; small problems only.
            "auto"        "taylor", or "hvp" with a warning where the model uses an operation without a Taylor rule.
    directions: "rademacher" signs; "gaussian", of larger variance; "orthogonal", Haar frames in as many independent
            blocks as Taylor mode has groups (`symnoise.noise.orthogonal_directions`). Probes of one block are
            dependent, so the error is taken from the means of the blocks, with (blocks − 1) degrees of freedom; it
            pays where probes are not few beside an example's coordinates. Not for "hutch++" and "xtrace".
    rtol:   a pilot of `probes` probes says how many more make the standard error of the mean over examples, or that of
            every example, rtol times its value; the estimate is from these fresh probes alone, so that stopping biases
            neither it nor its interval (`sequential.two_stages`). `max_probes` with the pilot at most, then a warning.
    coefficients: dtype of the derivatives in Taylor mode, the model's own unless given. With torch.bfloat16 beside a
            float32 model the errors measured on SmolLM2 are 0.5 to 1.6 %; the standard error does not know of them.

    Each example's result is that of the example alone. Where memory runs out the batch is halved and tried again,
    with a warning. Raises `InputError` for an unknown method or directions, probes < 1 (< 4 for "hutch++" and
    "xtrace"), rtol ≤ 0, a loss that is not finite or not deterministic (one more forward pass a call tells), weights
    without a derivative, a problem too large for "exact" or for memory.
    """
    require_loss(loss)
    _check(method, METHODS, probes, directions, rtol, coefficients)
    sampler = Sampler(probes, seed, directions, coefficients)

    def by(method: str) -> Estimate:
        if method == "exact":
            return _run(loss, lambda part, *_: _exact(part), method, probes, None, max_probes)
        if method in ESTIMATORS:
            return _run(loss, lambda *where: sampler.by_estimator(method, *where), method, probes, rtol, max_probes)
        if method == "taylor":
            return _run(loss, sampler.by_taylor, method, probes, rtol, max_probes, _hessian_of).hessian
        measure = sampler.by_differences if method == "difference" else sampler.by_products
        return _run(loss, measure, method, probes, rtol, max_probes)

    return _with_fallback(loss, method, coefficients, by)


def gauss_newton_trace(
    loss: EmbeddingLoss,
    method: str = "auto",
    probes: int = 16,
    seed: int = 0,
    *,
    directions: str = "rademacher",
    rtol: float | None = None,
    max_probes: int = 256,
    coefficients: torch.dtype | None = None,
) -> Estimate:
    """tr G of every example, (batch,): G = Jᵀ∇²ℓJ, J = ∂logits/∂X, ∇²ℓ = (diag p − ppᵀ)/N at each of N scored tokens.

    The estimate is (1/K) Σ_k z_kᵀGz_k, where zᵀGz is the mean over scored tokens of the variance of Jz under the
    model's own prediction p: never negative (Schraudolph 2002). method "taylor", "hvp" (Jz by reverse over reverse)
    or "auto".
    The other options and what is raised are as in `trace`; `rtol` speaks of tr G.
    """
    require_loss(loss, EmbeddingLoss)
    _check(method, _WITH_PARTS, probes, directions, rtol, coefficients)
    sampler = Sampler(probes, seed, directions, coefficients)

    def by(method: str) -> Estimate:
        if method == "taylor":
            return _run(
                loss, sampler.by_taylor, method, probes, rtol, max_probes, lambda parts: parts.gauss_newton
            ).gauss_newton
        return _run(loss, sampler.gauss_newton_by_products, method, probes, rtol, max_probes)

    return _with_fallback(loss, method, coefficients, by)


def trace_parts(
    loss: EmbeddingLoss,
    method: str = "auto",
    probes: int = 16,
    seed: int = 0,
    *,
    directions: str = "rademacher",
    rtol: float | None = None,
    max_probes: int = 256,
    coefficients: torch.dtype | None = None,
) -> TraceParts:
    """tr H, tr G and tr R = tr H − tr G of every example from the same probes; methods "auto", "taylor", "hvp".

    The other options and what is raised are as in `trace`; `rtol` speaks of tr H.
    """
    require_loss(loss, EmbeddingLoss)
    _check(method, _WITH_PARTS, probes, directions, rtol, coefficients)
    sampler = Sampler(probes, seed, directions, coefficients)

    def by(method: str) -> TraceParts:
        measure = sampler.by_taylor if method == "taylor" else sampler.parts_by_products
        return _run(loss, measure, method, probes, rtol, max_probes, _hessian_of)

    return _with_fallback(loss, method, coefficients, by)


def _check(
    method: str,
    known: tuple[str, ...],
    probes: int,
    directions: str,
    rtol: float | None,
    coefficients: torch.dtype | None,
) -> None:
    if method not in known:
        raise unknown("method", method, known)
    if directions not in DIRECTIONS:
        raise unknown("directions", directions, DIRECTIONS)
    if probes < 1:
        raise InputError(f"probes must be 1 or more; got {probes}")
    if rtol is not None and not rtol > 0:
        raise InputError(f"rtol must be above 0; got {rtol}")
    if rtol is not None and method == "exact":
        raise InputError("rtol is for methods with probes; method='exact' has none")
    if method in ESTIMATORS and probes < LEAST:
        raise InputError(f"method={method!r} needs {LEAST} probes or more; got {probes}")
    if method in ESTIMATORS and directions == "orthogonal":
        raise InputError(f"method={method!r} needs independent probes; choose directions='rademacher' or 'gaussian'")
    if coefficients is not None:
        if method not in ("auto", "taylor"):
            raise InputError(f"coefficients={coefficients} is for method='taylor'; method={method!r} has none")
        if not isinstance(coefficients, torch.dtype) or not coefficients.is_floating_point:
            raise InputError(f"coefficients must be a floating-point dtype such as torch.bfloat16; got {coefficients}")


def _with_fallback(loss: Loss, method: str, coefficients: torch.dtype | None, by: Callable[[str], Result]) -> Result:
    """by(method), where "auto" is Taylor mode or, if that cannot be, Hessian products."""
    if not isinstance(loss, EmbeddingLoss):
        if method == "taylor" or coefficients is not None:
            raise InputError("method='taylor' needs an EmbeddingLoss; use method='hvp' for other functions")
        return by("hvp" if method == "auto" else method)
    if method != "auto":
        return by(method)
    try:
        return by("taylor")
    except UnsupportedOperation as error:
        if coefficients is not None:  # only Taylor mode has any
            raise
        warnings.warn(f"{error}; falling back to method='hvp'", stacklevel=3)
    return by("hvp")


def _run(
    loss: Loss,
    measure: Callable[[Any, int, int], Result],
    method: str,
    probes: int,
    rtol: float | None,
    max_probes: int,
    of: Callable[[Result], Estimate] = lambda result: result,  # type: ignore[assignment, return-value]
) -> Result:
    """measure(loss, first, count) on as much of the batch as memory allows, once or in two stages; timed."""
    started = time.perf_counter()
    halving = Halving(loss)

    def whole(first: int, count: int) -> Result:
        return _each(_joined, *halving(lambda part: measure(part, first, count)))

    with retained_heap():
        result = whole(0, probes) if rtol is None else two_stages(whole, probes, rtol, max_probes, of)
    facts = {"method": method, "seconds": time.perf_counter() - started}
    return _each(lambda estimate: replace(estimate, **facts), result)


def _exact(loss: Loss) -> Estimate:
    with torch.no_grad():
        require_repeatable(loss, loss(loss.embeddings))
    return Estimate.exact(exact_trace(loss))


def _hessian_of(parts: TraceParts) -> Estimate:
    return parts.hessian


def _each(function: Callable[..., Estimate], *results: Any) -> Any:
    """`function` of the estimates, or of those of each part."""
    if isinstance(results[0], TraceParts):
        names = ("hessian", "gauss_newton", "rest")
        return TraceParts(*(function(*(getattr(result, name) for result in results)) for name in names))
    return function(*results)


def _joined(*parts: Estimate) -> Estimate:
    """Estimates of parts of a batch as one of the whole."""
    values, errors = torch.cat([p.value for p in parts]), torch.cat([p.stderr for p in parts])
    return replace(parts[0], value=values, stderr=errors)
