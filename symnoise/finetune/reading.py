"""Settings of a training run from YAML files and options, checked before anything is loaded."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from symnoise.core import InputError, read_yaml, unknown
from symnoise.data import FORMS
from symnoise.finetune.settings import SCHEDULES, TrainSettings
from symnoise.training.dials import objective
from symnoise.training.mixin import PAIR_MODES


def check(settings: TrainSettings) -> None:
    """`InputError` for an invalid setting."""
    known = {"schedule": SCHEDULES, "pair_mode": PAIR_MODES, "form": ("", *FORMS)}
    for key, words in known.items():
        if getattr(settings, key) not in words:
            raise unknown(key, getattr(settings, key), words)
    for key in ("batch", "accumulation", "keep", "log_every", "curvature_rows", "save_every", "eval_every"):
        _at_least(key, getattr(settings, key), 1)
    for key in ("rows", "steps", "lora_rank", "track_every", "curvature_every"):
        _at_least(key, getattr(settings, key), 0)
    _at_least("eval_rows", settings.eval_rows or 0, 0)
    for key in ("warmup", "weight_decay", "max_grad_norm"):
        _at_least(key, getattr(settings, key), 0.0)
    _at_least("max_length", settings.max_length, 2)
    for key in ("learning_rate", "epochs"):
        if not (math.isfinite(getattr(settings, key)) and getattr(settings, key) > 0):
            raise InputError(f"{key} must be a finite number larger than 0; got {getattr(settings, key)}")
    if not 0 <= settings.seed < 2**32:  # what NumPy takes, which Transformers seeds
        raise InputError(f"seed must be from 0 to {2**32 - 1}; got {settings.seed}")
    objective(settings.make_noise(), settings.make_dials())
    settings.noise_options()


def read_settings(configs: Iterable[str | Path], flags: Mapping[str, Any]) -> TrainSettings:
    """Settings: `flags` override YAML files, later files override earlier ones. `InputError` for an unknown key."""
    given: dict[str, Any] = {}
    for path in configs:
        given |= _read(path)
    return TrainSettings(**_checked(given | dict(flags), "settings"))


def _read(path: str | Path) -> dict[str, Any]:
    found = read_yaml(path, "config")
    if not isinstance(found, dict):
        raise InputError(f"the config {path} must be lines of `key: value`")
    return _checked(found, str(path))


def _checked(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    types = get_type_hints(TrainSettings)
    for key in given:
        if key not in types:
            raise unknown(f"config key in {where}:", str(key), [field.name for field in fields(TrainSettings)])
    return {key: _as(types[key], key, value, where) for key, value in given.items()}


def _as(kind: Any, key: str, value: Any, where: str) -> Any:
    """`value` as `kind`; YAML reads 5e-5 as text, so text may be a number."""
    if kind in (float | None, int | None):
        if value is None:
            return None
        kind = float if kind == float | None else int
    wrong = InputError(f"{where}: {key} must be {_WORDS[kind]}; got {value!r}")
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            raise wrong from None
    if type(value) is not kind:
        raise wrong
    return value


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _at_least(key: str, value: float, least: float) -> None:
    if not (math.isfinite(value) and value >= least):
        raise InputError(f"{key} must be {least:g} or more; got {value}")
