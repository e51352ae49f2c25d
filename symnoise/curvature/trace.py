"""Traces of the Hessian and of its Gauss-Newton part, with a standard error per example.

Each trace has a table from method to measurement: a function of the sampler, the loss, the number of the first probe,
and the number of probes. `measured` runs it on as much of the batch as memory allows.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from symnoise.core import Estimate, InputError, retained_heap
from symnoise.curvature.estimators.columns import LEAST
from symnoise.curvature.estimators.sampler import ESTIMATORS, Sampler, TraceParts
from symnoise.curvature.estimators.two_levels import TWO_LEVELS, TwoLevels, by_two_levels, coarse_weight, split
from symnoise.curvature.estimators.two_stages import two_stages
from symnoise.curvature.halving import Halving
from symnoise.curvature.loss import Loss, require_loss
from symnoise.curvature.operators.exact import exact_trace
from symnoise.curvature.operators.hessian import require_repeatable
from symnoise.curvature.options import DIRECTIONS, PRECISIONS, Options
from symnoise.curvature.taylor import UnsupportedOperation
from symnoise.curvature.taylor.speed import bfloat16_is_faster
from symnoise.models import EmbeddingLoss

Found = Estimate | TraceParts  # Taylor mode gives all parts at once
# Of (sampler, loss, first probe, number of probes), to what has `joined` and `noting`.
Measure = Callable[..., Any]


def trace(
    loss: Loss,
    method: str = "auto",
    probes: int = 16,
    seed: int = 0,
    *,
    directions: str = "rademacher",
    rtol: float | None = None,
    atol: float | None = None,
    sign: bool = False,
    max_probes: int = 256,
    precision: str = "auto",
    coefficients: torch.dtype | None = None,
) -> Estimate:
    """Trace of the Hessian, tr ∇²ℓ_b(X), of every example b, with its standard error.

    Hutchinson's estimate (1/K) Σ_k z_kᵀHz_k over K = `probes` random directions z with E[zzᵀ] = I (Hutchinson 1990).
    The standard error comes from the spread of the probes, or of groups of probes. A probe is one Hessian product in
    every method, so methods compare at equal `probes`. Examples do not interact. If memory runs out, the batch is
    halved and retried, with a warning.

    Methods:

    - "taylor": collapsed Taylor mode, one forward pass for all probes, no graph (Dangel et al. 2025). Probes are summed
      in groups, 4 if that divides their number; the error has (groups − 1) degrees of freedom.
    - "hvp": Hessian-vector products, reverse over reverse; works for any model.
    - "difference": central differences of gradients; the systematic error is added to the standard error.
    - "hutch++": two thirds of the products go to the range of large eigenvalues, whose trace is exact, the others to
      Hutchinson's estimate of the rest (`estimators.hutch_plus_plus`).
    - "xtrace": the same with every probe used for both, and a leave-one-out error (`estimators.xtrace`). Both pay when
      the spectrum is dominated by a few eigenvalues.
    - "two-level": Taylor mode in bfloat16 for `probes` probes, and in both bfloat16 and the model's own precision for
      some more, the pairs, whose difference removes the bias; its uncertainty is in the standard error
      (`estimators.two_levels`; multilevel Monte Carlo, Giles 2008). One pair for 16 probes, 4 to 32 at least; with a
      target, as many as a pilot finds best. `max_probes` does not count pairs.
    - "exact": n Hessian products, no sampling; small problems only.
    - "auto": "two-level" for float32 models where that is faster: with 128 probes or more (or a target with at least
      that `max_probes`), and on a processor whose bfloat16 products are (`taylor.speed`, measured once). Else "taylor",
      or "hvp" with a warning if the model uses an operation without a Taylor rule.

    Args:
        loss: The loss and the embeddings at which to measure.
        method: See above.
        probes: Probes per example.
        seed: Random seed of the probes.
        directions: "rademacher" signs; "gaussian", of larger variance; or "orthogonal", Haar frames in as many
            independent blocks as Taylor mode has groups (`symnoise.noise.orthogonal_directions`). The error of
            orthogonal directions is that of the means of the blocks, with (blocks − 1) degrees of freedom. They pay
            when probes are not few compared with an example's coordinates. Not for "hutch++" and "xtrace".
        rtol: Target relative standard error, of the mean over examples or of every example, whichever takes fewer
            probes. A pilot of `probes` probes determines how many more are needed. The estimate uses only these fresh
            probes, so that stopping biases neither it nor its interval (`two_stages`).
        atol: Target absolute standard error, in units of the trace. Of several targets the one that takes the fewest
            probes counts; a trace near 0 never reaches `rtol`. `Estimate.stopped` says which it was.
        sign: The target is a known sign: a standard error of 0.357·|tr H|, for which a 95 % interval excludes 0 with
            probability 0.8. Not with `rtol`.
        max_probes: Limit on the probes for a target, pilot included; warns if they do not suffice.
        precision: "auto" leaves it to the method; "float32" keeps "auto" from "two-level", so that every derivative is
            in the model's own precision, on every machine; "bfloat16" is `coefficients=torch.bfloat16`.
        coefficients: dtype of the derivatives in Taylor mode, default the model's. With torch.bfloat16 and a float32
            model, errors of 0.5 to 1.6 % were measured on SmolLM2; the standard error does not include them. Use
            "two-level" to remove them.

    Returns:
        tr H, (batch,), in nats per squared embedding unit.

    Raises:
        InputError: For an unknown method, directions or precision, probes < 1 (< 4 for "hutch++", "xtrace" and
            "two-level"), or a target ≤ 0; for a loss that is not finite or not deterministic (checked with one extra
            forward pass); for weights without a derivative, or for "two-level" coarser than float32; and for a problem
            too large for "exact" or for memory.

    Examples:
        >>> import torch
        >>> from symnoise import trace
        >>> class Square:  # ℓ(x) = ½‖x‖², so H = I
        ...     embeddings, mask, ids = torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.long), [0]
        ...     def __call__(self, X):
        ...         return X.square().sum((1, 2)) / 2
        >>> trace(Square(), probes=4).value
        tensor([6.], dtype=torch.float64)
    """
    require_loss(loss)
    options = Options(method, probes, seed, directions, rtol, atol, sign, max_probes, precision, coefficients)
    return _hessian(measured(loss, options, _HESSIAN, _hessian))


def gauss_newton_trace(
    loss: EmbeddingLoss,
    method: str = "auto",
    probes: int = 16,
    seed: int = 0,
    *,
    directions: str = "rademacher",
    rtol: float | None = None,
    atol: float | None = None,
    sign: bool = False,
    max_probes: int = 256,
    precision: str = "auto",
    coefficients: torch.dtype | None = None,
) -> Estimate:
    """Trace of the Gauss-Newton matrix, tr G, of every example, with its standard error.

    G = Jᵀ∇²ℓJ with J = ∂logits/∂X and ∇²ℓ = (diag p − ppᵀ)/N at each of N scored tokens. The estimate is
    (1/K) Σ_k z_kᵀGz_k, where zᵀGz is the mean over scored tokens of the variance of Jz under the model's own prediction
    p: never negative (Schraudolph 2002).

    Args:
        loss: The model and batch.
        method: "taylor", "two-level", "hvp" (Jz by reverse over reverse), "auto", or "xnystrace" (products Gz; every
            probe is both sketch and sample, which pays when the eigenvalues of G decay fast, and not on a flat
            spectrum: `estimators.xnystrace`).
        probes: Probes per example.
        seed: Random seed of the probes.
        directions: As in `trace`; not "orthogonal" for "xnystrace".
        rtol: Target relative standard error of tr G, as in `trace`.
        atol: Target absolute standard error of tr G, as in `trace`.
        sign: As in `trace`; tr G > 0 is known beforehand.
        max_probes: As in `trace`.
        precision: As in `trace`.
        coefficients: As in `trace`.

    Returns:
        tr G, (batch,), in nats per squared embedding unit.

    Raises:
        InputError: As in `trace`.
    """
    require_loss(loss, EmbeddingLoss)
    options = Options(method, probes, seed, directions, rtol, atol, sign, max_probes, precision, coefficients)
    return _gauss_newton(measured(loss, options, _GAUSS_NEWTON, _gauss_newton))


def trace_parts(
    loss: EmbeddingLoss,
    method: str = "auto",
    probes: int = 16,
    seed: int = 0,
    *,
    directions: str = "rademacher",
    rtol: float | None = None,
    atol: float | None = None,
    sign: bool = False,
    max_probes: int = 256,
    precision: str = "auto",
    coefficients: torch.dtype | None = None,
) -> TraceParts:
    """Traces of the Hessian and of its parts, tr H, tr G and tr R = tr H − tr G, from the same probes.

    Args:
        loss: The model and batch.
        method: "taylor", "two-level", "hvp" or "auto".
        probes: Probes per example.
        seed: Random seed of the probes.
        directions: As in `trace`.
        rtol: Target relative standard error of tr H, as in `trace`.
        atol: Target absolute standard error of tr H, as in `trace`.
        sign: As in `trace`, of tr H.
        max_probes: As in `trace`.
        precision: As in `trace`.
        coefficients: As in `trace`.

    Returns:
        The three traces, each (batch,), in nats per squared embedding unit.

    Raises:
        InputError: As in `trace`.
    """
    require_loss(loss, EmbeddingLoss)
    options = Options(method, probes, seed, directions, rtol, atol, sign, max_probes, precision, coefficients)
    found = measured(loss, options, _PARTS, _hessian)
    assert isinstance(found, TraceParts)
    return found


def _exactly(sampler: Sampler, loss: Loss, first: int, count: int) -> Estimate:
    with torch.no_grad():
        require_repeatable(loss, loss(loss.embeddings))
    return Estimate.exact(exact_trace(loss))


def _by_estimator(name: str, sampler: Sampler, loss: Loss, first: int, count: int) -> Estimate:
    return sampler.by_estimator(name, loss, first, count)


def _estimators(matrix: str) -> dict[str, Measure]:
    return {name: partial(_by_estimator, name) for name, (_, of) in ESTIMATORS.items() if of == matrix}


_HESSIAN: dict[str, Measure] = {
    "taylor": Sampler.by_taylor,
    TWO_LEVELS: by_two_levels,
    "hvp": Sampler.by_products,
    "difference": Sampler.by_differences,
    **_estimators("hessian"),
    "exact": _exactly,
}
METHODS = ("auto", *_HESSIAN)
_BY_TAYLOR: dict[str, Measure] = {"taylor": Sampler.by_taylor, TWO_LEVELS: by_two_levels}
_GAUSS_NEWTON: dict[str, Measure] = {
    **_BY_TAYLOR,
    "hvp": Sampler.gauss_newton_by_products,
    **_estimators("gauss_newton"),
}
_PARTS: dict[str, Measure] = {**_BY_TAYLOR, "hvp": Sampler.parts_by_products}
# With fewer probes, two levels save little: their pairs are up to 32 at least.
_LEAST_FOR_TWO_LEVELS = 128


def _hessian(found: Found) -> Estimate:
    return found.hessian if isinstance(found, TraceParts) else found


def _gauss_newton(found: Found) -> Estimate:
    return found.gauss_newton if isinstance(found, TraceParts) else found


def measured(
    loss: Loss,
    options: Options,
    by: Mapping[str, Measure],
    of: Callable[[Any], Estimate] = _hessian,
    chosen: tuple[int, int] | None = None,
) -> Any:
    """By the options' method; "auto" is Taylor mode or, if that is impossible, Hessian products.

    of: selects the estimate in the result to which a target applies. chosen: the first probe and the number of probes,
    where there is no target; by default from 0, as many as the options say.
    """
    options.require_valid(("auto", *by))
    method = options.method
    if not isinstance(loss, EmbeddingLoss):
        if method in _BY_TAYLOR or options.derivatives is not None:
            raise InputError("method='taylor' needs an EmbeddingLoss; use method='hvp' for other functions")
        method = "hvp" if method == "auto" else method
    run = partial(_run, loss, options, of, chosen or (0, options.probes))
    if method != "auto":
        return run(method, by[method])
    method = TWO_LEVELS if _two_levels_pay(loss, options) else "taylor"
    try:
        return run(method, by[method])
    except UnsupportedOperation as error:
        if options.derivatives is not None:  # only Taylor mode has them
            raise
        warnings.warn(f"{error}; falling back to method='hvp'", stacklevel=3)
    return run("hvp", by["hvp"])


def _two_levels_pay(loss: Loss, options: Options) -> bool:
    """Whether "auto" takes two levels: allowed, possible, for many probes, and the machine's bfloat16 is faster."""
    return (
        isinstance(loss, EmbeddingLoss)
        and options.precision == "auto"
        and options.coefficients is None
        and options.probes >= LEAST
        and (options.max_probes if options.targets else options.probes) >= _LEAST_FOR_TWO_LEVELS
        and loss.embeddings.dtype is torch.float32
        and coarse_weight(loss) is None
        and bfloat16_is_faster(loss.embeddings.device)
    )


def _run(
    loss: Loss,
    options: Options,
    of: Callable[[Any], Estimate],
    chosen: tuple[int, int],
    method: str,
    measure: Measure,
) -> Any:
    """On as much of the batch as memory allows, once or in two stages; timed."""
    started = time.perf_counter()
    halving, sampler = Halving(loss), options.sampler

    def whole(first: int, count: int, **how: float) -> Any:
        def of_part(part: Loss) -> Any:
            return measure(sampler, part, first, count, **how)

        parts = halving(of_part)
        return type(parts[0]).joined(parts)

    plan = partial(split, measure=whole, of=of) if method == TWO_LEVELS else None
    with retained_heap():
        if options.targets:
            found = two_stages(whole, options.probes, options.targets, options.max_probes, of, plan)
        else:
            found = whole(*chosen)
    total = found.total() if isinstance(found, TwoLevels) else found
    return total.noting(method=method, seconds=time.perf_counter() - started)


__all__ = ["DIRECTIONS", "METHODS", "PRECISIONS", "gauss_newton_trace", "trace", "trace_parts"]
