"""Out-of-memory errors: how to recognise one, and how to retry in smaller pieces."""

import gc
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from symnoise.core.heap import return_free_memory

Result = TypeVar("Result")

# PyTorch's CPU allocator raises a plain RuntimeError, and CUDA libraries raise their own errors.
_WORDS = ("can't allocate memory", "Cannot allocate memory", "not enough memory", "out of memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` is an out-of-memory error."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in _WORDS)


def until_it_fits(work: Callable[[int], Result], size: int, warning: str, least: int = 1) -> tuple[Result, int]:
    """(work(size), size), halving `size` each time memory runs out.

    `warning` is shown each time, with {size} and {smaller} filled in. Raises `MemoryError` if `least` does not fit.
    """
    while True:
        try:
            return work(size), size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if size <= least:
                raise MemoryError(str(error)) from None
        # Outside the except block: the error's traceback held the tensors that did not fit.
        smaller = max((size + 1) // 2, least)
        _release()
        warnings.warn(warning.format(size=size, smaller=smaller), RuntimeWarning, stacklevel=3)
        size = smaller


def _release() -> None:
    gc.collect()
    return_free_memory()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
