"""Whether experts are chosen differently at points whose losses or gradients are subtracted from each other."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from symnoise.curvature.loss import Loss

_CHOICES = {torch.topk, Tensor.topk, torch.max, Tensor.max, torch.argmax, Tensor.argmax}


@contextmanager
def told_of_rerouting(loss: Loss) -> Iterator[None]:
    """Warns after the block if tokens were routed differently in its forward passes than in the first of them.

    The loss of a mixture of experts is smooth only as long as each token keeps its experts, and a Hessian is that of
    the piece around X. Differences over a distance at which the routing changes are not described by it.

    Args:
        loss: The loss; without experts nothing is watched.
    """
    model = getattr(loss, "model", None)
    modules = [] if model is None else [m for name, m in model.named_modules() if name.endswith("experts")]
    sizes = {module.num_experts for module in modules if hasattr(module, "num_experts")}
    if not sizes:
        yield
        return
    watch = _Routing(sizes, loss.mask != 0)
    started = model.register_forward_pre_hook(lambda *_: watch.start())  # type: ignore[union-attr]
    try:
        with watch:
            yield
    finally:
        started.remove()
    share = float(torch.cat(watch.changed).double().mean()) if watch.changed else 0.0
    if share:
        warnings.warn(
            f"{share:.2g} of the tokens' choices of experts change between the points that are compared; a Hessian "
            "describes the loss only where they stay as they are",
            stacklevel=4,
        )


class _Routing(TorchFunctionMode):
    """Compares the choices among `sizes` experts in every forward pass with those in the first."""

    def __init__(self, sizes: set[int], mask: Tensor) -> None:
        super().__init__()
        self.sizes, self.mask = sizes, mask.flatten()
        self.first: list[Tensor] = []  # per choice, in the order of the forward pass
        self.changed: list[Tensor] = []
        self._passes = self._next = 0

    def start(self) -> None:
        self._passes, self._next = self._passes + 1, 0

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in _CHOICES and args[0].ndim and args[0].shape[-1] in self.sizes:
            index = result if isinstance(result, Tensor) else result[1]
            if index.ndim and index.shape == args[0].shape[:-1]:  # of a single expert, without keepdim
                index = index[..., None]
            if index.shape[:-1] == args[0].shape[:-1]:
                self._see(index.sort(-1).values.flatten(0, -2))
        return result

    def _see(self, chosen: Tensor) -> None:
        real = self.mask if len(chosen) == len(self.mask) else slice(None)  # padding is nobody's
        chosen = chosen[real]
        if self._passes <= 1:
            self.first.append(chosen)
            self.changed.append(torch.zeros_like(chosen[:, 0], dtype=torch.bool))
            return
        self.changed[self._next] |= (chosen != self.first[self._next]).any(-1)
        self._next += 1
