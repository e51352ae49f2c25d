"""Use a model for a while, twice differentiably, and hand it back exactly as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

# Attention implementations that autograd can differentiate twice (SDPA through its math backend).
_TWICE_DIFFERENTIABLE = ("eager", "sdpa", None)


@contextmanager
def borrowed(model: Any) -> Iterator[None]:
    """Evaluation mode, frozen weights, attention with a second derivative; everything put back, also on error.

    What is touched: each module's `training`, each parameter's `requires_grad`, PyTorch's choice of attention
    kernel (fused kernels have no double backward, pytorch#116350), and the attention implementation where it
    is one without second derivatives (flash, flex). Graphs built inside stay valid outside.
    """
    training = [(module, module.training) for module in model.modules()]
    parameters: list[tuple[nn.Parameter, bool]] = [(p, p.requires_grad) for p in model.parameters()]
    attention = getattr(model.config, "_attn_implementation", None)
    try:
        model.eval()
        for parameter, _ in parameters:
            parameter.requires_grad_(False)
        if attention not in _TWICE_DIFFERENTIABLE:
            model.set_attn_implementation("eager")
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for module, mode in training:
            module.training = mode
        for parameter, required in parameters:
            parameter.requires_grad_(required)
        if attention not in _TWICE_DIFFERENTIABLE:
            model.set_attn_implementation(attention)
