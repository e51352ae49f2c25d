"""Operations that choose entries by their size, as routers do: the value says which, and coefficients follow.

The derivatives are those of the piece of the loss on which the choice stays what it is at X.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from symnoise.curvature.taylor.tensor import Taylor, plain, rule

aten = torch.ops.aten


@rule(aten.topk, aten.sort, aten.max, aten.min)
def _with_indices(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """(values, indices) along one dimension; of the whole tensor, the value alone."""
    name = func.overloadpacket
    if name in (aten.max, aten.min) and not args:
        return _extreme(func, x)
    index = func(x.value, *args, **kwargs)[1]
    dim = kwargs.get("dim", args[1] if name is aten.topk and len(args) > 1 else -1)
    dim = args[0] if name is not aten.topk and args else dim
    return _gathered(x, dim, index), index


def _gathered(x: Taylor, dim: int, index: Tensor) -> Any:
    if index.ndim == x.ndim:
        return aten.gather(x, dim, index)
    return aten.gather(x, dim, index.unsqueeze(dim)).squeeze(dim)


@rule(aten.amax, aten.amin)
def _extreme(func: Any, x: Any, dims: Sequence[int] = (), keepdim: bool = False) -> Any:
    """Of several equal entries, the first: reverse mode takes their mean."""
    chosen = aten.argmax if "max" in str(func) else aten.argmin
    over = sorted(d % x.ndim for d in dims or range(x.ndim))
    for dim in over:
        x = aten.gather(x, dim, chosen(plain(x), dim, True))
    return x if keepdim else x.squeeze(over)
