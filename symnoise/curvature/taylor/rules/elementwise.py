"""Functions of one entry at a time: each is given by f, f' and f''; products and sums by Leibniz."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from symnoise.curvature.taylor.normal import Normalised, normalised
from symnoise.curvature.taylor.tensor import (
    Frame,
    Recurrence,
    Stream,
    Taylor,
    frame_of,
    lifted,
    made,
    plain,
    require,
    rule,
    spread,
)

aten = torch.ops.aten

Factor = Tensor | float
# y, f'(x), f''(x); None where f'' vanishes almost everywhere.
Derivatives = tuple[Tensor, Factor, Factor | None]


@dataclass(frozen=True)
class Elementwise:
    """Origin of y = f(x): f' and f'' at x0."""

    x: Taylor
    first: Factor
    second: Factor | None


@dataclass(frozen=True)
class Scaled:
    """Origin of y = x · factor, factor without coefficients."""

    x: Taylor
    factor: Factor


@dataclass(frozen=True)
class Square:
    """Origin of x²."""

    x: Taylor


@dataclass(frozen=True)
class MeanSquare:
    """Origin of mean(x²) over dims, kept as ones, plus a number."""

    x: Taylor
    dims: list[int]


@dataclass(frozen=True)
class InverseRoot:
    """Origin of (mean(x²) + ε)^(−1/2)."""

    x: Taylor
    dims: list[int]


def like(factor: Any, dtype: torch.dtype) -> Any:
    return factor.to(dtype) if isinstance(factor, Tensor) else factor


def elementwise(x: Taylor, y: Tensor, first: Factor, second: Factor | None, origin: Any = None) -> Taylor:
    """y = f(x) with f'(x0) and f''(x0) given."""
    origin = origin or Elementwise(x, first, second)
    return Taylor(y, None, x.frame, origin, lambda entries: _through(x, first, second, y, entries))


def _through(x: Taylor, first: Factor, second: Factor | None, y: Tensor, entries: int) -> Stream:
    frame, squares = x.frame, _Sums(x.frame)
    dtype = frame.dtype_beside(y)
    if isinstance(x.origin, Scaled) and x.readers < 2:  # f(x · factor) in one go
        factor, x = x.origin.factor, x.origin.x
        first, second = first * factor, None if second is None else second * factor * factor
    first, second = like(first, dtype), like(second, dtype)
    for here, c in x.stream(entries):
        c = lifted(c.to(dtype), y.ndim)
        out = c * first
        if second is not None:
            squares.gather(here, c, c)
            squares.add_to(out, here, second)
        yield here, out


class _Sums:
    """Σ a_k b_k over each group's probes, gathered while x1 goes by and added to x2, which comes after."""

    def __init__(self, frame: Frame) -> None:
        self.frame: Frame = frame
        self.sums: list[Any] = [None] * frame.groups

    def gather(self, here: slice, a: Tensor, b: Tensor) -> None:
        if here.start >= self.frame.probes:
            return
        g = self.frame.group(here.start)
        for one, other in zip(a, b, strict=True):
            self.sums[g] = one * other if self.sums[g] is None else self.sums[g].addcmul_(one, other)

    def add_to(self, out: Tensor, here: slice, factor: Factor) -> None:
        """out += sum · factor, if these are second-order coefficients."""
        if here.start < self.frame.probes:
            return
        for into, total in zip(
            out, self.sums[here.start - self.frame.probes : here.stop - self.frame.probes], strict=True
        ):
            into.addcmul_(total, factor) if isinstance(factor, Tensor) else into.add_(total, alpha=factor)


# --- one argument -----------------------------------------------------------------------------------------------


def _silu(x: Tensor) -> Derivatives:
    s = torch.sigmoid(x)
    return F.silu(x), s * (1 + x * (1 - s)), s * (1 - s) * (2 + x * (1 - 2 * s))


def _gelu(x: Tensor, *, approximate: str = "none") -> Derivatives:
    y = F.gelu(x, approximate=approximate)
    if approximate == "none":
        cdf = 0.5 * (1 + torch.erf(x * math.sqrt(0.5)))
        pdf = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return y, cdf + x * pdf, pdf * (2 - x * x)
    scale, cubic = math.sqrt(2 / math.pi), 0.044715  # F.gelu's own constants
    t = torch.tanh(scale * (x + cubic * x**3))
    inner, bend = scale * (1 + 3 * cubic * x * x), 6 * scale * cubic * x
    slope = (1 - t * t) * inner
    return y, 0.5 * (1 + t + x * slope), slope + 0.5 * x * ((1 - t * t) * bend - 2 * t * slope * inner)


def _tanh(x: Tensor) -> Derivatives:
    y = torch.tanh(x)
    return y, 1 - y * y, -2 * y * (1 - y * y)


def _sigmoid(x: Tensor) -> Derivatives:
    y = torch.sigmoid(x)
    return y, y * (1 - y), y * (1 - y) * (1 - 2 * y)


def _exp(x: Tensor) -> Derivatives:
    y = torch.exp(x)
    return y, y, y


def _expm1(x: Tensor) -> Derivatives:
    return torch.expm1(x), torch.exp(x), torch.exp(x)


def _log(x: Tensor) -> Derivatives:
    return torch.log(x), 1 / x, -1 / (x * x)


def _log1p(x: Tensor) -> Derivatives:
    return torch.log1p(x), 1 / (1 + x), -1 / (1 + x).square()


def _sqrt(x: Tensor) -> Derivatives:
    y = torch.sqrt(x)
    return y, 0.5 / y, -0.25 / (x * y)


def _reciprocal(x: Tensor) -> Derivatives:
    y = 1 / x
    return y, -y * y, 2 * y**3


def _sin(x: Tensor) -> Derivatives:
    return torch.sin(x), torch.cos(x), -torch.sin(x)


def _cos(x: Tensor) -> Derivatives:
    return torch.cos(x), -torch.sin(x), -torch.cos(x)


def _erf(x: Tensor) -> Derivatives:
    slope = 2 / math.sqrt(math.pi) * torch.exp(-x * x)
    return torch.erf(x), slope, -2 * x * slope


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Derivatives:
    s = torch.sigmoid(beta * x)
    linear = beta * x > threshold
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    second = beta * s * (1 - s)
    return F.softplus(x, beta, threshold), torch.where(linear, one, s), torch.where(linear, zero, second)


def _elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Derivatives:
    y = aten.elu(x, alpha, scale, input_scale)
    e = scale * alpha * input_scale * torch.exp(x.clamp(max=0) * input_scale)
    return y, torch.where(x > 0, torch.full_like(x, scale), e), torch.where(x >= 0, 0, input_scale * e)


def _relu(x: Tensor) -> Derivatives:
    return torch.relu(x), (x > 0).to(x.dtype), None


def _leaky_relu(x: Tensor, slope: float = 0.01) -> Derivatives:
    return F.leaky_relu(x, slope), torch.ones_like(x).masked_fill_(x <= 0, slope), None


def _clamp(x: Tensor, low: Any = None, high: Any = None) -> Derivatives:
    y = torch.clamp(x, low, high)
    return y, (x == y).to(x.dtype), None


def _hardtanh(x: Tensor, low: float = -1, high: float = 1) -> Derivatives:
    return F.hardtanh(x, low, high), ((low < x) & (x < high)).to(x.dtype), None


def _abs(x: Tensor) -> Derivatives:
    return torch.abs(x), torch.sign(x), None


_UNARY: dict[Any, Callable[..., Derivatives]] = {
    aten.silu: _silu,
    aten.gelu: _gelu,
    aten.tanh: _tanh,
    aten.sigmoid: _sigmoid,
    aten.exp: _exp,
    aten.expm1: _expm1,
    aten.log: _log,
    aten.log1p: _log1p,
    aten.sqrt: _sqrt,
    aten.reciprocal: _reciprocal,
    aten.sin: _sin,
    aten.cos: _cos,
    aten.erf: _erf,
    aten.softplus: _softplus,
    aten.elu: _elu,
    aten.relu: _relu,
    aten.leaky_relu: _leaky_relu,
    aten.hardtanh: _hardtanh,
    aten.abs: _abs,
}


# What acts entry by entry, with arguments broadcast to the shape of the result.
ENTRYWISE = {*_UNARY, aten.neg, aten.mul, aten.div, aten.add, aten.sub}


@rule(*_UNARY)
def _unary(func: Any, x: Any, *args: Any, **kwargs: Any) -> Taylor:
    require(isinstance(x, Taylor) and not any(isinstance(a, Tensor) for a in args), str(func))
    return elementwise(x, *_UNARY[func.overloadpacket](x.value, *args, **kwargs))


@rule(aten.clamp, aten.clamp_min, aten.clamp_max)
def _bounded(func: Any, x: Any, *bounds: Any, **named: Any) -> Any:
    if func.overloadpacket is aten.clamp_max:
        bounds = (None, *bounds)
    low, high = (*bounds, None, None)[:2]
    low, high = named.get("min", low), named.get("max", high)
    if isinstance(x, Taylor) and not isinstance(low, Tensor) and not isinstance(high, Tensor):
        return elementwise(x, *_clamp(x.value, low, high))
    if low is not None:
        x = torch.where(plain(x) < plain(low), low, x)
    return x if high is None else torch.where(plain(x) > plain(high), high, x)


@rule(aten.maximum, aten.minimum)
def _larger(func: Any, x: Any, y: Any) -> Any:
    """The larger or the smaller of two; where they are equal, the first."""
    larger = func.overloadpacket is aten.maximum
    return torch.where(plain(x) >= plain(y) if larger else plain(x) <= plain(y), x, y)


@rule(aten.pow)
def power(func: Any, x: Any, exponent: Any) -> Taylor:
    require(isinstance(x, Taylor) and not isinstance(exponent, Tensor), str(func))
    value, n = x.value, exponent
    if n == 2:
        return elementwise(x, value.square(), 2 * value, 2.0, Square(x))
    return elementwise(x, value.pow(n), n * value.pow(n - 1), n * (n - 1) * value.pow(n - 2))


@rule(aten.rsqrt)
def _inverse_root(func: Any, x: Taylor) -> Taylor:
    y = torch.rsqrt(x.value)
    origin = InverseRoot(x.origin.x, x.origin.dims) if isinstance(x.origin, MeanSquare) else None
    return elementwise(x, y, -0.5 * y**3, 0.75 * y**5, origin)


# --- sums and products ------------------------------------------------------------------------------------------


def scaled(x: Taylor, y: Tensor, factor: Factor) -> Taylor:
    """y = x · factor, factor without coefficients, shapes broadcast."""
    if isinstance(x.origin, Normalised) and isinstance(factor, Tensor) and y.shape == x.shape:
        return normalised(y, replace(x.origin, gain=factor), x.frame)
    if y.shape == x.shape:
        return Taylor(y, None, x.frame, Scaled(x, factor), lambda entries: _times(x, factor, y, entries))
    dtype = x.frame.dtype_beside(y)
    return Taylor(y, lambda: lifted(x.coefficients.to(dtype), y.ndim) * like(factor, dtype), x.frame, Scaled(x, factor))


def _times(x: Taylor, factor: Factor, y: Tensor, entries: int) -> Stream:
    dtype = x.frame.dtype_beside(y)
    factor = like(factor, dtype)
    for here, c in x.stream(entries):
        yield here, c.to(dtype) * factor


@rule(aten.neg)
def _neg(func: Any, x: Taylor) -> Taylor:
    return scaled(x, -x.value, -1.0)


@rule(aten.mul)
def multiply(func: Any, x: Any, y: Any) -> Taylor:
    if not isinstance(y, Taylor):
        return scaled(x, x.value * y, y)
    if not isinstance(x, Taylor):
        return scaled(y, x * y.value, x)
    return product(x, y)


@rule(aten.div)
def _divide(func: Any, x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    require(rounding_mode is None, f"{func} with rounding_mode")
    if not isinstance(y, Taylor):
        return scaled(x, x.value / y, 1 / y)
    inverse = elementwise(y, *_reciprocal(y.value))
    return product(x, inverse) if isinstance(x, Taylor) else scaled(inverse, x * inverse.value, x)


def product(x: Taylor, y: Taylor) -> Taylor:
    """x · y, both with coefficients: y1 = x1 y0 + x0 y1, y2 = x2 y0 + x0 y2 + 2 Σ x1 y1."""
    value = x.value * y.value
    for a, b in ((x, y), (y, x)):
        if isinstance(b.origin, InverseRoot) and b.origin.x is a:
            return normalised(value, Normalised(a, b.value, None, b.origin.dims, centred=False), x.frame)
    if x.shape != y.shape:
        return Taylor(value, lambda: _leibniz(x, y, value), x.frame)
    if isinstance(y.origin, Elementwise) and not isinstance(x.origin, Elementwise):
        x, y = y, x
    return Taylor(value, None, x.frame, None, lambda entries: _streamed_leibniz(x, y, value, entries))


def _streamed_leibniz(x: Taylor, y: Taylor, value: Tensor, entries: int) -> Stream:
    """The product of equal shapes; where x = f(w) is still to be computed, f(w) · y in one go."""
    frame, dtype = x.frame, x.frame.dtype_beside(value)
    squares, mixed = _Sums(frame), _Sums(frame)
    by_y, by_x, bend = like(x.value, dtype), like(y.value, dtype), None
    twist: Factor = 2.0
    if isinstance(x.origin, Elementwise) and x.readers < 2:
        w = x.origin
        by_x = like(w.first * y.value, dtype)
        twist = like(2 * w.first, dtype)
        bend = None if w.second is None else like(w.second * y.value, dtype)
        x = w.x
    for (here, a), (_, b) in zip(x.stream(entries), y.stream(entries), strict=True):
        a, b = a.to(dtype), b.to(dtype)
        out = (a * by_x).addcmul_(b, by_y)
        mixed.gather(here, a, b)
        mixed.add_to(out, here, twist)
        if bend is not None:
            squares.gather(here, a, a)
            squares.add_to(out, here, bend)
        yield here, out


def _leibniz(x: Taylor, y: Taylor, value: Tensor) -> Tensor:
    frame, shape = x.frame, value.shape
    dtype = frame.dtype_beside(value)
    a, b = spread(x, shape, dtype).to(dtype), spread(y, shape, dtype).to(dtype)
    a0, b0 = x.value.to(a.dtype), y.value.to(a.dtype)
    out = a.new_empty(a.shape)
    for i in range(frame.total):
        torch.mul(a[i], b0, out=out[i]).addcmul_(b[i], a0)
    for g, k in frame.members():
        out[g].addcmul_(a[k], b[k], value=2)
    return out


@rule(aten.add)
def _add(func: Any, x: Any, y: Any, *, alpha: float = 1) -> Taylor:
    frame = frame_of(x, y)
    value = torch.add(plain(x), plain(y), alpha=alpha)
    if isinstance(x, Taylor) and isinstance(y, Taylor) and x.shape == y.shape:
        if alpha == 1 and (step := _step(x, y)):
            return Taylor(value, lambda: _next(step, x, y, value), frame, step)
        return Taylor(value, None, frame, None, lambda entries: _streamed_sum(x, y, alpha, value, entries))
    origin = x.origin if isinstance(getattr(x, "origin", None), MeanSquare) and not isinstance(y, Tensor) else None
    return Taylor(value, lambda: _sum_of(x, y, alpha, value), frame, origin)


def _step(x: Taylor, y: Taylor) -> Recurrence | None:
    """x + y as s_t = a_t s_{t−1} + u_t, if a_t and u_t stand at the same place of two larger tensors."""
    func, args, _ = made(x)
    place = _place(y)
    if func is not aten.mul.Tensor or place is None:
        return None
    for a, before in (args, args[::-1]):
        there = _place(a)
        if there is not None and there[1:] == place[1:] and isinstance(before, Tensor) and before.shape == x.shape:
            return Recurrence(there[0], place[0], *place[1:], before)
    return None


def _place(x: Any) -> tuple[Taylor, int, int] | None:
    """What x was selected from, the dimension and the index."""
    func, args, _ = made(x)
    if func is not aten.select.int:
        return None
    whole, dim, index = args
    return whole, dim % whole.ndim, index % whole.shape[dim]


def _next(step: Recurrence, x: Taylor, y: Taylor, value: Tensor) -> Tensor:
    """Coefficients of x + y, after those of the earlier states, the first of them first: calls must not nest."""
    waiting, state = [], step.before
    while isinstance(state, Taylor) and isinstance(state.origin, Recurrence):
        waiting.append(state)
        state = state.origin.before
    for one in reversed(waiting):
        _ = one.coefficients
    return _sum_of(x, y, 1, value)


def _streamed_sum(x: Taylor, y: Taylor, alpha: float, value: Tensor, entries: int) -> Stream:
    dtype = x.frame.dtype_beside(value)
    factor = None
    folds = isinstance(y.origin, Scaled) and y.readers < 2 and alpha == 1 and y.origin.x.shape == y.shape
    if folds and isinstance(y.origin.factor, Tensor):
        y, factor = y.origin.x, like(y.origin.factor, dtype)
    for (here, a), (_, b) in zip(x.stream(entries), y.stream(entries), strict=True):
        if not x.frame.dtype:
            a, b = a.to(dtype), b.to(dtype)
        # With a dtype of their own the wider one stays: a sum over layers must not be rounded to 8 bits at each.
        yield (
            here,
            torch.add(a, b, alpha=alpha) if factor is None else torch.addcmul(a, b.to(a.dtype), factor.to(a.dtype)),
        )


@rule(aten.sub)
def _sub(func: Any, x: Any, y: Any, *, alpha: float = 1) -> Taylor:
    return _add(func, x, y, alpha=-alpha)


@rule(aten.rsub)
def _rsub(func: Any, x: Any, y: Any, alpha: float = 1) -> Taylor:
    return (
        _add(func, y, x, alpha=-alpha) if isinstance(y, Tensor) else _add(func, scaled(x, -alpha * x.value, -alpha), y)
    )


def _sum_of(x: Any, y: Any, alpha: float, value: Tensor) -> Tensor:
    if not isinstance(y, Taylor):
        return spread(x, value.shape, value.dtype)
    b = spread(y, value.shape, value.dtype)
    if not isinstance(x, Taylor):
        return b if alpha == 1 else b * alpha
    return torch.add(spread(x, value.shape, value.dtype), b, alpha=alpha)


@rule(aten.where)
def _where(func: Any, condition: Tensor, x: Any, y: Any) -> Taylor:
    require(not isinstance(condition, Taylor), str(func))
    frame = frame_of(x, y)
    value = torch.where(condition, plain(x), plain(y))

    def coefficients() -> Tensor:
        one = spread(x, value.shape, value.dtype) if isinstance(x, Taylor) else 0
        other = spread(y, value.shape, value.dtype) if isinstance(y, Taylor) else 0
        return torch.where(condition, one, other)

    return Taylor(value, coefficients, frame)


@rule(aten.masked_fill)
def _masked_fill(func: Any, x: Any, mask: Tensor, fill: Any) -> Taylor:
    require(isinstance(x, Taylor) and not isinstance(fill, Taylor), str(func))
    value = x.value.masked_fill(mask, fill)
    return Taylor(value, lambda: spread(x, value.shape, value.dtype).masked_fill(mask, 0), x.frame)
