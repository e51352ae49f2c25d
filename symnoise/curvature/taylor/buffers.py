"""Tensors that a model makes, such as torch.zeros(…), and then writes Taylor tensors into.

A plain tensor has no room for coefficients. From the first such write on, every call that is given the buffer gets a
Taylor tensor in its place, and the buffer's own memory is NaN: whatever should still read it does not go unnoticed.
"""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakIdKeyDictionary

from symnoise.curvature.taylor.tensor import Frame, Taylor, UnsupportedOperation

_MAKERS = {
    *(torch.zeros, torch.ones, torch.full, torch.empty),
    *(torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like),
    *(Tensor.new_zeros, Tensor.new_ones, Tensor.new_full, Tensor.new_empty),
}


class Buffers(TorchFunctionMode):
    """Follows the floating-point tensors that are made within the block.

    Others that a Taylor tensor is written into are refused, as they may hold what an earlier pass left there; so are
    views of a buffer that were made before the first write. After the block, a buffer holds its value.
    """

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        self._frame = frame
        self._made = WeakIdKeyDictionary()
        self._written: dict[int, tuple[Tensor, Taylor]] = {}  # by memory

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _MAKERS and "out" not in kwargs:
            made = func(*args, **kwargs)
            if not isinstance(made, Taylor) and made.is_floating_point():
                self._made[made] = True
            return made
        if Taylor not in types and (_writes(func) or "out" in kwargs or kwargs.get("inplace")):
            self._frame.settle()  # coefficients that wait may be multiples of what is written to
        elif Taylor in types and _writes(func) and args[0] in self._made:
            self._take(args[0])
        if self._written:
            args, kwargs = tree_map(self._follow, (args, kwargs))
        return func(*args, **kwargs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for buffer, taylor in self._written.values():
            buffer.copy_(taylor.value)

    def _take(self, buffer: Tensor) -> None:
        del self._made[buffer]
        self._frame.settle()  # what waits may still read the buffer as it was
        self._written[_memory(buffer)] = buffer, self._frame.constant(buffer.clone())
        buffer.fill_(torch.nan)

    def _follow(self, x: Any) -> Any:
        if not isinstance(x, Tensor) or isinstance(x, Taylor) or _memory(x) not in self._written:
            return x
        buffer, taylor = self._written[_memory(x)]
        if x is not buffer:
            raise UnsupportedOperation("a view made before its tensor was written into")
        return taylor


def _memory(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _writes(func: Any) -> bool:
    """x.f_(…), which x += … is too, and x[…] = …"""
    name = func.__name__
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
