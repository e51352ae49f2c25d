"""Largest eigenvalues of each example's Hessian, with residuals."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import eigsh
from torch import Tensor

from symnoise.core import InputError, generator, retained_heap, track, unknown
from symnoise.curvature.operator import EmbeddingHessian
from symnoise.models import EmbeddingLoss

_WHICH = {"algebraic": "LA", "magnitude": "LM", "smallest": "SA"}


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of every example's H; some eigenvalue lies within the residual of each value.

    values:    (batch, k) from the largest down, in nats per squared embedding unit.
    residuals: (batch, k) ‖Hv − λv‖ of the unit vectors found.
    vectors:   for each example (k, token, dim), over its real tokens.
    """

    values: Float[Tensor, "batch k"]
    residuals: Float[Tensor, "batch k"]
    vectors: tuple[Float[Tensor, "k _ dim"], ...]


def spectrum(
    loss: EmbeddingLoss, k: int = 10, which: str = "algebraic", seed: int = 0, tolerance: float = 1e-4
) -> Spectrum:
    """The k eigenvalues of H that are largest ("algebraic"), largest in size ("magnitude") or "smallest".

    By implicitly restarted Lanczos (ARPACK through SciPy) on Hessian-vector products, from a seeded start, until
    the relative error is below `tolerance`. Raises `InputError` for k outside 1 … n − 1 or an unknown `which`.
    """
    if which not in _WHICH:
        raise unknown("part of the spectrum", which, _WHICH)
    values, residuals, vectors = [], [], []
    for example, number in enumerate(track(loss.ids, "spectra")):
        with retained_heap():
            H = EmbeddingHessian(loss, example)
            n = H.shape[0]
            if not 1 <= k < n:
                raise InputError(f"k must be between 1 and {n - 1} for an example of {n} coordinates; got {k}")
            start = torch.randn(n, generator=generator(seed, "spectrum", number), dtype=torch.float64).numpy()
            operator = H.to_scipy()
            found, basis = eigsh(operator, k, which=_WHICH[which], v0=start.astype(operator.dtype), tol=tolerance)
            order = np.argsort(-found)
            found, basis = found[order], basis[:, order]
            residual = np.linalg.norm(operator @ basis - basis * found, axis=0)
        values.append(torch.from_numpy(found).double())
        residuals.append(torch.from_numpy(residual).double())
        vectors.append(torch.from_numpy(basis.T.copy()).unflatten(1, (-1, loss.embeddings.shape[-1])))
    return Spectrum(torch.stack(values), torch.stack(residuals), tuple(vectors))
