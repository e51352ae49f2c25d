"""Matrix products: with weights, all coefficients in one product; between two Taylor tensors, by Leibniz."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from symnoise.curvature.taylor.tensor import FUNCTIONS, Recurrence, Taylor, frame_of, lifted, plain, require, rule

aten = torch.ops.aten


def linear(x: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    """x Wᵀ + b."""
    require(isinstance(x, Taylor) and not isinstance(weight, Taylor) and not isinstance(bias, Taylor), "linear weights")
    value = F.linear(x.value, weight, bias)
    dtype = x.frame.dtype_beside(value)
    result = through_matrix(x, value, lambda c: stacked_linear(c.to(dtype), x.frame.weight(weight, dtype)))
    result.made = (linear, (x, weight, bias), {})
    return result


def stacked_linear(c: Tensor, weight: Tensor) -> Tensor:
    """c Wᵀ for coefficients of any shape."""
    # As one matrix: with strides of its own, F.linear would repeat the weight for each coefficient.
    return F.linear(c.reshape(-1, c.shape[-1]), weight).view(*c.shape[:-1], -1)


def through_matrix(x: Taylor, value: Tensor, function: Callable[[Tensor], Tensor]) -> Taylor:
    """`function` multiplies stacked coefficients by a matrix: all at once if they are known, else block by block."""
    x.bound()
    result = Taylor.each(x, value, function)
    if not x.known:
        result._coefficients = None  # collected from the stream
    result.pending = x.pending + 1
    return result


FUNCTIONS[F.linear] = linear


@rule(aten.mm)
def matrix_product(func: Any, x: Any, y: Any) -> Taylor:
    if isinstance(x, Taylor) and isinstance(y, Taylor):
        return _bilinear(x, y)
    if isinstance(x, Taylor):
        value = x.value @ y
        dtype = x.frame.dtype_beside(value)
        return through_matrix(x, value, lambda c: c.to(dtype) @ x.frame.weight(y, dtype))
    value = x @ y.value
    dtype = y.frame.dtype_beside(value)
    return through_matrix(y, value, lambda c: y.frame.weight(x, dtype) @ c.to(dtype))


def read_out(x: Any, y: Any) -> Any:
    """x y for the state x of a recurrence, put off until the products of all steps are asked for."""
    recurs = isinstance(getattr(x, "origin", None), Recurrence) and isinstance(y, Taylor)
    if not recurs or not x.ndim == y.ndim == 3 or len(x) != len(y):
        return NotImplemented
    value = x.value @ y.value
    result = Taylor(value, lambda: _leibniz(x, y, value), x.frame)
    result.made = (read_out, (x, y), {})
    return result


FUNCTIONS |= dict.fromkeys((torch.matmul, Tensor.matmul), read_out)  # x @ y is the latter


@rule(aten.mv)
def _matrix_vector(func: Any, x: Any, y: Any) -> Any:
    return torch.mm(x, y[:, None])[:, 0]


@rule(aten.bmm)
def batched_product(func: Any, x: Any, y: Any) -> Taylor:
    frame = frame_of(x, y)
    if not isinstance(y, Taylor) or not isinstance(x, Taylor):
        value = torch.bmm(plain(x), plain(y))
        return Taylor(value, _one_sided(x, y, value), frame)
    return _bilinear(x, y)


def _one_sided(x: Any, y: Any, value: Tensor) -> Tensor:
    moving = x if isinstance(x, Taylor) else y
    c = moving.coefficients.to(moving.frame.dtype_beside(value))
    out = c.new_empty(c.shape[0], *value.shape)
    other = (y if isinstance(x, Taylor) else x).to(c.dtype)
    for one, into in zip(c, out, strict=True):
        torch.bmm(*((one, other) if isinstance(x, Taylor) else (other, one)), out=into)
    return out


def _bilinear(x: Taylor, y: Taylor) -> Taylor:
    value = x.value @ y.value
    return Taylor(value, _leibniz(x, y, value), x.frame)


def _leibniz(x: Taylor, y: Taylor, value: Tensor) -> Tensor:
    frame = x.frame
    a, b = (z.coefficients.to(frame.dtype_beside(value)) for z in (x, y))
    a0, b0 = x.value.to(a.dtype), y.value.to(b.dtype)
    add = torch.Tensor.addmm_ if value.ndim == 2 else torch.Tensor.baddbmm_
    out = a.new_empty(a.shape[0], *value.shape)
    for i in range(a.shape[0]):
        add(torch.matmul(a[i], b0, out=out[i]), a0, b[i])
    for g, k in frame.members():
        add(out[g], a[k], b[k], alpha=2)
    return out


def _grouped_product(
    func: Any, x: Any, weight: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None
) -> Taylor:
    """Rows of x in consecutive groups, each times its own matrix: experts. offs: ends of the groups."""
    plain_weights = isinstance(x, Taylor) and x.ndim == 2 and not isinstance(weight, Taylor) and weight.ndim == 3
    require(plain_weights and bias is None and out_dtype is None, str(func))
    value = func(x.value, weight, offs)
    dtype = x.frame.dtype_beside(value)
    return through_matrix(x, value, lambda c: _grouped(c.to(dtype), x.frame.weight(weight, dtype), offs))


if hasattr(aten, "_grouped_mm"):  # PyTorch 2.8
    rule(aten._grouped_mm)(_grouped_product)


def _grouped(c: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """The coefficients of a row lie next to each other: one product with groups that are as many times larger."""
    rows = c.transpose(0, 1).reshape(-1, c.shape[-1])
    product = aten._grouped_mm(rows, weight, ends * len(c))
    return product.unflatten(0, (-1, len(c))).transpose(0, 1)


@rule(aten.linalg_solve_triangular)
def _solve_triangular(func: Any, a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    """a x = b: a x1 = b1 − a1 x,  a x2 = b2 − a2 x − 2 Σ a1 x1."""
    require(left, f"{func} from the right")
    frame = frame_of(a, b)
    value = func(plain(a), plain(b), upper=upper, unitriangular=unitriangular)
    a, b = (z if isinstance(z, Taylor) else frame.constant(z) for z in (a, b))

    def coefficients() -> Tensor:
        dtype = frame.dtype_beside(value)
        inner = int(unitriangular)  # a diagonal of ones has no derivative
        a1 = lifted(a.coefficients.to(dtype), value.ndim)
        a1 = a1.triu(inner) if upper else a1.tril(-inner)
        right = lifted(b.coefficients.to(dtype), value.ndim) - a1 @ value.to(dtype)
        own = torch.promote_types(dtype, torch.float32)  # LAPACK has no 16 bits
        a0 = a.value.to(own)
        first = func(a0, right[: frame.probes].to(own), upper=upper, unitriangular=unitriangular).to(dtype)
        bent = (a1[: frame.probes] @ first).unflatten(0, (frame.groups, -1)).sum(1)
        second = (right[frame.probes :] - 2 * bent).to(own)
        return torch.cat([first, func(a0, second, upper=upper, unitriangular=unitriangular).to(dtype)])

    return Taylor(value, coefficients, frame)


@rule(aten.addmm, aten.baddbmm)
def _add_product(func: Any, bias: Any, x: Any, y: Any, *, beta: float = 1, alpha: float = 1) -> Taylor:
    product = matrix_product if func.overloadpacket is aten.addmm else batched_product
    result = product(func, x, y) if isinstance(x, Taylor) or isinstance(y, Taylor) else x @ y
    if alpha != 1:
        result = result * alpha
    return result + (bias if beta == 1 else bias * beta)


@rule(aten.dot)
def _dot(func: Any, x: Any, y: Any) -> Taylor:
    return (x * y).sum()
