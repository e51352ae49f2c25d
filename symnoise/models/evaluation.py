"""Run a model in evaluation mode with second derivatives, and restore its state afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

# Attention implementations that autograd can differentiate twice (SDPA through its math backend).
_TWICE_DIFFERENTIABLE = ("eager", "sdpa", None)
# Kernels for experts that it cannot. The default, "grouped_mm", it can, but PyTorch has none in float64.
_ONCE_DIFFERENTIABLE = ("deepgemm", "sonicmoe")
# Set by Transformers on a model that its hooks for hidden states and router logits are on.
_MARK = "_output_capturing_hooks_installed"


@contextmanager
def evaluation_mode(model: Any, *, twice: bool = True) -> Iterator[None]:
    """Evaluation mode, frozen weights, twice-differentiable attention; everything is restored, also on error.

    Args:
        model: A Transformers model.
        twice: Whether a second derivative is needed; if not, attention is left as it is.

    Changed within the block: each module's `training`, each parameter's `requires_grad`, and PyTorch's attention kernel
    (fused kernels have no double backward, pytorch#116350). Attention implementations without second derivatives
    (flash, flex) are replaced, and kernels for experts without second derivatives or float64. So is the autocast that
    accelerate puts around `forward` for mixed-precision training: second derivatives in bfloat16 are wrong by tens of
    percent, and the loss of the stored weights is measured. Graphs built inside stay valid outside. Hooks that
    Transformers leaves on a model when it is first asked for hidden states or router logits are removed.
    """
    modules: list[nn.Module] = list(model.modules())  # one walk: it costs as much as a tiny model's layer
    training = [module for module in modules if module.training]
    own = (parameter for module in modules for parameter in module._parameters.values() if parameter is not None)
    trained = [parameter for parameter in own if parameter.requires_grad]
    attention = getattr(model.config, "_attn_implementation", None)
    other = twice and attention not in _TWICE_DIFFERENTIABLE
    experts = getattr(model.config, "_experts_implementation", None)
    looped = (experts == "grouped_mm" and model.dtype is torch.float64) or (twice and experts in _ONCE_DIFFERENTIABLE)
    autocast = model.__dict__.get("forward") if "_original_forward" in model.__dict__ else None
    try:
        if autocast is not None:
            model.forward = model._original_forward
        for module in training:
            module.training = False
        for parameter in trained:  # by assignment, which torch.func allows inside its transforms
            parameter.requires_grad = False
        if other:
            model.set_attn_implementation("eager")
        if looped:
            model.set_experts_implementation("eager")
        with _hooks_as_found(modules), sdpa_kernel(SDPBackend.MATH) if twice else nullcontext():
            yield
    finally:
        if autocast is not None:
            model.forward = autocast
        for module in training:
            module.training = True
        for parameter in trained:
            parameter.requires_grad = True
        if other:
            model.set_attn_implementation(attention)
        if looped:
            model.set_experts_implementation(experts)


@contextmanager
def _hooks_as_found(modules: list[nn.Module]) -> Iterator[None]:
    """Without the forward hooks that a block has left on the modules, and Transformers' marks that they are there."""
    before = [(module, set(module._forward_hooks), _MARK in module.__dict__) for module in modules]
    try:
        yield
    finally:
        for module, hooks, marked in before:
            for key in module._forward_hooks.keys() - hooks:
                del module._forward_hooks[key]
            if not marked:
                module.__dict__.pop(_MARK, None)
