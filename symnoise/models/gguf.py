"""Reading .gguf files: Transformers dequantises them, and this makes ordinary models of them."""

from pathlib import Path
from typing import Any

import torch

from symnoise.core import InputError


def load_weights(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The language model in a .gguf file, dequantised to `dtype`, as if it had never been quantised.

    Transformers marks what it reads as quantised with GGUF and then refuses to save it, so the weights are put into
    a fresh model of the same configuration without that mark.
    """
    import transformers

    where = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    config = transformers.AutoConfig.from_pretrained(**where)
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    if hasattr(transformers, "GgufConfig"):  # else dequantising is all that this version does
        where["quantization_config"] = transformers.GgufConfig(dequantize=True)
    read, info = auto.from_pretrained(**where, config=config, dtype=dtype, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{path} lacks weights that a language model needs: {', '.join(missing[:3])}")
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are replaced at once
        model = auto.from_config(config, dtype=dtype)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model


def load_tokenizer(path: Path) -> Any:
    """The tokenizer in a .gguf file, with its chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
