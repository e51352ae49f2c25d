"""What curvature needs of a loss."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Loss(Protocol):
    """One differentiable number an example: `EmbeddingLoss`, or any function shaped like it.

    embeddings (batch, token, dim): where curvature is measured.  mask (batch, token): which tokens are real.
    ids: one number an example, to which its random probes are keyed.  Examples must not influence each other.
    """

    @property
    def embeddings(self) -> Tensor: ...
    @property
    def mask(self) -> Tensor: ...
    @property
    def ids(self) -> Sequence[int]: ...
    def __call__(self, X: Tensor) -> Tensor:
        """ℓ(X), (batch,)."""
        ...
