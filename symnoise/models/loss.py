"""The interface that curvature functions need from a loss."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Loss(Protocol):
    """Interface of a loss: one differentiable number per example, as in `EmbeddingLoss`. Examples must not interact."""

    @property
    def embeddings(self) -> Tensor:
        """(batch, token, dim): the point at which curvature is measured."""
        ...

    @property
    def mask(self) -> Tensor:
        """(batch, token): 1 at real tokens, 0 at padding."""
        ...

    @property
    def ids(self) -> Sequence[int]:
        """One number per example, by which its random probes are keyed."""
        ...

    def __call__(self, X: Tensor) -> Tensor:
        """ℓ(X), (batch,)."""
        ...
