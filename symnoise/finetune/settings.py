"""The settings of a training run: from YAML files and flags, checked before anything is loaded."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from symnoise.core import InputError, read_yaml, unknown
from symnoise.data import FORMS
from symnoise.noise import Noise
from symnoise.training.dials import Dials, objective
from symnoise.training.mixin import PAIR_MODES
from symnoise.training.options import NoiseOptions

SCHEDULES = ("constant", "linear", "cosine")
# What may change between a run and its continuation without changing what the steps so far were.
_FREE = ("output", "steps", "epochs", "save_every", "keep", "log_every", "report_to")
_DIALS = ("even", "odd")


@dataclass(frozen=True)
class TrainSettings:
    """One training run. Every field is a config key and a flag of `symnoise train`.

    model, data:    as for `load_model` and `load_data`.
    family, form:   what they must turn out to be, such as "llama" and "Alpaca"; empty accepts anything. A dry run
                    makes a model and rows of this kind.
    rows:           how many rows to train on, after those held out; 0 for all that fit.
    chat_template:  a Jinja file in the place of the model's own template; empty for that.
    strict:         stop at the first row that cannot be used, instead of leaving it out.
    noise, noise_alpha, noise_length, noise_where, noise_schedule, pair_mode: see `Noise.named`, `NoiseOptions` and
                    `SymNoiseMixin`.
    even, odd:      of `Dials`; where only one is given, the other is as there (1 and 0). Without both, the name of the
                    noise says what is done with a draw.
    steps:          optimizer steps; 0 for `epochs` times through the rows.
    batch:          rows a process takes at a time, before a pair doubles them; `accumulation` of them make a step.
    warmup:         a fraction of the steps, or from 1 on their number.
    lora_rank:      0 trains every weight; else LoRA on all linear layers, at scale 2 and without dropout.
    bf16:           computes in bfloat16; the weights stay float32.
    save_every:     steps between checkpoints, the last step's aside; `keep` of them stay.
    track_every:    steps between records of noise, clean loss and norms; 0 for none.
    curvature_every: steps between records of tr H on the first `curvature_rows` held-out rows; 0 for none.
    eval_rows:      rows held out, from the first on; their loss is taken every `eval_every` steps.
    report_to:      a tracker of Transformers, such as tensorboard or trackio.
    """

    model: str = "smollm2"
    data: str = "chitchat"
    output: str = ""
    family: str = ""
    form: str = ""
    rows: int = 0
    chat_template: str = ""
    strict: bool = False
    noise: str = "symnoise"
    noise_alpha: float = 5.0
    noise_length: str = "true"
    noise_where: str = "all"
    noise_schedule: str = "constant"
    even: float | None = None
    odd: float | None = None
    pair_mode: str = "doubled"
    steps: int = 0
    epochs: float = 1.0
    batch: int = 4
    accumulation: int = 1
    max_length: int = 512
    learning_rate: float = 5e-5
    schedule: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora_rank: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0
    save_every: int = 100
    keep: int = 2
    log_every: int = 10
    track_every: int = 10
    curvature_every: int = 0
    curvature_rows: int = 4
    eval_rows: int = 0
    eval_every: int = 100
    report_to: str = "none"

    def __post_init__(self) -> None:
        known = {"schedule": SCHEDULES, "pair_mode": PAIR_MODES, "form": ("", *FORMS)}
        for key, words in known.items():
            if getattr(self, key) not in words:
                raise unknown(key, getattr(self, key), words)
        for key in ("batch", "accumulation", "keep", "log_every", "curvature_rows", "save_every", "eval_every"):
            _at_least(key, getattr(self, key), 1)
        for key in ("rows", "steps", "lora_rank", "track_every", "curvature_every", "eval_rows"):
            _at_least(key, getattr(self, key), 0)
        for key in ("warmup", "weight_decay", "max_grad_norm"):
            _at_least(key, getattr(self, key), 0.0)
        _at_least("max_length", self.max_length, 2)
        for key in ("learning_rate", "epochs"):
            if not (math.isfinite(getattr(self, key)) and getattr(self, key) > 0):
                raise InputError(f"{key} must be a finite number larger than 0; got {getattr(self, key)}")
        objective(self.make_noise(), self.make_dials())
        self.noise_options()

    def make_noise(self) -> Noise | None:
        """The noise; None for "none"."""
        return Noise.named(self.noise, self.noise_alpha)

    def make_dials(self) -> Dials | None:
        """The dials; None where neither is given."""
        given = {key: getattr(self, key) for key in _DIALS if getattr(self, key) is not None}
        return Dials(**given) if given else None

    def noise_options(self) -> NoiseOptions:
        """How it is laid on."""
        return NoiseOptions(self.noise_length, self.noise_where, self.noise_schedule)

    def changed(self, before: Mapping[str, Any]) -> list[str]:
        """What a continuation does otherwise than the run did `before`, in words; the noise is for the checkpoint."""
        now = asdict(self)
        keys = [key for key in now if key not in (*_FREE, *_DIALS) and not key.startswith("noise")]
        return [f"{key} was {before[key]!r}, now {now[key]!r}" for key in keys if before.get(key, now[key]) != now[key]]


def read_settings(configs: Iterable[str | Path], flags: Mapping[str, Any]) -> TrainSettings:
    """Defaults, overruled by the YAML files in their order, overruled by `flags`. `InputError` for an unknown key."""
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
    """`value` as `kind`; YAML reads 5e-5 as text, which is meant as a number."""
    if kind == float | None:
        if value is None:
            return None
        kind = float
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
