"""Folders that hold a PEFT adapter alone: the model that it belongs to, and the two as one."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from symnoise.core import InputError, reason

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def is_adapter(path: Path) -> bool:
    """Whether `path` is a folder of an adapter without a model of its own."""
    return (path / _CONFIG).is_file() and not (path / "config.json").is_file()


def base_of(path: Path) -> str:
    """The model that the adapter was trained on; `InputError` where that is not said, or there are no safetensors."""
    if not (path / _WEIGHTS).is_file():
        raise InputError(f"{path} has no {_WEIGHTS}: save the adapter with save_pretrained, which writes it")
    try:
        config = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
        base, revision = (config.get(key) for key in ("base_model_name_or_path", "revision"))
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path / _CONFIG} is no configuration of an adapter: {reason(error)}") from error
    if not base:
        raise InputError(f"{path / _CONFIG} names no base model: put it there as base_model_name_or_path")
    if revision not in (None, "main"):
        raise InputError(
            f"{path / _CONFIG} asks for revision {revision!r} of {base}, and only the newest is loaded: download that "
            "revision to a folder, and name it as base_model_name_or_path without a revision"
        )
    return str(base)


def merged(model: Any, path: Path) -> Any:
    """`model` with the adapter in `path` merged into its weights, of which those are trainable that were before.

    `InputError` where the two do not fit together.
    """
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    try:
        from peft import PeftModel, get_peft_model_state_dict
    except ImportError as error:
        raise InputError('adapters need PEFT; run: pip install "peft>=0.18"') from error
    try:
        adapted = PeftModel.from_pretrained(model, str(path))
        if not hasattr(adapted.base_model, "merge_and_unload"):
            kind = adapted.active_peft_config.peft_type.value
            raise InputError(f"{path} holds an adapter ({kind}) that cannot be merged into its model, as LoRA can")
        with safe_open(str(path / _WEIGHTS), framework="pt") as held:
            if set(held.keys()) != set(get_peft_model_state_dict(adapted)):  # PEFT loads what it can
                raise InputError(f"the adapter in {path} does not fit its base model: they differ in what is adapted")
        whole = adapted.merge_and_unload(safe_merge=True)
    except InputError:
        raise
    except Exception as error:  # shapes, names, files: each in an exception of its own
        raise InputError(f"the adapter in {path} does not fit its base model: {reason(error)}") from error
    for name, parameter in whole.named_parameters():  # PEFT freezes them all
        parameter.requires_grad_(name in trainable)
    return whole
