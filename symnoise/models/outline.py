"""A model's outline: its modules and shapes from a configuration alone, on PyTorch's meta device, without weights."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from symnoise.core import InputError
from symnoise.models.embedding_loss import EmbeddingLoss
from symnoise.models.inlet import Inlet
from symnoise.models.targets import Targets


def class_for(config: Any) -> Any:
    """The auto class of a configuration; a vision-language model that is not also causal is loaded for its text."""
    import transformers

    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    causal, sees = transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if type(config) not in causal and type(config) in sees:
        return transformers.AutoModelForImageTextToText
    return transformers.AutoModelForCausalLM


def outline(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a Transformers configuration with tensors that have shapes but no numbers."""
    with torch.device("meta"):
        return class_for(config).from_config(config, dtype=dtype).eval()


def stacks(model: Any) -> Iterator[tuple[str, nn.ModuleList]]:
    """Name and list of each stack of layers: lists of a class that Transformers never splits over devices."""
    layers = set(getattr(model, "_no_split_modules", None) or ())
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and type(module[0]).__name__ in layers:
            yield name, module


def device_map(model: Any, device: str) -> dict[str, str]:
    """Transformers' `device_map` that leaves the layers of `model` on disk and puts everything else on `device`."""
    layers = [f"{name}.{i}" for name, stack in stacks(model) for i in range(len(stack))]
    if not layers:
        raise InputError(f"{type(model).__name__} does not name its layers, so they cannot be streamed")

    def places(module: nn.Module, prefix: str) -> Iterator[tuple[str, str]]:
        for name, child in module.named_children():
            path = prefix + name
            if any(layer.startswith(f"{path}.") for layer in layers):
                yield from places(child, f"{path}.")
            else:
                yield path, "disk" if path in layers else device

    return dict(places(model, ""))


class OutlineLoss(EmbeddingLoss):
    """The loss of an outline on full rows: any computation of its derivatives runs, on shapes alone.

    model: a causal model on the meta device. rows, tokens: the batch; `scored` tokens of each row are scored.
    """

    def __init__(self, model: Any, rows: int, tokens: int, scored: int) -> None:
        self.model, self.task, self.batch, self.ids = model, "causal", {}, tuple(range(rows))
        self._head = model.get_output_embeddings()
        self.mask = torch.empty(rows, tokens, dtype=torch.long, device="meta")
        places = torch.empty(rows * scored, dtype=torch.long, device="meta")
        averages = torch.empty(rows, rows * scored, dtype=torch.float64, device="meta")
        self.targeted = Targets(places, places, places, averages)
        self._inlet = self._entrance = Inlet(model)
        self.embeddings = self._inlet.embeddings(self.mask)
        self._inputs = {"input_ids": self.mask, "attention_mask": self.mask, "use_cache": False}
