"""The quick run's settings: a config applied over the default, with everything in it checked before anything runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from result_schema.files import read_settings as read_yaml
from symnoise.core import InputError, unknown
from symnoise.noise import noise_names

CONFIG = Path(__file__).parents[1] / "configs" / "quick.yaml"
# The least that each count makes sense with; every other count must be at least 1.
_LEAST = {"draws": 4, "coupled_draws": 2, "split_draws": 2, "diagonal_probes": 3, "probes": 2, "seed": 0}


def read_settings(
    config: Path = CONFIG, model: str | None = None, data: str | None = None, second_data: str | None = None
) -> dict[str, Any]:
    """The default settings with those of `config` in their place, and with model and data where given.

    A config may leave out what it does not change. Raises `InputError`, naming the key, for a setting that the default
    does not have, a section that is none, and a value that cannot be run with.
    """
    default, given = (read_yaml(path, "config", CONFIG.name) for path in (CONFIG, config))
    settings = _merged(default, given, str(config))
    flags = {"model": model, "data": data, "second_data": second_data}
    settings |= {key: value for key, value in flags.items() if value is not None}
    _check(settings, str(config))
    return settings


def _merged(default: dict[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    merged = dict(default)
    for key, value in given.items():
        if key not in default:
            raise InputError(f"{where}: {unknown('setting', str(key), default)}")
        if isinstance(default[key], dict):
            if not isinstance(value, Mapping):
                raise InputError(f"{where}: {key} is a section with {', '.join(default[key])}; got {value!r}")
            value = _merged(default[key], value, f"{where}, {key}")
        merged[key] = value
    return merged


def _check(settings: dict[str, Any], where: str) -> None:
    for key in ("model", "data"):
        if not isinstance(settings[key], str):
            raise InputError(f"{where}: {key} is a name or a path; got {settings[key]!r}")
    second = settings["second_data"]
    if second is not None and not isinstance(second, str):
        raise InputError(f"{where}: second_data is a name or a path, or null; got {second!r}")
    alphas = settings["alphas"]
    if not isinstance(alphas, list) or not alphas or not all(_number(a) and a > 0 for a in alphas):
        raise InputError(f"{where}: alphas is a list of numbers above 0; got {alphas!r}")
    if sorted(set(alphas)) != alphas:
        raise InputError(f"{where}: alphas must rise, each once; got {alphas!r}")
    _check_count("seed", settings["seed"], where)
    for section in ("theory", "text", "range", "training"):
        for key, value in settings[section].items():
            if key not in ("arms", "alpha", "learning_rate"):
                _check_count(key, value, f"{where}, {section}")
    text, training = settings["text"], settings["training"]
    if text["probes"] % 8:
        raise InputError(f"{where}, text: probes must be a multiple of 8; got {text['probes']}")
    if training["curvature_examples"] > training["held_out"]:
        raise InputError(f"{where}, training: curvature_examples are held-out rows; raise held_out or lower it")
    arms = training["arms"]
    if not isinstance(arms, list) or not arms or len({*map(str, arms)}) != len(arms):
        raise InputError(f"{where}, training: arms is a list of noises, each once; got {arms!r}")
    for arm in arms:
        if str(arm) not in noise_names():
            raise InputError(f"{where}, training, arms: {unknown('noise', str(arm), noise_names())}")
    for key in ("alpha", "learning_rate"):
        if not (_number(training[key]) and training[key] > 0):
            raise InputError(f"{where}, training: {key} must be a number above 0; got {training[key]!r}")


def _check_count(key: str, value: Any, where: str) -> None:
    least = _LEAST.get(key, 1)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{where}: {key} must be a whole number, {least} or larger; got {value!r}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0
