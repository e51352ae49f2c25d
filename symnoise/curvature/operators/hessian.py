"""Hessian-vector products by reverse over reverse, one graph kept for all of them."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from symnoise.core import InputError, retained_heap, return_free_memory, track
from symnoise.curvature.loss import Loss, require_loss
from symnoise.curvature.taylor.tensor import Taylor


class HessianProducts:
    """v ↦ ∇²ℓ_b(X) v_b for every example b of a batch at once, by differentiating ∇ℓ·v (Pearlmutter 1994).

    Setting up costs a forward and a backward pass that keeps its graph; each product then costs one backward
    pass through both. The graph lives as long as this object.

    at: where to differentiate, default `loss.embeddings`.
    Attributes: values (batch,) = ℓ(X); gradient (batch, token, dim) = ∇ℓ(X).
    Raises `InputError` where the loss is NaN or infinite, or not differentiable (see `differentiable`).
    """

    def __init__(self, loss: Loss, at: Float[Tensor, "batch token dim"] | None = None) -> None:
        self._loss, self._quantised = loss, quantised(loss)
        self._X = (loss.embeddings if at is None else at).detach().requires_grad_()
        with torch.enable_grad(), differentiable(loss, self._quantised):
            values = loss(self._X)
            require_finite(loss, values)
            require_derivatives(values)
            # Examples do not interact, so the gradient of the sum holds each example's own.
            (self._gradient,) = torch.autograd.grad(values.sum(), self._X, create_graph=True)
            require_derivatives(self._gradient)
        return_free_memory()
        self.values = values.detach()
        self.gradient = self._gradient.detach()

    def __call__(self, v: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Hv, in the dtype of X."""
        if not self._gradient.requires_grad:  # ℓ is linear in X
            return torch.zeros_like(v)
        with differentiable(self._loss, self._quantised):
            (product,) = torch.autograd.grad(
                self._gradient, self._X, v.to(self._X), retain_graph=True, materialize_grads=True
            )
        return product


def hvp(loss: Loss, V: Float[Tensor, "*probe batch token dim"]) -> Float[Tensor, "*probe batch token dim"]:
    """Hessian-vector product Hv, H = ∇²ℓ_b at the embeddings of example b, by differentiating ∇ℓ·v (Pearlmutter 1994).

    Args:
        loss: The loss and the embeddings at which to differentiate.
        V: (batch, token, dim) or (probe, batch, token, dim). One graph serves all probes.

    Returns:
        HV, shaped like V, in nats per squared embedding unit times the unit of V.

    Raises:
        InputError: For a V of another shape, and if the loss is not finite or not differentiable.

    Examples:
        >>> import torch
        >>> from symnoise import hvp
        >>> class Square:  # ℓ(x) = ½‖x‖², so H = I
        ...     embeddings, mask, ids = torch.ones(1, 1, 3), torch.ones(1, 1, dtype=torch.long), [0]
        ...     def __call__(self, X):
        ...         return X.square().sum((1, 2)) / 2
        >>> hvp(Square(), torch.tensor([[[1.0, 2.0, 3.0]]]))
        tensor([[[1., 2., 3.]]])
    """
    require_loss(loss)
    if V.shape[-3:] != loss.embeddings.shape or V.ndim not in (3, 4):
        raise InputError(f"V must be {tuple(loss.embeddings.shape)} or (probe, …) of it; got {tuple(V.shape)}")
    with retained_heap():
        product = HessianProducts(loss)
        return torch.stack([product(v) for v in track(list(V.reshape(-1, *V.shape[-3:])), "Hessian products")]).reshape(
            V.shape
        )


def directional_curvature(loss: Loss, V: Float[Tensor, "*probe batch token dim"]) -> Float[Tensor, "*probe batch"]:
    """Curvature along a direction, vᵀHv/‖v‖² (Rayleigh quotient), of each example and direction.

    It does not depend on the length of v, and lies between the smallest and the largest eigenvalue. Entries at padding
    do not count.

    Args:
        loss: The loss and the embeddings at which to differentiate.
        V: (batch, token, dim) or (probe, batch, token, dim).

    Returns:
        (batch,) or (probe, batch), float64, in nats per squared embedding unit.

    Raises:
        InputError: As in `hvp`.
    """
    product = hvp(loss, V)
    V = V * (loss.mask != 0)[..., None]
    return inner(V, product) / inner(V, V)


def inner(a: Float[Tensor, "*shape token dim"], b: Float[Tensor, "*shape token dim"]) -> Float[Tensor, "*shape"]:
    """Σ over tokens and dims of a·b, in float64."""
    return (a.double() * b.double()).sum((-2, -1))


def require_finite(loss: Loss, values: Float[Tensor, " batch"]) -> None:
    """Raise `InputError` if a loss is NaN or infinite, naming the example and, if known, the token."""
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        getattr(loss, "token_losses", lambda: None)()  # names the token if the loss has tokens
        raise InputError(f"loss is {float(values[bad[0]])} at example {int(bad[0])}")


def require_repeatable(loss: Loss, values: Float[Tensor, " batch"]) -> None:
    """Raise `InputError` if evaluating the loss again at its own embeddings does not give `values`.

    Costs one forward pass without a graph. Passes with and without a graph may use different kernels, so differences up
    to √ε of the value count as rounding. ε is that of the embeddings' dtype, and at least float32's, in which parts of
    stock models compute.
    """
    with torch.no_grad():
        require_same(values, loss(loss.embeddings).double(), loss.embeddings.dtype)


def require_same(values: Float[Tensor, " batch"], again: Float[Tensor, " batch"], dtype: torch.dtype) -> None:
    """Raise `InputError` if two evaluations of a loss differ by more than rounding (see `require_repeatable`)."""
    tolerance = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) ** 0.5
    bad = ((values - again).abs() > tolerance * values.abs()).nonzero()
    if len(bad):
        b = int(bad[0])
        raise InputError(
            f"the loss is not deterministic: {float(values[b]):.6g}, then {float(again[b]):.6g} at example {b}; "
            "switch off dropout and other randomness in its forward pass"
        )


def require_derivatives(output: Tensor) -> None:
    """Raise `InputError` if the graph of `output` has an operation without a derivative.

    PyTorch accepts such operations, at most with a warning; upstream inputs would silently be treated as constants.
    """
    seen, ahead = set(), [output.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name()
        # A kernel without an autograd rule; the second derivative of a `once_differentiable` function.
        if "NotImplemented" in name or name.endswith("Error"):
            raise InputError(
                "the model has an operation without the derivatives that are needed (quantised weights or a fused "
                "kernel); load it unquantised and without custom kernels"
            )
        ahead += [following for following, _ in node.next_functions]


def quantised(loss: Loss) -> dict[str, nn.Module]:
    """The quantised layers of the loss's model, by name."""
    model = getattr(loss, "model", None)
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    return {name: module for name, module in modules if _quantised(module)}


@contextmanager
def differentiable(loss: Loss, layers: dict[str, nn.Module] | None = None) -> Iterator[None]:
    """Turn errors about missing derivatives into a one-line `InputError`.

    Quantised layers are watched: kernels on packed integers cut the graph without an error, and the rest of the model
    would be differentiated as if these layers were constant.

    On the first forward of a model all modules are, for parts that run without gradients (early cycles of HRM-Text).

    layers: `quantised(loss)`, where it is known; all layers are looked through otherwise.
    """
    hooks = [
        module.register_forward_hook(_watch(f"{name}, a {type(module).__name__}"))
        for name, module in (quantised(loss) if layers is None else layers).items()
    ]
    model = getattr(loss, "model", None)
    if isinstance(model, nn.Module) and model not in _WATCHED:
        hooks += _watch_gradients(model)
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:
        first = str(error).strip().split("\n")[0]
        if not any(word in first for word in ("derivative for", "does not require grad")):
            raise
        raise InputError(
            f"the loss cannot be differentiated ({first}); load the model unquantised and without custom kernels"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


_WATCHED: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


def _watch_gradients(model: nn.Module) -> list[Any]:
    """Hooks for a forward with gradients, which is an `InputError` where a module runs without them."""
    wanted = [False]

    def begin(*_: Any) -> None:
        wanted[0] = torch.is_grad_enabled()

    def check(module: nn.Module, *_: Any) -> None:
        if wanted[0] and not torch.is_grad_enabled():
            raise InputError(
                f"the model runs a part of itself (a {type(module).__name__}) without gradients, so derivatives would "
                "take it for constant: use Taylor mode (method='taylor')"
            )

    def end(*_: Any) -> None:
        if wanted[0]:
            _WATCHED.add(model)

    hooks = [part.register_forward_hook(check) for part in model.modules()]
    return [model.register_forward_pre_hook(begin), *hooks, model.register_forward_hook(end)]


def _quantised(module: nn.Module) -> bool:
    stored = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    packed = any("weight" in name and not tensor.is_floating_point() for name, tensor in stored)
    return packed or callable(getattr(module, "weight", None))  # torch's own unpack theirs in a method


def _watch(place: str) -> Any:
    def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        if any(map(_moves, arguments)) and not _moves(output):
            raise InputError(f"quantised weights without a derivative at {place}; load the model unquantised")

    return hook


def _moves(x: Any) -> bool:
    return isinstance(x, Taylor) or (isinstance(x, Tensor) and x.requires_grad)
