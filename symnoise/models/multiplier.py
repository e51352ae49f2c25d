"""What a model multiplies its embeddings by between the table and the first layer."""

from typing import Any

from torch import Tensor, nn

from symnoise.core import InputError

_NAMES = ("embedding_multiplier", "embedding_scale", "embed_scale", "normalizer")
_BY_WIDTH = ("T5Gemma",)  # √d, written into the forward of classes named so


def embedding_multiplier(stack: nn.Module, table: nn.Module) -> float:
    """The factor on the output of `table` before the layers of `stack` receive it (Granite, Pegasus, …); mostly 1.

    Gemma's √d is applied inside its embedding module, so it is part of the table's output and 1 here.
    """
    if getattr(table, "embed_scale", None) is not None:
        return 1.0
    for parent in stack.modules():
        if any(child is table for child in parent.children()):
            if type(parent).__name__.startswith(_BY_WIDTH):
                return float(table.embedding_dim) ** 0.5  # type: ignore[arg-type]
            factors = (getattr(parent, name, None) for name in _NAMES)
            return next((float(factor) for factor in factors if isinstance(factor, int | float | Tensor)), 1.0)
    return 1.0


def given_multiplier(stack: Any, table: nn.Module, ids: Tensor) -> float:
    """The part of `embedding_multiplier` that is applied to `inputs_embeds` too: all of it in Granite, 1 in Pegasus.

    Read from what the model computes of the first two tokens of ids (batch, token). Raises `InputError` for a model
    whose output from embeddings is neither.
    """
    factor = embedding_multiplier(stack, table)
    if factor == 1:
        return 1.0
    few = ids[:1, :2]
    expected, plain = stack(input_ids=few)[0], table(few)
    distances = {
        float((stack(inputs_embeds=plain * (factor / given))[0] - expected).norm() / expected.norm()): given
        for given in (factor, 1.0)
    }
    if min(distances) < 0.05:
        return distances[min(distances)]
    raise InputError(
        f"{type(stack).__name__} computes something else from inputs_embeds than from input_ids, so its loss as a "
        "function of the embeddings cannot be measured"
    )
