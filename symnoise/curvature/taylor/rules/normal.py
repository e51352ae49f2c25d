"""Normalisations: LayerNorm, RMSNorm, softmax, log-softmax, logsumexp.

Softmax p of s, ⟨·⟩ = Σ p ·, centred e_k = s1_k − ⟨s1_k⟩:
    p1_k = p e_k,   p2 = p (u − ⟨u⟩),   u = s2 + Σ_k e_k².
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from symnoise.curvature.taylor.normal import Normalised, normalised
from symnoise.curvature.taylor.tensor import FUNCTIONS, Taylor, require, rule

aten = torch.ops.aten


@rule(aten.native_layer_norm)
def _layer_norm(func: Any, x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> tuple[Taylor, Any, Any]:
    require(isinstance(x, Taylor) and not isinstance(weight, Taylor) and not isinstance(bias, Taylor), str(func))
    value, mean, r = func(x.value, shape, weight, bias, eps)
    dims = list(range(-len(shape), 0))
    return normalised(value, Normalised(x, r, weight, dims, centred=True), x.frame), mean, r


def rms_norm(x: Any, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Taylor:
    require(isinstance(x, Taylor) and not isinstance(weight, Taylor), "rms_norm weights")
    value, dims = F.rms_norm(x.value, shape, weight, eps), list(range(-len(shape), 0))
    x0 = x.value.to(torch.promote_types(x.dtype, torch.float32))
    r = (x0.square().mean(dims, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt()
    return normalised(value, Normalised(x, r, weight, dims, centred=False), x.frame)


FUNCTIONS[F.rms_norm] = rms_norm


@rule(aten._softmax)
def _softmax(func: Any, x: Taylor, dim: int, half_to_float: bool) -> Taylor:
    value = func(x.value, dim, half_to_float)
    return Taylor(value, lambda: _softmax_coefficients(x, value, dim % x.ndim), x.frame)


def _softmax_coefficients(x: Taylor, value: Tensor, dim: int) -> Tensor:
    frame, c = x.frame, x.coefficients.to(x.frame.dtype_beside(value))
    p, out = value.to(c.dtype), torch.empty_like(c)
    out[frame.probes :] = c[frame.probes :]
    for g, k in frame.members():
        centred = c[k] - (p * c[k]).sum(dim, keepdim=True)
        torch.mul(p, centred, out=out[k])
        out[g].addcmul_(centred, centred)
    for u in out[frame.probes :]:
        u.sub_((p * u).sum(dim, keepdim=True)).mul_(p)
    return out


@rule(aten._log_softmax)
def _log_softmax(func: Any, x: Taylor, dim: int, half_to_float: bool) -> Taylor:
    value = func(x.value, dim, half_to_float)
    dim = dim % x.ndim

    def coefficients() -> Tensor:
        c = x.coefficients.to(x.frame.dtype_beside(value))
        return c - mean_and_variance(x, c, value.exp(), dim)

    return Taylor(value, coefficients, x.frame)


@rule(aten.logsumexp)
def _logsumexp(func: Any, x: Taylor, dims: Any, keepdim: bool = False) -> Taylor:
    value = func(x.value, dims, keepdim)
    require(isinstance(dims, int) or len(dims) == 1, f"{func} over several dimensions")
    dim = (dims if isinstance(dims, int) else dims[0]) % x.ndim

    def coefficients() -> Tensor:
        p = torch.softmax(x.value, dim)
        moments = mean_and_variance(x, x.coefficients, p, dim)
        return moments if keepdim else moments.squeeze(dim + 1)

    return Taylor(value, coefficients, x.frame)


def mean_and_variance(x: Taylor, c: Tensor, p: Tensor, dim: int) -> Tensor:
    """Coefficients of log Σ exp: ⟨x1_k⟩, and ⟨x2⟩ + Σ_k (⟨x1_k²⟩ − ⟨x1_k⟩²); `dim` kept as one."""
    p = p.to(c.dtype)
    out = torch.stack([(p * one).sum(dim, keepdim=True) for one in c])
    for g, k in x.frame.members():
        out[g].add_((p * (c[k] - out[k]).square()).sum(dim, keepdim=True))
    return out


@rule(aten.nll_loss_forward)
def _nll_loss(func: Any, x: Any, target: Tensor, weight: Any, reduction: int, ignored: int) -> tuple[Any, Tensor]:
    require(isinstance(x, Taylor) and weight is None, str(func))
    scored = target != ignored
    losses = -x.gather(-1, target.masked_fill(~scored, 0).unsqueeze(-1)).squeeze(-1).masked_fill(~scored, 0)
    total = losses if reduction == 0 else losses.sum() / (scored.sum() if reduction == 1 else 1)
    return total, scored.sum().to(x.dtype)


@rule(aten.std)
def _deviation(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    return _variance(func, x, *args, **kwargs).sqrt()


@rule(aten.var)
def _variance(func: Any, x: Any, dim: Any = None, *, correction: float | None = None, keepdim: bool = False) -> Any:
    dims = list(range(x.ndim)) if dim is None else dim
    count = torch.Size(x.shape[d] for d in dims).numel()
    centred = x - x.mean(dims, keepdim=True)
    return (centred * centred).sum(dims, keepdim=keepdim) / (count - (1 if correction is None else correction))


@rule(aten.linalg_vector_norm)
def _norm(func: Any, x: Any, order: float = 2, dim: Any = None, keepdim: bool = False, **options: Any) -> Any:
    require(order == 2 and not any(options.values()), f"{func} other than the Euclidean norm")
    return (x * x).sum(list(range(x.ndim)) if dim is None else dim, keepdim=keepdim).sqrt()
