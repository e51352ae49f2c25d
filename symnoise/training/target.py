"""The text embedding that actually runs in a model."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from symnoise.core import InputError
from symnoise.models.multiplier import embedding_multiplier

# What DDP and DeepSpeed, torch.compile, and FSDP1 call the model they wrap.
_WRAPPED = ("module", "_orig_mod", "_fsdp_wrapped_module")
_MEDIA = ("image", "video", "audio")


@dataclass(frozen=True)
class Target:
    """Where the hooks go.

    model:      the module whose forward takes the batch: the given one without DDP, FSDP or compile wrappers, but
                with PEFT's, which calls the model inside by its `forward` and so past its hooks.
    embedding:  the module whose output is noised. Of encoder-decoder models the encoder's own: the `shared` table
                that Transformers reports is never called in T5 or BART.
    multiplier: what the model multiplies the embedding's output by afterwards (Granite, Pegasus, …); 1 in most
                models. Gemma's √d is applied inside its embedding module, so there it is 1 too.
    placeholders: token ids whose embeddings are replaced by those of an image or a sound: they get no noise and do not
                count in L.
    """

    model: nn.Module
    embedding: nn.Module
    multiplier: float
    placeholders: tuple[int, ...] = ()


def find_target(model: nn.Module) -> Target:
    """The `Target` of a Transformers model, bare or wrapped. `InputError` for DataParallel, or without a table."""
    outer: Any = unwrapped(model)
    inner = outer.get_base_model() if hasattr(outer, "get_base_model") else outer
    try:
        config = getattr(inner, "config", None)
        stack = inner.get_encoder() if getattr(config, "is_encoder_decoder", False) else inner
        embedding = stack.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    if not isinstance(embedding, nn.Module):
        raise InputError(
            f"{type(inner).__name__} has no text-embedding table to put noise on; give a Transformers model"
        )
    places = (getattr(config, f"{kind}_token_{name}", None) for kind in _MEDIA for name in ("id", "index"))
    held = tuple(place for place in places if isinstance(place, int))
    return Target(outer, embedding, embedding_multiplier(stack, embedding), held)


def unwrapped(model: nn.Module) -> nn.Module:
    """`model` without the wrappers of distributed training and compilation; PEFT's stays."""
    while True:
        if isinstance(model, nn.DataParallel):
            raise InputError(
                "DataParallel is not supported; launch with torchrun or accelerate, or show one device only"
            )
        names = [name for name in _WRAPPED if name in model._modules]
        # A Transformers model may well own a part called "module"; a wrapper has no table to ask for itself.
        if not names or "get_input_embeddings" in dir(type(model)):
            return model
        model = model._modules[names[0]]  # type: ignore[assignment]
