"""Diagonals of the Hessian and of its Gauss-Newton part, with a standard error per coordinate."""

import time

import torch

from symnoise.core import Estimate, InputError, retained_heap, track, unknown
from symnoise.curvature.estimators.columns import LEAST
from symnoise.curvature.estimators.sampler import require_finite_forms
from symnoise.curvature.estimators.xdiag import xdiag
from symnoise.curvature.halving import Halving, padded
from symnoise.curvature.loss import Loss, random_probes
from symnoise.curvature.operators.products import products, require_matrix

METHODS = ("hvp", "xdiag")


def diagonal(loss: Loss, method: str = "hvp", probes: int = 16, seed: int = 0, *, matrix: str = "hessian") -> Estimate:
    """Diagonal of the Hessian, ∂²ℓ_b/∂X_ti², of every example b, with a standard error per coordinate.

    From products with random signs z, one product per probe. Examples do not interact. If memory runs out, the batch is
    halved and retried, with a warning.

    Methods:

    - "hvp": the mean of z ∘ Hz (Bekas, Kokiopoulou and Saad 2007). An entry's variance is Σ_{j≠i} H_ij² per probe.
    - "xdiag": half of the products go to a basis of the largest eigenvalues, in which the diagonal is exact, with every
      probe left out in turn (`estimators.xdiag`; Epperly, Tropp and Webber 2024). It pays when fewer eigenvalues than
      half the probes dominate the spectrum; on flat spectra its error is larger than that of "hvp".

    Entries share the probes, so their errors are correlated: for the trace of a block of the matrix use `token_traces`,
    for tr H use `trace`.

    Args:
        loss: The loss and the embeddings at which to measure.
        method: See above.
        probes: Probes per example.
        seed: Random seed of the probes, those of `trace`.
        matrix: "hessian", or "gauss_newton" for G of `gauss_newton_trace` (needs an `EmbeddingLoss`).

    Returns:
        The diagonal, (batch, token, dim), in nats per squared embedding unit; 0 with no error at padding.

    Raises:
        InputError: For an unknown method or matrix, and probes < 1 (< 4 for "xdiag"); for a loss that is not finite,
            not deterministic or not differentiable; and for a problem too large for memory.
    """
    require_matrix(loss, matrix)
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    least = LEAST if method == "xdiag" else 1
    if probes < least:
        raise InputError(f"probes must be {least} or more for method={method!r}; got {probes}")
    started, measure = time.perf_counter(), _by_xdiag if method == "xdiag" else _by_products
    with retained_heap():
        parts = Halving(loss)(lambda part: measure(part, probes, seed, matrix))
        require_finite_forms(torch.cat([part.value.sum((1, 2)) for part in parts])[None])
    value, stderr = (
        torch.cat([padded(getattr(part, name).mT, loss.embeddings.shape[1]).mT for part in parts])
        for name in ("value", "stderr")
    )
    facts = {"method": method, "seconds": time.perf_counter() - started}
    return Estimate(value, stderr, count=parts[0].count, dof=parts[0].dof).noting(**facts)


def _by_products(loss: Loss, probes: int, seed: int, matrix: str) -> Estimate:
    """Mean and error from running sums of z ∘ Hz and its square about the first: diagonals are as large as X."""
    product = products(loss, matrix)
    shift = total = squares = torch.zeros(loss.embeddings.shape, dtype=torch.float64, device=loss.embeddings.device)
    for k in track(range(probes), "products"):
        (z,) = random_probes(loss, 1, seed=seed, first=k)
        draw = z.double() * product(z).double()
        shift = shift if k else draw
        total, squares = total + (draw - shift), squares + (draw - shift).square()
    away = total / probes
    if probes == 1:
        return Estimate(shift, torch.full_like(shift, torch.nan), count=1, dof=0.0)
    variance = (squares - probes * away.square()).clamp(min=0) / (probes - 1)
    return Estimate(shift + away, (variance / probes).sqrt(), count=probes, dof=probes - 1.0)


def _by_xdiag(loss: Loss, probes: int, seed: int, matrix: str) -> Estimate:
    return xdiag(loss, products(loss, matrix), lambda k, many: random_probes(loss, many, seed=seed, first=k), probes)


__all__ = ["diagonal"]
