"""Recurrences that a model runs step by step: s_t = a_t s_{t−1} + u_t, read out as y_t = s_t c_t, all y_t then stacked.

    s1_t = a_t s1_{t−1} + a1_t s_{t−1} + u1_t
    s2_t = a_t s2_{t−1} + a2_t s_{t−1} + u2_t + 2 Σ_k a1_t s1_{t−1}
Each step is little work, which starting a dozen operations on it would outweigh. So coefficients wait until the y_t are
stacked, and are then computed for many steps at once: all but the first term of either sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from symnoise.curvature.taylor.rules.elementwise import ENTRYWISE
from symnoise.curvature.taylor.rules.linear import read_out
from symnoise.curvature.taylor.tensor import Frame, Recurrence, Taylor, frame_of, made, plain, rule

aten = torch.ops.aten

# Entries of the coefficients of the steps that are computed at once.
STEPS = 2**21


@dataclass(frozen=True)
class Reading:
    """y = s c with the state s of one step."""

    state: Taylor
    step: Recurrence
    c: Taylor


@rule(aten.stack)
def _stack(func: Any, tensors: Sequence[Any], dim: int = 0) -> Taylor:
    frame = frame_of(*tensors)
    value = torch.stack([plain(x) for x in tensors], dim)
    dim = dim % value.ndim

    def coefficients() -> Tensor:
        if readings := _readings(tensors):
            return _run(readings).movedim(0, dim + 1)
        parts = [x if isinstance(x, Taylor) else frame.constant(x) for x in tensors]
        return torch.stack([x.coefficients for x in parts], dim + 1)

    return Taylor(value, coefficients, frame)


def _readings(tensors: Sequence[Any]) -> list[Reading] | None:
    """What is read in consecutive steps of one recurrence, if that is what the tensors wait for."""
    readings: list[Reading] = []
    for y in tensors:
        one = _reading(y)
        if one is None or (readings and not _follows(one, readings[-1])):
            return None
        readings.append(one)
    return readings


def _reading(y: Any) -> Reading | None:
    """y = (s c)[..., 0], for matrices of one column c."""
    func, args, _ = made(y)
    if func is not aten.select.int or args[0].shape[-1] != 1 or args[1] % args[0].ndim != args[0].ndim - 1:
        return None
    func, args, _ = made(args[0])
    return Reading(args[0], args[0].origin, args[1]) if func is read_out and args[0].origin else None


def _follows(one: Reading, last: Reading) -> bool:
    step, before = one.step, last.step
    same = step.a is before.a and step.u is before.u and step.dim == before.dim
    return same and step.before is last.state and step.index == before.index + 1


def _run(readings: list[Reading]) -> Tensor:
    """Coefficients of y_t, the steps first."""
    first, value = readings[0].step, readings[0].state.value
    frame = readings[0].state.frame
    dtype, probes = frame.dtype_beside(value), frame.probes
    count = max(1, STEPS // (frame.total * value.numel()))
    s = torch.zeros(min(count, len(readings)) + 1, frame.total, *value.shape, dtype=dtype, device=value.device)
    if isinstance(first.before, Taylor):
        s[0] = first.before.coefficients
    parts = []
    for start in range(0, len(readings), count):
        some = readings[start : start + count]
        n, here = len(some), (first.dim, first.index + start, first.index + start + len(some))
        a, u = (_steps_first(_part(x, *here), first.dim, dtype) for x in (first.a, first.u))
        a0 = first.a.value.narrow(first.dim, here[1], n).movedim(first.dim, 0).to(dtype)
        s0 = torch.stack([plain(one.step.before) for one in some]).to(dtype)
        now, after = s[:n], s[1 : n + 1]
        torch.addcmul(u, a, s0[:, None], out=after)
        for t in range(n):
            after[t, :probes].addcmul_(a0[t], now[t, :probes])
        after[:, probes:].add_(_sums(a[:, :probes] * now[:, :probes], frame), alpha=2)
        for t in range(n):
            after[t, probes:].addcmul_(a0[t], now[t, probes:])
        parts.append(_read(after, some, frame))
        s[0] = after[-1]
    return torch.cat(parts)


def _read(s: Tensor, readings: list[Reading], frame: Frame) -> Tensor:
    """s c, of each step."""
    s0 = torch.stack([one.state.value for one in readings]).to(s.dtype)
    c0 = torch.stack([one.c.value for one in readings]).to(s.dtype)
    c = torch.stack([one.c.coefficients for one in readings]).to(s.dtype)
    first = slice(0, frame.probes)
    columns = torch.cat([c0[:, None].expand_as(c), c], -1)
    y, mixed = (s @ columns).unbind(-1)
    y = y + (s0 @ c.squeeze(-1).movedim(1, -1)).movedim(-1, 1)
    y[:, frame.probes :] += 2 * _sums(mixed[:, first], frame)
    return y


def _sums(x: Tensor, frame: Frame) -> Tensor:
    """(steps, K, …) -> (steps, G, …)."""
    return x.unflatten(1, (frame.groups, -1)).sum(2)


def _steps_first(x: Taylor, dim: int, dtype: torch.dtype) -> Tensor:
    return x.coefficients.movedim(dim + 1, 0).to(dtype)


def _part(x: Taylor, dim: int, start: int, stop: int) -> Taylor:
    """x[start:stop] along dim; operations entry by entry that x still waits for are done on this part alone."""
    func, args, kwargs = made(x)
    if getattr(func, "overloadpacket", None) not in ENTRYWISE:
        return aten.slice(x, dim, start, stop)

    def cut(one: Any) -> Any:
        own = one.ndim - x.ndim + dim if isinstance(one, Tensor) else -1
        if own < 0 or one.shape[own] == 1:
            return one
        return _part(one, own, start, stop) if isinstance(one, Taylor) else one.narrow(own, start, stop - start)

    if func is aten.mul.Tensor:
        return _product([cut(one) for one in _factors(x)])
    return func(*(cut(one) for one in args), **kwargs)


def _factors(x: Any) -> list[Any]:
    """Of a product that waits."""
    func, args, _ = made(x)
    return [one for arg in args for one in _factors(arg)] if func is aten.mul.Tensor else [x]


def _product(factors: list[Any]) -> Any:
    """The product, small ones first: where factors are broadcast, their order decides on the number of operations."""
    while len(factors) > 1:
        pairs = combinations(range(len(factors)), 2)
        i, j = min(pairs, key=lambda pair: torch.broadcast_shapes(*(factors[n].shape for n in pair)).numel())
        rest = [one for n, one in enumerate(factors) if n not in (i, j)]
        factors = [factors[i] * factors[j], *rest]
    return factors[0]
