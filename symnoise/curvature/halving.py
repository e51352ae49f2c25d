"""Out of memory: the same measurement on fewer examples at a time."""

from collections.abc import Callable
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from symnoise.core import InputError, until_it_fits
from symnoise.curvature.loss import Loss

Result = TypeVar("Result")


class Halving:
    """measure ↦ its results on parts of a batch; parts are halved each time memory runs out, and stay small.

    Examples do not interact and probes are keyed by example, so parts change results by rounding only. A loss without
    `rows(indices)` (see `EmbeddingLoss.rows`) cannot be split. Raises `InputError` if one example does not fit.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._size = len(loss.embeddings)

    def __call__(self, measure: Callable[[Loss], Result]) -> list[Result]:
        batch, tokens = self._loss.embeddings.shape[:2]
        least = 1 if hasattr(self._loss, "rows") else batch
        results: list[Result] = []
        done = 0

        def first(size: int) -> Result:
            return measure(self._loss if size == batch else self._loss.rows(range(done, done + size)))  # type: ignore[attr-defined]

        while done < batch:
            size = min(self._size, batch - done)
            warning = "out of memory with {size} examples at a time; continuing with {smaller}"
            try:
                found, fitted = until_it_fits(first, size, warning, least)
            except MemoryError:
                raise InputError(
                    f"out of memory with {least} example(s) of up to {tokens} tokens; shorten the examples, "
                    "use method='taylor' (it keeps no graph), or a smaller model or dtype"
                ) from None
            if fitted < size:
                self._size = fitted
            results.append(found)
            done += fitted
        return results


def padded(x: Float[Tensor, "*shape token"], tokens: int) -> Float[Tensor, "*shape longer"]:
    """x with zeros for the right padding, up to `tokens`, that a part of a batch leaves out."""
    return F.pad(x, (0, tokens - x.shape[-1]))
