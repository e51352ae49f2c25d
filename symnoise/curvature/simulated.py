"""Cost of curvature computations by simulation: the same code on an outline, whose tensors have shapes alone.

Every operation is seen as PyTorch dispatches it, so what is counted is what runs: arithmetic of matrix products, memory
traffic of everything else, and how many bytes are alive at once.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from symnoise.curvature.taylor.engine import in_passes
from symnoise.curvature.taylor.tensor import Taylor
from symnoise.models.outline import OutlineLoss


@dataclass(frozen=True)
class Work:
    """What a computation costs. flops: floating-point operations of matrix products, 2 per multiply-add. traffic: bytes
    read and written by all other operations. peak: most bytes alive at once, without the weights."""

    flops: float
    traffic: float
    peak: float

    def extended(self, more: "Work", steps: float) -> "Work":
        """This work at a depth, or number of probes, `steps` times as far from here as that of `more`: costs are linear
        in either."""
        return Work(*(a + steps * (b - a) for a, b in zip(vars(self).values(), vars(more).values(), strict=True)))


class _Counter(TorchDispatchMode):
    """Counts inside the block. weights: tensors whose memory is not counted."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        self.flops = self.traffic = self.alive = self.peak = 0
        self._known = {weight.untyped_storage()._cdata: 0 for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if Taylor in types:
            return NotImplemented  # its rules come first, and what they do is counted
        if func is torch.ops.aten._local_scalar_dense.default:
            return True  # models ask whether the rows are full and the mask needs nothing else: they are
        kwargs = kwargs or {}
        result, new = _shapes(func, args, kwargs)
        if count := flop_registry.get(_out_of_place(func)):
            self.flops += count(*args, **kwargs, out_val=result)
        elif new:
            self.traffic += sum(x.numel() * x.element_size() for x in _tensors((args, tuple(kwargs.values()), result)))
        for x in _tensors(result):
            self._see(x)
        return result

    def _see(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known[key] = size
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.alive -= self._known.pop(key)


def _tensors(x: Any) -> list[Tensor]:
    """The tensors in nested lists."""
    if isinstance(x, (tuple, list)):
        return [tensor for part in x for tensor in _tensors(part)]
    return [x] if isinstance(x, Tensor) else []


class _Shape(NamedTuple):
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


# Results by operation and arguments, as shapes: PyTorch takes half a millisecond to find that of a product.
_MADE: dict[Any, Any] = {}


def _shapes(func: Any, args: Any, kwargs: Any) -> tuple[Any, bool]:
    """(result of `func`, whether anything is written)."""
    if func._schema.is_mutable:
        in_place = str(func.overloadpacket).endswith("_") and torch.Tag.inplace_view not in func.tags
        return (args[0] if in_place else func(*args, **kwargs)), True
    key = (func, _key(args), _key(tuple(kwargs.items())))
    if key in _MADE:
        return _again(_MADE[key]), True
    result = func(*args, **kwargs)
    given = {x.untyped_storage()._cdata for x in _tensors((args, tuple(kwargs.values())))}
    made = _tensors(result)
    if any(x.untyped_storage()._cdata in given for x in made):  # a view, which not every schema says
        return result, False
    if made and all(x.is_meta for x in made):
        _MADE[key] = _key(result)
    return result, True


def _key(x: Any) -> Any:
    """`x` with shapes in place of tensors; a number with its type, since 1 equals True."""
    if isinstance(x, Tensor):
        return _Shape(x.shape, x.stride(), x.dtype, x.device)
    return tuple(map(_key, x)) if isinstance(x, (tuple, list)) else (type(x), x)


def _again(key: Any) -> Any:
    """A result that has this key."""
    if isinstance(key, _Shape):
        return torch.empty_strided(key.shape, key.stride, dtype=key.dtype, device=key.device)
    return None if key == _key(None) else [_again(x) for x in key]


def _out_of_place(func: Any) -> Any:
    """The operation of which `func` is the variant that writes in place, which PyTorch's registry does not know."""
    name = func.overloadpacket.__name__
    return getattr(torch.ops.aten, name.removesuffix("_"), None) if name.endswith("_") else func.overloadpacket


def simulated(loss: OutlineLoss, work: Callable[[], Any]) -> Work:
    """The cost of `work`, which computes with `loss`."""
    with _Counter([*loss.model.parameters(), *loss.model.buffers()]) as counter:
        work()
    return Work(counter.flops, counter.traffic, counter.peak)


def forward(loss: OutlineLoss) -> Work:
    """A plain forward pass."""
    return simulated(loss, loss.plain)


def taylor(loss: OutlineLoss, probes: int, groups: int) -> Work:
    """One pass of Taylor mode; `UnsupportedOperation` names what of the model has no rule."""
    X = loss.embeddings
    V = X.new_empty(probes, *X.shape)
    with torch.no_grad():
        return simulated(loss, lambda: in_passes(loss, X, V, groups, None, probes))


def products(loss: OutlineLoss) -> tuple[Work, Work]:
    """(graph of Hessian products, one product from it); the peak of the second includes the graph.

    The steps of `HessianProducts` without its checks, which look at numbers.
    """
    X = loss.embeddings.detach().requires_grad_()

    def graph() -> Tensor:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss(X).sum(), X, create_graph=True)
        return gradient

    setup = simulated(loss, graph)
    both = simulated(loss, lambda: torch.autograd.grad(graph(), X, torch.empty_like(X), retain_graph=True))
    return setup, Work(both.flops - setup.flops, both.traffic - setup.traffic, both.peak)
