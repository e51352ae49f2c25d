"""Factor on the embeddings between the table and the first layer."""

from typing import Any

from torch import Tensor, nn

_NAMES = ("embedding_multiplier", "embedding_scale", "embed_scale", "normalizer")
_BY_WIDTH = ("T5Gemma", "CTRL")  # √d, written into the forward of classes named so


def embedding_multiplier(stack: nn.Module, table: nn.Module) -> float:
    """The factor on the output of `table` before the layers of `stack` receive it (Granite, Pegasus, …); mostly 1.

    Gemma's √d is applied inside its embedding module, so it is part of the table's output and 1 here.
    """
    if getattr(table, "embed_scale", None) is not None:
        return 1.0
    for parent in stack.modules():
        if any(child is table for child in parent.children()):
            if type(parent).__name__.startswith(_BY_WIDTH) or _asks_for_width(parent):
                return float(table.embedding_dim) ** 0.5  # type: ignore[arg-type]
            factors = (getattr(parent, name, None) for name in _NAMES)
            return next((float(factor) for factor in factors if isinstance(factor, int | float | Tensor)), 1.0)
    return 1.0


def _asks_for_width(parent: Any) -> bool:
    """Whether the configuration puts √d into the forward: AFMoE's `mup_enabled`, BigBird's `rescale_embeddings`."""
    if type(parent).__name__.startswith("Afmoe"):
        return bool(parent.config.mup_enabled)
    return getattr(parent, "rescale_embeddings", False) is True
