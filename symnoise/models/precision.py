"""float64 throughout a model: Transformers casts to float32 inside norms, rotary angles and softmax."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# A product of float64 and float32 raises: in older releases of Transformers rotary angles are the frequencies, which
# `.double()` made float64, times positions that were cast to float32.
_PRODUCTS = {torch.matmul, Tensor.matmul, Tensor.__matmul__}
# The experts' product, which older releases of PyTorch do not have, and none in float64.
_GROUPED = getattr(torch, "_grouped_mm", None)


def _grouped_product(rows: Tensor, weights: Tensor, offs: Tensor, **_: Any) -> Tensor:
    """Groups of rows, which end at `offs`, each times its own matrix."""
    groups = rows.tensor_split(offs[:-1].long().cpu())
    return torch.cat([group @ weight for group, weight in zip(groups, weights, strict=True)])


class _NoDowncast(TorchFunctionMode):
    """Treats every request for float32 from a float64 tensor as a request for float64."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not (args and isinstance(args[0], Tensor) and args[0].dtype is torch.float64):
            return function(*args, **kwargs)
        if function is Tensor.float:
            return args[0]
        args = tuple(torch.float64 if argument is torch.float32 else argument for argument in args)
        if kwargs.get("dtype") is torch.float32:
            kwargs = {**kwargs, "dtype": torch.float64}
        if function in _PRODUCTS:
            args = tuple(a.double() if isinstance(a, Tensor) and a.dtype is torch.float32 else a for a in args)
        return (_grouped_product if function is _GROUPED else function)(*args, **kwargs)


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Compute a float64 model in float64 throughout: within the block, float64 tensors ignore casts to float32.

    On a stock `.double()` model two correct second-order methods agree to about 5e-6, since RMSNorm, rotary embeddings
    and softmax round to float32. Inside this block they agree to about 1e-13. Experts are multiplied one by one, as
    PyTorch has no grouped product in float64. Only float64 tensors are affected, and not in compiled or scripted code.

    Examples:
        >>> import torch
        >>> from symnoise import float64_throughout
        >>> with float64_throughout():
        ...     torch.ones(2, dtype=torch.float64).float().dtype
        torch.float64
    """
    with _NoDowncast():
        yield
