"""Reading .gguf files: Transformers dequantises them, and this makes ordinary models of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from symnoise.core import InputError

_ALONE = RLock()
_ROPE = "rope_freqs.weight"  # factors on the rotary wavelengths, as Llama 3.1 and 3.2 have them


def load_weights(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The language model in a .gguf file, dequantised to `dtype`, as if it had never been quantised.

    Transformers marks what it reads as quantised with GGUF and then refuses to save it, so the weights are put into
    a fresh model of the same configuration without that mark. Raises `InputError` for a file that is cut short, of an
    architecture that Transformers does not read, that lacks a tensor, or that holds one which would go unused: without
    it the model would compute something else.
    """
    import transformers

    held = open_file(path)
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    config = load_config(path)
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    if hasattr(transformers, "GgufConfig"):  # else dequantising is all that this version does
        where["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with _known_architecture(path, held), _unused() as unused:
        read, info = auto.from_pretrained(**where, config=config, dtype=dtype, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{path} lacks weights that a language model needs: {', '.join(missing[:3])}")
    if extra := sorted({tensor.name for tensor in held.tensors} & unused - {_ROPE}):
        raise InputError(
            f"{path} has tensors that Transformers makes no use of ({', '.join(extra[:3])}), so the model would "
            "compute something else: give it as safetensors"
        )
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are replaced at once
        model = auto.from_config(config, dtype=dtype)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model


def load_config(path: Path) -> Any:
    """The Transformers configuration of the model in a .gguf file; `InputError` for an unknown architecture."""
    from transformers import AutoConfig

    held = open_file(path)
    with _known_architecture(path, held):
        config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
    _set_rotary_factors(config, path, held)
    return config


def load_tokenizer(path: Path) -> Any:
    """The tokenizer in a .gguf file, with its chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


@contextmanager
def read_once() -> Iterator[None]:
    """Within the block the index of each file is read once, and shared; one thread at a time.

    Transformers reads it for the configuration, for the weights and for the tokenizer, each time from the start, which
    takes seconds where it lists the words and merges of a tokenizer; and makes the same map of names for every module.
    """
    import gguf
    from gguf.gguf_reader import GGUFReader

    class Reader(GGUFReader):
        """Slices plain arrays: those of a memory map take three times as long to make."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value.view(np.ndarray) if isinstance(value, np.memmap) else value)

    read, names = cache(Reader), cache(gguf.tensor_mapping.get_tensor_name_map)
    with (
        _ALONE,
        patch.object(gguf, "GGUFReader", lambda path: read(str(path))),
        patch.object(gguf, "get_tensor_name_map", names),
    ):
        yield


def open_file(path: Path) -> Any:
    """The file as a `gguf.GGUFReader`, which reads its index alone; `InputError` where that is cut short."""
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except Exception as error:  # the reader trusts the lengths that it finds, and fails in every way there is
        raise InputError(f"{path} is cut short or corrupted: fetch it again") from error


@contextmanager
def _known_architecture(path: Path, held: Any) -> Iterator[None]:
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        if not any(said in str(error) for said in ("not supported yet", "Unknown gguf model_type")):
            raise
        name = held.fields["general.architecture"].contents()
        raise InputError(
            f"{path} is of the architecture {name!r}, which Transformers does not read from GGUF: give the model as "
            "safetensors"
        ) from error


def _set_rotary_factors(config: Any, path: Path, held: Any) -> None:
    """Put the file's factors on the rotary wavelengths into the configuration, under the one name that takes a list."""
    factors = [tensor.data.astype("float64").ravel().tolist() for tensor in held.tensors if tensor.name == _ROPE]
    if not factors or set(factors[0]) == {1.0}:
        return
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "default":
        raise InputError(
            f"{path} has {_ROPE} in addition to another scaling of positions: give the model as safetensors"
        )
    config.rope_parameters = {
        **rope,
        "rope_type": "longrope",
        "short_factor": factors[0],
        "long_factor": factors[0],
        "attention_factor": 1.0,
        "original_max_position_embeddings": config.max_position_embeddings,
    }


class _Asked(dict[str, str]):
    """A dictionary that keeps the names which were looked for and are not there."""

    def __init__(self, content: dict[str, str], missed: set[str]) -> None:
        super().__init__(content)
        self.missed = missed

    def __contains__(self, name: object) -> bool:
        found = super().__contains__(name)
        if not found:
            self.missed.add(str(name))
        return found


@contextmanager
def _unused() -> Iterator[set[str]]:
    """The names of the tensors that Transformers has no place for, which it passes over without a word."""
    from transformers import modeling_gguf_pytorch_utils as reading

    missed: set[str] = set()
    places = reading.get_gguf_hf_weights_map

    def asked(*args: Any, **options: Any) -> dict[str, str]:
        return _Asked(places(*args, **options), missed)

    with patch.object(reading, "get_gguf_hf_weights_map", asked):
        yield missed
