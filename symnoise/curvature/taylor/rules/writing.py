"""Operations that put entries of one tensor into another: linear in both, so coefficients are written like values.

Writing in place, as in x[i] = y or x.index_add_(…), comes down to these rules (`tensor._in_place`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from symnoise.curvature.taylor.rules.shape import moved_to_front
from symnoise.curvature.taylor.tensor import Taylor, frame_of, lifted, plain, require, rule

aten = torch.ops.aten


def _written(x: Any, source: Any, value: Tensor, write: Callable[[Tensor, Tensor], Tensor]) -> Taylor:
    """write: coefficients of x, coefficients of the source -> those of the result."""
    frame = frame_of(x, source)
    into, by = (one if isinstance(one, Taylor) else frame.constant(torch.as_tensor(one)) for one in (x, source))
    dtype = frame.dtype_beside(value)
    return Taylor(value, lambda: write(into.coefficients.to(dtype), by.coefficients.to(dtype)), frame)


@rule(aten.copy)
def _copy(func: Any, x: Any, source: Any, non_blocking: bool = False) -> Taylor:
    value = plain(source).to(x.dtype).expand(x.shape)
    return _written(x, source, value, lambda a, b: lifted(b, value.ndim).expand(a.shape))


@rule(aten.fill, aten.zero)
def _fill(func: Any, x: Taylor, *number: Any) -> Taylor:
    require(not any(isinstance(a, Taylor) for a in number), str(func))
    return x.frame.constant(func(x.value, *number))


@rule(aten.index_add)
def _index_add(func: Any, x: Any, dim: int, index: Tensor, source: Any, *, alpha: float = 1) -> Taylor:
    value = torch.index_add(plain(x), dim, index, plain(source), alpha=alpha)
    shifted = dim % value.ndim + 1
    return _written(x, source, value, lambda a, b: a.index_add(shifted, index, b, alpha=alpha))


@rule(aten.scatter, aten.scatter_add)
def _scatter(func: Any, x: Any, dim: int, index: Tensor, source: Any) -> Taylor:
    value = func(plain(x), dim, index, plain(source))
    shifted = dim % value.ndim + 1

    def write(a: Tensor, b: Tensor) -> Tensor:
        where = index.expand(len(a), *index.shape)
        return func(a, shifted, where, b) if isinstance(source, Tensor) else func(a, shifted, where, 0)

    return _written(x, source, value, write)


@rule(aten.index_put)
def _index_put(func: Any, x: Any, indices: Sequence[Tensor | None], source: Any, accumulate: bool = False) -> Taylor:
    require(not any(isinstance(i, Taylor) for i in indices), str(func))
    value = torch.ops.aten.index_put(plain(x), indices, plain(source), accumulate)
    rank, front = aten.index(value, indices).ndim, moved_to_front(indices)

    def write(a: Tensor, b: Tensor) -> Tensor:
        return aten.index_put(a, [None, *indices], lifted(b, rank).movedim(0, front), accumulate)

    return _written(x, source, value, write)
