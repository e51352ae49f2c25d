"""What curvature needs of a loss."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Loss(Protocol):
    """One differentiable number per example: `EmbeddingLoss`, or any function shaped like it.

    Examples must not influence each other.
    """

    @property
    def embeddings(self) -> Tensor:
        """(batch, token, dim): where curvature is measured."""
        ...

    @property
    def mask(self) -> Tensor:
        """(batch, token): 1 at real tokens, 0 at padding."""
        ...

    @property
    def ids(self) -> Sequence[int]:
        """One number per example, to which its random probes are keyed."""
        ...

    def __call__(self, X: Tensor) -> Tensor:
        """ℓ(X), (batch,)."""
        ...
