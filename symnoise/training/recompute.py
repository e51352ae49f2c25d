"""Memory for the gradients of a pair's first side while the second one runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def adds_gradients(model: nn.Module) -> bool:
    """Whether a backward pass will newly allocate gradients of about the model's size: no accumulation so far, and more
    than adapters trained."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    size = sum(parameter.numel() for parameter in model.parameters())
    return all(p.grad is None for p in trained) and 2 * sum(p.numel() for p in trained) >= size


@contextmanager
def recomputed(model: Any) -> Iterator[None]:
    """Within the block activations are recomputed in the backward pass (Transformers' gradient checkpointing).

    Values and gradients are the same. A model that does not support it, or already does it, is left unchanged.
    """
    word = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # renamed in 5.x
    if not getattr(model, "supports_gradient_checkpointing", False) or getattr(model, f"is_{word}_checkpointing"):
        yield
        return
    getattr(model, f"{word}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(model, f"{word}_checkpointing_disable")()
