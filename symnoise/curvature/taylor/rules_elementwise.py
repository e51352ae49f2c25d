"""Functions of one entry at a time: each is given by f, f' and f''; products and sums by Leibniz."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from symnoise.curvature.taylor.tensor import Taylor, frame_of, lifted, plain, require, rule, spread

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
    """Origin of y = x · factor, factor without coefficients, shape of x and y alike."""

    x: Taylor
    factor: Factor


def like(factor: Factor, coefficients: Tensor) -> Factor:
    return factor.to(coefficients.dtype) if isinstance(factor, Tensor) else factor


def elementwise(x: Taylor, y: Tensor, first: Factor, second: Factor | None) -> Taylor:
    """y = f(x) with f'(x0) and f''(x0) given."""
    return Taylor(y, lambda: _through(x, first, second), x.frame, Elementwise(x, first, second))


def _through(x: Taylor, first: Factor, second: Factor | None) -> Tensor:
    c = x.coefficients
    first = like(first, c)
    if second is None:
        return c * first
    out = torch.empty_like(c)
    probes = x.frame.probes
    torch.mul(c[probes:], first, out=out[probes:])
    squares = [torch.zeros_like(c[0]) for _ in range(x.frame.groups)]
    for g, k in x.frame.members():  # one probe at a time, so that what is read twice is still in the cache
        torch.mul(c[k], first, out=out[k])
        squares[g - probes].addcmul_(c[k], c[k])
    for y2, square in zip(out[probes:], squares, strict=True):
        y2.add_(square.mul_(like(second, c)))
    return out


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


def _rsqrt(x: Tensor) -> Derivatives:
    y = torch.rsqrt(x)
    return y, -0.5 * y**3, 0.75 * y**5


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
    return y, torch.where(x > 0, torch.full_like(x, scale), e), torch.where(x > 0, 0, input_scale * e)


def _relu(x: Tensor) -> Derivatives:
    return torch.relu(x), (x > 0).to(x.dtype), None


def _leaky_relu(x: Tensor, slope: float = 0.01) -> Derivatives:
    return F.leaky_relu(x, slope), torch.ones_like(x).masked_fill_(x <= 0, slope), None


def _clamp(x: Tensor, low: Any = None, high: Any = None) -> Derivatives:
    y = torch.clamp(x, low, high)
    return y, (x == y).to(x.dtype), None


def _hardtanh(x: Tensor, low: float = -1, high: float = 1) -> Derivatives:
    return _clamp(x, low, high)


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
    aten.rsqrt: _rsqrt,
    aten.reciprocal: _reciprocal,
    aten.sin: _sin,
    aten.cos: _cos,
    aten.erf: _erf,
    aten.softplus: _softplus,
    aten.elu: _elu,
    aten.relu: _relu,
    aten.leaky_relu: _leaky_relu,
    aten.clamp: _clamp,
    aten.clamp_min: _clamp,
    aten.clamp_max: lambda x, high: _clamp(x, None, high),
    aten.hardtanh: _hardtanh,
    aten.abs: _abs,
}


@rule(*_UNARY)
def _unary(func: Any, x: Any, *args: Any, **kwargs: Any) -> Taylor:
    require(isinstance(x, Taylor) and not any(isinstance(a, Tensor) for a in args), str(func))
    return elementwise(x, *_UNARY[func.overloadpacket](x.value, *args, **kwargs))


@rule(aten.pow)
def power(func: Any, x: Any, exponent: Any) -> Taylor:
    require(isinstance(x, Taylor) and not isinstance(exponent, Tensor), str(func))
    value, n = x.value, exponent
    if n == 2:
        return elementwise(x, value.square(), 2 * value, 2.0)
    return elementwise(x, value.pow(n), n * value.pow(n - 1), n * (n - 1) * value.pow(n - 2))


# --- sums and products ------------------------------------------------------------------------------------------


def scaled(x: Taylor, y: Tensor, factor: Factor) -> Taylor:
    """y = x · factor, factor without coefficients, shapes broadcast."""
    origin = Scaled(x, factor) if y.shape == x.shape else None
    return Taylor(y, lambda: _times(x, factor, y), x.frame, origin)


def _times(x: Taylor, factor: Factor, y: Tensor) -> Tensor:
    c = lifted(x.coefficients.to(x.frame.dtype_beside(y)), y.ndim)
    return c * like(factor, c)


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
    return Taylor(value, lambda: _leibniz(x, y, value), x.frame)


def _leibniz(x: Taylor, y: Taylor, value: Tensor) -> Tensor:
    frame, shape = x.frame, value.shape
    a, b = spread(x, shape, value.dtype), spread(y, shape, value.dtype)
    a0, b0 = x.value.to(a.dtype), y.value.to(a.dtype)
    out = torch.empty_like(a if x.shape == shape else b)
    for g in range(frame.probes, frame.probes + frame.groups):
        torch.mul(a[g], b0, out=out[g]).addcmul_(b[g], a0)
    for g, k in frame.members():
        torch.mul(a[k], b0, out=out[k]).addcmul_(b[k], a0)
        out[g].addcmul_(a[k], b[k], value=2)
    return out


@rule(aten.add)
def _add(func: Any, x: Any, y: Any, *, alpha: float = 1) -> Taylor:
    frame = frame_of(x, y)
    value = torch.add(plain(x), plain(y), alpha=alpha)
    return Taylor(value, lambda: _sum_of(x, y, alpha, value), frame)


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
