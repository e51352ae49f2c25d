"""`Taylor`: a tensor with its value, K first-order coefficients and G summed second-order ones, one per probe group.

symbol   here                        shape
x0       `value`                     S
x1_k     `coefficients[k]`           (K + G, *S), the first K
x2_g     `coefficients[K + g]`       the last G
A function y = f(x) acts as  y1_k = f'(x0) x1_k,  y2_g = f'(x0) x2_g + Σ_{k in group g} f''(x0)[x1_k, x1_k].
(Forward Laplacian, collapsed Taylor mode: Dangel et al. 2025, arXiv 2505.13644, with G sums instead of one.)
"""

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

# Entries of coefficients that are worked on at a time, 16 MiB in float32: fewer are faster to read again, but slower
# in matrix products.
_CACHE = 2**22

# As many as the matrices of one layer that a chain of blocks goes through, with some to spare.
_CASTS = 4

# Operations that coefficients may wait for, one upon the other: each nests Python's calls a little deeper, and a scan
# may be as long as the text.
_LONGEST = 64

Stream = Iterator[tuple[slice, Tensor]]

# A view: the operation, its other arguments, and the place of the view in its result if that is a list.
Step = tuple[Any, tuple[Any, ...], dict[str, Any], int | None]

# What acts on Taylor tensors: aten operations (x.f_(...) by the rule of f), and Python-level functions that are caught
# before PyTorch takes them apart into such operations; NotImplemented leaves that to PyTorch.
RULES: dict[Any, Callable[..., Any]] = {}
FUNCTIONS: dict[Any, Callable[..., Any]] = {}


def even_cuts(start: int, count: int, most: int) -> Iterator[slice]:
    """start … start + count − 1 in as few parts of at most `most` as possible, of nearly equal length."""
    parts = -(-count // most)
    for part in range(parts):
        yield slice(start + count * part // parts, start + count * (part + 1) // parts)


class UnsupportedOperation(NotImplementedError):  # noqa: N818
    """An operation of the model has no Taylor rule; the message names it and the alternative."""

    def __init__(self, operation: str, where: str = "") -> None:
        self.operation, self.where = operation, where
        place = f" (met in {where})" if where else ""
        super().__init__(f"no Taylor rule for {operation}{place}; use method='hvp' for this model")


class NonFinite(ArithmeticError):  # noqa: N818
    """A value or coefficient stopped being finite; raised only by a `Frame` that checks."""


@dataclass(frozen=True)
class Frame:
    """What all Taylor tensors of one pass share.

    probes, groups: K and G; group g holds the K/G probes from g·K/G on. dtype: of the coefficients, None = that of
    the value; sums over layers keep the value's even so. check: look at every result and raise `NonFinite` at the
    first that is not finite.
    """

    probes: int
    groups: int
    dtype: torch.dtype | None = None
    check: bool = False
    _casts: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _unknown: list["weakref.ref[Taylor]"] = field(default_factory=list)

    def blocks(self, entries: int) -> Iterator[slice]:
        """Cuts of the coefficients, x1 before x2, never across groups, of few enough entries to stay in a cache."""
        size = self.probes // self.groups
        for start in [*range(0, self.probes, size), self.probes]:
            count = size if start < self.probes else self.groups
            yield from even_cuts(start, count, max(1, _CACHE // max(1, entries)))

    @property
    def total(self) -> int:
        """K + G."""
        return self.probes + self.groups

    def group(self, probe: int) -> int:
        return probe // (self.probes // self.groups)

    def members(self) -> Iterator[tuple[int, int]]:
        """(index of the group's x2, index of one of its x1), all pairs."""
        for probe in range(self.probes):
            yield self.probes + self.group(probe), probe

    def dtype_beside(self, value: Tensor) -> torch.dtype:
        return value.dtype if value.is_complex() else self.dtype or value.dtype

    def weight(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """`weight` in `dtype`; the last few conversions are kept, as blocks come back to the same weights."""
        if weight.dtype == dtype:
            return weight
        if id(weight) not in self._casts:  # the weight is kept next to its cast, so that its id stays its own
            if len(self._casts) == _CASTS:
                del self._casts[next(iter(self._casts))]
            self._casts[id(weight)] = (weight, weight.to(dtype))
        return self._casts[id(weight)][1]

    def constant(self, value: Tensor) -> "Taylor":
        """A Taylor tensor that does not depend on the probes."""
        zero = torch.zeros((), dtype=self.dtype_beside(value), device=value.device)
        return Taylor(value, zero.expand(self.probes + self.groups, *value.shape), self)

    def put_off(self, x: "Taylor") -> None:
        """Remembers x, whose coefficients are not computed yet."""
        self._unknown.append(weakref.ref(x))

    def settle(self) -> None:
        """Computes all coefficients that were put off, the latest first: chains of operations run block by block."""
        while self._unknown:
            x = self._unknown.pop()()
            if x is not None:
                _ = x.coefficients


class Taylor(Tensor):
    """Value and coefficients; the value is computed at once, coefficients when first asked for.

    coefficients: a tensor, or a function that computes it. stream: a function entries -> generator of blocks, through
    which a chain of operations is run block by block while the block is in the cache; `entries` are those of one
    coefficient of the result, so that all arguments of an operation are cut alike (`Frame.blocks`). What several
    operations read is computed once and kept. `pending` counts the matrix products on the way to the coefficients,
    `length` all operations.
    whole, way: of a view, what it is a view of, and the operations that lead from there to it. views: those of this
    tensor that are alive; None once it was given away as a plain tensor.

    `origin` tells how a tensor was made until its coefficients are known, for rules that do better on a pair of
    operations than one by one; `made` is the last operation and its arguments.
    """

    value: Tensor
    frame: Frame
    origin: Any
    made: tuple[Any, tuple[Any, ...], dict[str, Any]] | None
    readers: int
    pending: int
    length: int
    whole: "Taylor | None"
    way: tuple[Step, ...]
    views: "list[weakref.ref[Taylor]] | None"
    _coefficients: Tensor | Callable[[], Tensor] | None
    _stream: Callable[[int], Stream] | None

    @staticmethod
    def __new__(
        cls,
        value: Tensor,
        coefficients: Tensor | Callable[[], Tensor] | None,
        frame: Frame,
        origin: Any = None,
        stream: Callable[[int], Stream] | None = None,
    ) -> "Taylor":
        self = torch.Tensor._make_wrapper_subclass(
            cls, value.shape, strides=value.stride(), dtype=value.dtype, device=value.device
        )
        self.value, self._coefficients, self.frame = value, coefficients, frame
        self.origin, self._stream, self.made = origin, stream, None
        self.readers = self.pending = self.length = 0
        self.whole, self.way, self.views = None, (), []
        if not self.known:
            frame.put_off(self)
        return self

    @property
    def coefficients(self) -> Tensor:
        """(K + G, *shape)."""
        if not isinstance(self._coefficients, Tensor):
            self._coefficients = self._collect() if self._coefficients is None else self._coefficients()
            self.origin = self.made = self._stream = None  # what it was made from may be freed
            self.pending = self.length = 0
        return self._coefficients

    def _collect(self) -> Tensor:
        assert self._stream is not None
        result = None
        for here, block in self._stream(self.value.numel()):
            if result is None:
                result = block.new_empty(self.frame.total, *self.shape)
            result[here] = block
        assert result is not None
        return result

    def stream(self, entries: int) -> Stream:
        """Blocks of the coefficients; computed on the way and forgotten if this is their only reader."""
        if self._stream is not None and self.readers < 2:
            yield from self._stream(entries)
        else:
            c = self.coefficients
            for here in self.frame.blocks(entries):
                yield here, c[here]

    @staticmethod
    def each(x: "Taylor", value: Tensor, function: Callable[[Tensor], Tensor]) -> "Taylor":
        """A linear function of x, given as it acts on any number of stacked coefficients."""
        return Taylor(
            value, lambda: function(x.coefficients), x.frame, None, lambda entries: _each(x, function, entries)
        )

    def bound(self) -> None:
        """Computes the coefficients now unless they can be streamed out of few matrix products.

        Called by matrix products on what they read: what is put off must not reach back through the layers.
        """
        if self._stream is None or self.pending > 1:
            _ = self.coefficients

    def lay_out(self, dim: int) -> None:
        """Moves the coefficients so that those at one index of `dim`, of the stacked coefficients, lie together."""
        c = self.coefficients
        if c.stride(dim) < max(c.stride()[1:]):
            self._coefficients = c.movedim(dim, 1).contiguous().movedim(1, dim)

    @property
    def known(self) -> bool:
        """Are the coefficients computed?"""
        return isinstance(self._coefficients, Tensor)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Taylor({tuple(self.value.shape)}, {self.frame.probes} probes in {self.frame.groups} groups)"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            rule = FUNCTIONS.get(func)
            result = NotImplemented if rule is None else rule(*args, **(kwargs or {}))
            if result is NotImplemented:
                return func(*args, **(kwargs or {}))
            _mark_read(args)
            return result

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        writes, shows = _kind(func)
        if writes:
            return _in_place(func, args, kwargs)
        rule = RULES.get(func.overloadpacket)
        if rule is None:
            raise UnsupportedOperation(str(func))
        result = rule(func, *args, **kwargs)
        pending, length = _mark_read(args)
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(one, Taylor):
                if one.frame.check:
                    _check(one, str(func))
                if not one.known:
                    one.pending = max(one.pending, pending)
                    one.length = 1 if isinstance(one.origin, Recurrence) else length + 1
                if one.length > _LONGEST:
                    _ = one.coefficients
                if not one.known and one.made is None:
                    one.made = (func, args, kwargs)
        if shows:
            _mark_views(result, func, args, kwargs)
        return result


@cache
def _kind(func: Any) -> tuple[bool, bool]:
    """Whether an operation writes in place, and whether its result is a view."""
    return func._schema.is_mutable, any(r.alias_info for r in func._schema.returns)


@dataclass(frozen=True)
class Recurrence:
    """Origin of s_t = a_t s_{t−1} + u_t: a_t and u_t stand at `index` of `dim` of a and u, `before` is s_{t−1}."""

    a: Taylor
    u: Taylor
    dim: int
    index: int
    before: Tensor


def _mark_read(args: Any) -> tuple[int, int]:
    """Counts one more reader of every Taylor tensor; the most matrix products, and operations, that any waits for."""
    pending = length = 0
    for x in args:
        if isinstance(x, Taylor):
            x.readers += 1
            waits = x.pending, x.length
        elif isinstance(x, (list, tuple)):
            waits = _mark_read(x)
        else:
            continue
        pending, length = max(pending, waits[0]), max(length, waits[1])
    return pending, length


def _each(x: Taylor, function: Callable[[Tensor], Tensor], entries: int) -> Stream:
    for here, c in x.stream(entries):
        yield here, function(c)


def _mark_views(result: Any, func: Any, args: Any, kwargs: Any) -> None:
    """Remembers how each result shows the memory of the first argument."""
    x: Taylor = args[0]
    whole = x if x.whole is None else x.whole
    for place, view in enumerate(result) if isinstance(result, (tuple, list)) else [(None, result)]:
        if not isinstance(view, Taylor):
            whole.views = None
        elif view is not x:
            view.whole, view.way = whole, (*x.way, (func, args[1:], kwargs, place))
            if whole.views is not None:
                whole.views.append(weakref.ref(view))


def _seen(whole: Taylor, way: tuple[Step, ...]) -> Taylor:
    """The view of `whole` that the operations lead to."""
    for func, args, kwargs, place in way:
        shown = RULES[func.overloadpacket](func, whole, *args, **kwargs)
        whole = shown if place is None else shown[place]
    return whole


def _in_place(func: Any, args: Any, kwargs: Any) -> Taylor:
    """x.f_(...): x, what it is a view of and all other views of that take the values of f(x, ...).

    No memory is written. What was made from the old values is computed before, and the new ones are put in their place.
    """
    x, name = args[0] if args else None, str(func.overloadpacket).removeprefix("aten.")
    plain_one: Any = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") else None
    if plain_one not in RULES or not isinstance(x, Taylor):
        raise UnsupportedOperation(f"{func}, which writes in place,")
    new = plain_one(*args, **kwargs)
    new = new if new.dtype is x.dtype else torch.ops.aten._to_copy(new, dtype=x.dtype)
    _ = new.coefficients
    x.frame.settle()
    whole = x if x.whole is None else x.whole
    if whole.views is None or new.shape != x.shape:
        raise UnsupportedOperation(f"{func}, which writes in place,")
    views = [view for view in (one() for one in whole.views) if view is not None]
    if whole is not x:
        new = _patched(whole, x.way, new, str(func))
    for one in (whole, *views):
        seen = _seen(new, one.way)
        one.value, one._coefficients = seen.value, seen.coefficients
        one.origin, one._stream, one.made, one.readers = None, None, None, 0
        one.pending = one.length = 0
    return x


def _patched(whole: Taylor, way: tuple[Step, ...], new: Taylor, operation: str) -> Taylor:
    """A copy of `whole` in which the view that `way` leads to is `new`."""
    copy = Taylor(whole.value.clone(), whole.coefficients.clone(memory_format=torch.contiguous_format), whole.frame)
    view = _seen(copy, way)
    for part, of, by in (
        (view.value, copy.value, new.value),
        (view.coefficients, copy.coefficients, new.coefficients),
    ):
        if part.untyped_storage().data_ptr() != of.untyped_storage().data_ptr():
            raise UnsupportedOperation(f"{operation}, which writes in place through a view that had to be copied,")
        part.copy_(by)
    return copy


def _check(x: Taylor, operation: str) -> None:
    # A masked score is -inf and legitimate; NaN never is, and no coefficient may be infinite.
    if x.value.isnan().any():
        raise NonFinite(f"the loss itself becomes NaN in {operation}")
    bad = (~x.coefficients.isfinite()).flatten(1).any(1).nonzero()
    if len(bad):
        first = int(bad[0])
        order = f"probe {first}" if first < x.frame.probes else "second order"
        raise NonFinite(f"{order}: a coefficient becomes NaN or infinite in {operation}")


def rule(*operations: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a rule for aten operations; it is called as rule(operation, *args, **kwargs)."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        for operation in operations:
            RULES[operation] = function
        return function

    return register


def made(x: Any) -> tuple[Any, Any, Any]:
    """The operation that x waits for, and its arguments; None if it waits for none."""
    return getattr(x, "made", None) or (None, (), {})


def frame_of(*tensors: Any) -> Frame:
    return next(x.frame for x in tensors if isinstance(x, Taylor))


def plain(x: Any) -> Any:
    """The value of a Taylor tensor; anything else as it is."""
    return x.value if isinstance(x, Taylor) else x


def lifted(coefficients: Tensor, rank: int) -> Tensor:
    """Coefficients (K + G, *S) with ones put before S so that S has `rank` dimensions and broadcasts."""
    missing = rank + 1 - coefficients.ndim
    return coefficients.reshape(coefficients.shape[0], *[1] * missing, *coefficients.shape[1:])


def spread(x: Taylor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Coefficients of x broadcast to `shape`, beside a value of `dtype`."""
    c = x.coefficients if x.frame.dtype else x.coefficients.to(dtype)
    return lifted(c, len(shape)).expand(c.shape[0], *shape)


def require(condition: bool, operation: str) -> None:
    if not condition:
        raise UnsupportedOperation(operation)
