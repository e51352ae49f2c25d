"""Operations that only move entries, linear reductions, and operations that depend only on the value."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from symnoise.curvature.taylor.rules.elementwise import MeanSquare, Square
from symnoise.curvature.taylor.tensor import (
    FUNCTIONS,
    Stream,
    Taylor,
    UnsupportedOperation,
    frame_of,
    lifted,
    plain,
    require,
    rule,
)

aten = torch.ops.aten

# After so many entries read one by one the others will be too, as by a scan in time: a pass over Mamba whose steps lie
# pages apart took a quarter longer.
_SCANNED = 4


@rule(aten.view, aten._unsafe_view, aten.unsqueeze, aten.squeeze)
def _reshape(func: Any, x: Taylor, *args: Any) -> Taylor:
    require(not any(isinstance(a, torch.dtype) for a in args), str(func))
    # Coefficients may have another memory layout than the value: reshape copies where view could not.
    value = func(x.value, *args) if func.overloadpacket in (aten.squeeze, aten.unsqueeze) else x.value.reshape(args[0])
    return Taylor.each(x, value, lambda c: _reshaped(c, value.shape))


def _reshaped(c: Tensor, shape: torch.Size) -> Tensor:
    return c.reshape(c.shape[0], *shape)


@rule(aten.expand)
def _expand(func: Any, x: Taylor, size: Sequence[int], *, implicit: bool = False) -> Taylor:
    value = x.value.expand(size)
    return Taylor.each(x, value, lambda c: lifted(c, value.ndim).expand(-1, *value.shape))


@rule(aten.repeat)
def _repeat(func: Any, x: Taylor, repeats: Sequence[int]) -> Taylor:
    return Taylor.each(x, x.value.repeat(repeats), lambda c: lifted(c, len(repeats)).repeat(1, *repeats))


@rule(aten.permute)
def _permute(func: Any, x: Taylor, dims: Sequence[int]) -> Taylor:
    shifted = [0, *(d % x.ndim + 1 for d in dims)]
    return Taylor.each(x, x.value.permute(*dims), lambda c: c.permute(shifted))


@rule(aten.transpose)
def _transpose(func: Any, x: Taylor, a: int, b: int) -> Taylor:
    value = x.value.transpose(a, b)
    return Taylor.each(x, value, lambda c: c.transpose(a % x.ndim + 1, b % x.ndim + 1))


@rule(aten.t)
def _t(func: Any, x: Taylor) -> Taylor:
    return _transpose(func, x, 0, 1) if x.ndim == 2 else x


@rule(aten.select, aten.slice, aten.index_select, aten.cumsum, aten.gather)
def _along(func: Any, x: Any, dim: int = 0, *args: Any, **kwargs: Any) -> Taylor:
    """Linear along one dimension, which comes first in the arguments and moves up by one for the coefficients."""
    require(isinstance(x, Taylor) and not any(isinstance(a, Taylor) for a in args), str(func))
    shifted = dim % max(x.ndim, 1) + 1
    value = func(x.value, dim, *args, **kwargs)
    if func.overloadpacket is aten.select and x.known and x.readers > _SCANNED:
        x.lay_out(shifted)
    if func.overloadpacket is aten.gather:
        index = args[0]
        return Taylor.each(x, value, lambda c: _gather(c, shifted, index))
    return Taylor.each(x, value, lambda c: func(c, shifted, *args, **kwargs))


def _gather(c: Tensor, dim: int, index: Tensor) -> Tensor:
    return c.gather(dim, index.expand(c.shape[0], *index.shape))


@rule(aten.split, aten.split_with_sizes)
def _split(func: Any, x: Taylor, size: Any, dim: int = 0) -> list[Taylor]:
    parts, start = [], 0
    x.readers += 1  # several parts: compute x once
    for value in x.value.split(size, dim):
        length = value.shape[dim]
        parts.append(_along(aten.slice.Tensor, x, dim % x.ndim, start, start + length))
        start += length
    return parts


@rule(aten.unbind)
def _unbind(func: Any, x: Taylor, dim: int = 0) -> list[Taylor]:
    x.readers += 1
    return [_along(aten.select.int, x, dim, i) for i in range(x.shape[dim])]


@rule(aten.cat)
def _cat(func: Any, tensors: Sequence[Any], dim: int = 0) -> Taylor:
    frame = frame_of(*tensors)
    value = torch.cat([plain(x) for x in tensors], dim)
    parts = [x if isinstance(x, Taylor) else frame.constant(x) for x in tensors if x.numel()]
    return Taylor(value, None, frame, None, lambda entries: _joined(parts, dim % value.ndim + 1, entries))


def _joined(parts: list[Taylor], dim: int, entries: int) -> Stream:
    for blocks in zip(*(x.stream(entries) for x in parts), strict=True):
        yield blocks[0][0], torch.cat([c for _, c in blocks], dim)


@rule(aten.index)
def _index(func: Any, x: Any, indices: Sequence[Tensor | None]) -> Taylor:
    require(isinstance(x, Taylor) and not any(isinstance(i, Taylor) for i in indices), str(func))
    chosen, front = tuple(slice(None) if i is None else i for i in indices), moved_to_front(indices)
    return Taylor.each(x, x.value[chosen], lambda c: c[(slice(None), *chosen)].movedim(front, 0))


def moved_to_front(indices: Sequence[Tensor | None]) -> int:
    """Number of dimensions that indices with a gap put before all others, the probes' too; 0 without a gap."""
    places = [n for n, i in enumerate(indices) if i is not None]
    if places == list(range(places[0], places[0] + len(places))):
        return 0
    return max(1 if i.dtype is torch.bool else i.ndim for i in indices if i is not None)


@rule(aten.flip, aten.roll)
def _flip(func: Any, x: Taylor, *args: Any) -> Taylor:
    *first, dims = args
    shifted = [d % x.ndim + 1 for d in dims]
    return Taylor.each(x, func(x.value, *args), lambda c: func(c, *first, shifted))


@rule(aten.tril, aten.triu, aten.constant_pad_nd)
def _last_dimensions(func: Any, x: Taylor, *args: Any) -> Taylor:
    require(func.overloadpacket is not aten.constant_pad_nd or len(args) < 2 or args[1] == 0, f"{func} not with zeros")
    return Taylor.each(x, func(x.value, *args), lambda c: func(c, *args))


@rule(aten.sum, aten.mean)
def _reduce(
    func: Any, x: Taylor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Taylor:
    dims = list(range(x.ndim)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else list(dim)
    reduce = torch.sum if func.overloadpacket is aten.sum else torch.mean
    value = reduce(x.value, dims, keepdim, dtype=dtype)
    shifted = [d % x.ndim + 1 for d in dims]
    own = x.frame.dtype_beside(value)
    mean_square = isinstance(x.origin, Square) and func.overloadpacket is aten.mean and keepdim
    origin = MeanSquare(x.origin.x, dims) if mean_square else None
    return Taylor(value, lambda: reduce(x.coefficients, shifted, keepdim, dtype=own), x.frame, origin)


@rule(aten._to_copy, aten.clone, aten.alias)
def _copy(func: Any, x: Taylor, *args: Any, **kwargs: Any) -> Any:
    value = func(x.value, *args, **kwargs)
    if not (value.is_floating_point() or value.is_complex()):
        return value
    device, dtype = value.device, x.frame.dtype or value.dtype
    contiguous = value.is_contiguous()

    def copied(c: Tensor) -> Tensor:
        return c.to(device, dtype).contiguous() if contiguous else c.to(device, dtype)

    return Taylor.each(x, value, copied)


@rule(aten.view_as_complex, aten.view_as_real)
def _complex(func: Any, x: Taylor) -> Taylor:
    """Rotary angles as complex numbers."""
    value = func(x.value)
    own = x.frame.dtype_beside(value)
    return Taylor.each(x, value, lambda c: func(c.to(x.value.dtype).contiguous()).to(own))


@rule(aten.detach)
def _detach(func: Any, x: Taylor) -> Tensor:
    return x.value


@rule(
    *(aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like),
    *(aten.new_zeros, aten.new_ones, aten.new_full, aten.new_empty),
)
def _new(func: Any, x: Taylor, *args: Any, **kwargs: Any) -> Any:
    """Constant, but what depends on the probes may be written into it."""
    value = func(x.value, *args, **kwargs)
    return x.frame.constant(value) if value.is_floating_point() else value


@rule(
    *(aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge, aten.isnan, aten.isinf, aten.isfinite, aten.sign),
    *(aten.argmax, aten.argmin, aten.logical_not),
)
def _without_derivative(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Does not depend on the entries, or is constant almost everywhere."""
    return func(*(plain(a) for a in args), **kwargs)


def _no_data(*_: Any) -> Any:
    raise UnsupportedOperation("Tensor.data")


FUNCTIONS[Tensor.data.__get__] = _no_data  # type: ignore[attr-defined]
