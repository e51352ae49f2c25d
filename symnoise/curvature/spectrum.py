"""Largest eigenvalues of each example's Hessian, with residuals."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import InputError, generator, retained_heap, track, unknown
from symnoise.curvature.estimators.block_lanczos import ORDERS, eigenpairs
from symnoise.curvature.loss import UNIT, require_loss
from symnoise.curvature.operators.linear_operator import EmbeddingHessian
from symnoise.models import EmbeddingLoss

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and eigenvectors of every example's Hessian; an eigenvalue lies within the residual of each value.

    Attributes:
        values: (batch, k), largest first, in nats per squared embedding unit.
        residuals: (batch, k) ‖Hv − λv‖ of the unit vectors found.
        vectors: For each example (k, token, dim), over its real tokens.
    """

    values: Float[Tensor, "batch k"]
    residuals: Float[Tensor, "batch k"]
    vectors: tuple[Float[Tensor, "k _ dim"], ...]

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per example and eigenvalue, the largest of rank 0: value and residual.

        Returns:
            The frame; `attrs` holds the unit.
        """
        import pandas as pd

        batch, k = self.values.shape
        frame = pd.DataFrame(
            {
                "example": [b for b in range(batch) for _ in range(k)],
                "rank": [*range(k)] * batch,
                "value": self.values.flatten().tolist(),
                "residual": self.residuals.flatten().tolist(),
            }
        )
        frame.attrs = {"unit": UNIT}
        return frame

    def __repr__(self) -> str:
        batch, k = self.values.shape
        first = ", ".join(f"{value:.4g}" for value in self.values[0, :3].tolist()) + ", …" * (k > 3)
        worst = float(self.residuals.max())
        said = f"{batch} examples, {k} eigenvalues each; the first's {first}; residuals up to {worst:.1g}"
        return f"Spectrum({said}; {UNIT})"


def spectrum(
    loss: EmbeddingLoss, k: int = 10, which: str = "algebraic", seed: int = 0, tolerance: float = 1e-4
) -> Spectrum:
    """Extreme eigenvalues and eigenvectors of every example's Hessian, with multiplicity.

    By block Lanczos on Hessian-vector products from random vectors (`block_lanczos.eigenpairs`), until each residual
    ‖Hv − λv‖ is below `tolerance`·|λ| or is rounding. Warns if that is not reached.

    Args:
        loss: The model and batch.
        k: Number of eigenvalues.
        which: "algebraic" (largest), "magnitude" (largest in size) or "smallest".
        seed: Random seed of the start vectors.
        tolerance: Target residual relative to |λ|.

    Returns:
        k eigenpairs per example, with residuals.

    Raises:
        InputError: For k outside 1 … n − 1, or an unknown `which`.
    """
    require_loss(loss, EmbeddingLoss)
    if which not in ORDERS:
        raise unknown("part of the spectrum", which, ORDERS)
    values, residuals, vectors = [], [], []
    for example, number in enumerate(track(loss.ids, "spectra")):
        with retained_heap():
            H = EmbeddingHessian(loss, example)
            n = H.shape[0]
            if not 1 <= k < n:
                raise InputError(f"k must be between 1 and {n - 1} for an example of {n} coordinates; got {k}")
            found = eigenpairs(H, k, which, generator(seed, "spectrum", number), tolerance)
            order = found.values.argsort(descending=True)
        values.append(found.values[order].cpu())
        residuals.append(found.residuals[order].cpu())
        vectors.append(found.vectors.T[order].cpu().unflatten(1, (-1, loss.embeddings.shape[-1])))
    return Spectrum(torch.stack(values), torch.stack(residuals), tuple(vectors))
