"""The Hessian of one example as a linear operator, for SciPy, curvlinops and hessian-eigenthings."""

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from symnoise.core import InputError
from symnoise.curvature.loss import require_loss
from symnoise.curvature.operators.hessian import HessianProducts
from symnoise.models import EmbeddingLoss


class EmbeddingHessian:
    """Hessian of one example as a matrix-free symmetric linear operator, H = ∇²ℓ_b.

    It acts on the n = L·d embedding coordinates of the example's real tokens. `H @ v` takes and returns (n,) or (n, k)
    tensors, one column at a time. The graph behind the products is built once and lives as long as this object.

    It runs with any algorithm that needs only `shape`, `dtype`, `device`, `@`, `adjoint()` and `to_scipy()`:
    curvlinops' trace, diagonal, norm and Lanczos estimators; and, with `size` and `matvec`, those of
    hessian-eigenthings.

    Args:
        loss: The model and batch.
        example: Place of the example in the batch.

    Raises:
        InputError: For an example that is not in the batch.
    """

    def __init__(self, loss: EmbeddingLoss, example: int = 0) -> None:
        require_loss(loss, EmbeddingLoss)
        if not 0 <= example < len(loss.embeddings):
            raise InputError(f"example {example} is not in a batch of {len(loss.embeddings)}")
        self._loss = loss.example(example)
        self._product = HessianProducts(self._loss)
        self._real = (self._loss.mask[0] != 0).nonzero()[:, 0]

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        n = len(self._real) * self._loss.embeddings.shape[-1]
        return n, n

    @property
    def dtype(self) -> torch.dtype:
        """Of the embeddings."""
        return self._loss.embeddings.dtype

    @property
    def device(self) -> torch.device:
        """Of the embeddings."""
        return self._loss.embeddings.device

    @property
    def size(self) -> int:
        """n."""
        return self.shape[0]

    def adjoint(self) -> "EmbeddingHessian":
        """Itself: H is real and symmetric."""
        return self

    def matvec(self, v: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Hv."""
        return self @ v

    def __matmul__(self, v: Float[Tensor, "n *k"]) -> Float[Tensor, "n *k"]:
        columns = v.reshape(len(v), -1).T
        full = torch.zeros_like(self._loss.embeddings)
        products = []
        for column in columns:
            full[0, self._real] = column.reshape(len(self._real), -1).to(full)
            products.append(self._product(full)[0, self._real].flatten())
        return torch.stack(products, -1).reshape(v.shape)

    def to_scipy(self) -> LinearOperator:
        """A real symmetric `scipy.sparse.linalg.LinearOperator` of the embeddings' dtype."""
        dtype = np.dtype(np.float64 if self.dtype is torch.float64 else np.float32)

        def product(v: np.ndarray) -> np.ndarray:
            made = self @ torch.from_numpy(v.astype(dtype))
            return made.double().cpu().numpy().astype(dtype)  # NumPy has no bfloat16

        return LinearOperator(self.shape, matvec=product, rmatvec=product, matmat=product, rmatmat=product, dtype=dtype)
