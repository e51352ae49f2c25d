"""`fine_tune`: a whole training run from its settings, resumable at any moment."""

import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml

from symnoise.core import InputError, progress_shown, sha256, track, write_atomically
from symnoise.data import Example, Source, collate, fitting, set_chat_template
from symnoise.finetune.callbacks import Bar, LearningRate, LogFile, Stop, log_held_out_loss
from symnoise.finetune.card import model_card
from symnoise.finetune.engine import make_trainer, train_to_end
from symnoise.finetune.settings import TrainSettings
from symnoise.models import load_model
from symnoise.models.quiet import quiet
from symnoise.training.checkpoints import last_whole_checkpoint, step_of
from symnoise.training.trackers import CurvatureTracker, NoiseTracker, NormTracker
from symnoise.training.trainer import SymNoiseTrainer

SETTINGS, LOG, CARD = "train.yaml", "log.jsonl", "README.md"
# Of a checkpoint, what is for continuing only; all else is the model.
_STATE = (
    *("optimizer", "scheduler", "scaler", "rng_state", "trainer_state", "training_args", "pytorch_model_fsdp"),
    "used_rows",
)


@dataclass(frozen=True)
class Rows:
    """Tokenized rows for training and held-out ones, and where they came from."""

    training: list[dict[str, list[int]]]
    held_out: list[dict[str, list[int]]]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a run ended. step < steps where it was interrupted; `measured` has the last value of each logged loss."""

    output: Path
    step: int
    steps: int
    seconds: float
    measured: dict[str, float]
    weights: dict[str, str]


def fine_tune(settings: TrainSettings) -> Outcome:
    """Train as `settings` say, from the newest whole checkpoint in the output folder where there is one.

    In the folder: train.yaml (the settings), log.jsonl, checkpoints, and at the end the model as safetensors with its
    tokenizer and README.md, the card, which comes last and marks the run as finished. A second call finds it finished.
    Under torchrun or accelerate each process calls this; the first writes. Raises `InputError`.
    """
    started, output, main = time.perf_counter(), Path(settings.output), is_main_process()
    if not settings.output:
        raise InputError("the run has no output folder; give --output DIR")
    checkpoint = last_whole_checkpoint(output)
    if main:
        _claim(output, settings, resumed=checkpoint is not None)
    stop = Stop()
    with quiet(), progress_shown() if main else nullcontext() as console:
        loaded = load_model(settings.model)
        _check("family", settings.family, loaded.model.config.model_type)
        if settings.chat_template:
            set_chat_template(loaded.tokenizer, settings.chat_template)
        rows = read_rows(settings, loaded)
        base = loaded.provenance() if main else {}
        model = with_lora(loaded.model, settings) if settings.lora_rank else loaded.model
        steps = count_steps(settings, len(rows.training))
        trainer = trainer_of(settings, model, loaded.tokenizer, rows, steps)
        for callback in (stop, LearningRate(), LogFile(output / LOG)):
            trainer.add_callback(callback)
        if console:
            trainer.add_callback(Bar(console))
        for tracker in trackers(settings, loaded, rows):
            trainer.add_callback(tracker)
        if rows.held_out:
            parts = [rows.held_out[i : i + settings.batch] for i in range(0, len(rows.held_out), settings.batch)]
            log_held_out_loss(trainer, [collate(part, loaded.tokenizer) for part in parts], settings.eval_every)
        at = step_of(checkpoint) if checkpoint else 0
        with stop.listening():
            means = train_to_end(trainer)
    step = max(at, steps) if stop.at is None else stop.at
    measured, weights = {}, {}
    if main:
        ended = last_whole_checkpoint(output)
        assert ended is not None  # the Trainer saves its last step
        measured = _measured(means, trainer.state.log_history)
        if stop.at is None:
            run = {"steps": step, "rows": len(rows.training), "processes": _processes(), "measured": measured}
            weights = _publish(ended, output, model_card(settings, base, rows.provenance, run))
    return Outcome(output, step, max(at, steps), time.perf_counter() - started, measured, weights)


def _claim(output: Path, settings: TrainSettings, *, resumed: bool) -> None:
    """Write the settings into the folder, which also shows that it can be written; warn where they changed."""
    file = output / SETTINGS
    if resumed and file.is_file():
        before = yaml.safe_load(file.read_text(encoding="utf-8"))
        if changed := settings.changed(before):
            warnings.warn(f"the run in {output} goes on with other settings: {'; '.join(changed)}", stacklevel=2)
    text = yaml.safe_dump(asdict(settings), sort_keys=False, allow_unicode=True)
    write_atomically(file, lambda path: path.write_text(text, encoding="utf-8"))


def _check(what: str, wanted: str, found: str) -> None:
    if wanted and wanted != found:
        raise InputError(f"the run asks for the {what} {wanted!r}, but this is {found!r}; change one of the two")


def read_rows(settings: TrainSettings, loaded: Any) -> Rows:
    """Rows of which `max_length` tokens leave something to score; the first `eval_rows` of them are held out.

    Of as many rows as are wanted no more are read; where all are, they are read first, so that there is a bar.
    """
    wanted = settings.eval_rows + settings.rows if settings.rows else None
    source = Source(settings.data, strict=settings.strict, whole=wanted is None)
    examples: Iterable[Example] = source if wanted else track(tuple(source), "reading rows")
    limits = {"max_length": settings.max_length, "model": loaded.model}
    chosen = list(islice(fitting(examples, source.leave_out, loaded.tokenizer, **limits), wanted))
    data = source.data([example for example, _ in chosen])
    _check("form", settings.form, data.form)
    kept = [row for _, row in chosen]
    held_out, training = kept[: settings.eval_rows], kept[settings.eval_rows :]
    if not training:
        raise InputError(
            f"{settings.data}: of its rows {len(kept)} fit {settings.max_length} tokens and {settings.eval_rows} are "
            "held out, so none is left to train on; raise max_length or lower eval_rows"
        )
    return Rows(training, held_out, data.provenance())


def with_lora(model: Any, settings: TrainSettings) -> Any:
    """`model` with adapters on all linear layers but the head, at scale 2; their start depends on the seed alone."""
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise InputError('LoRA needs PEFT; run: pip install "symnoise[sft]"') from error
    task = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    rank = settings.lora_rank
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return get_peft_model(
            model,
            LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type=task),
        )


def count_steps(settings: TrainSettings, rows: int) -> int:
    """Optimizer steps of the whole run: as set, or `epochs` times those that take every row once."""
    per_step = settings.batch * settings.accumulation * _processes()
    return settings.steps or max(1, math.ceil(settings.epochs * math.ceil(rows / per_step)))


def trainer_of(settings: TrainSettings, model: Any, tokenizer: Any, rows: Rows, steps: int) -> SymNoiseTrainer:
    """The engine's Trainer for `settings`."""
    arguments = {
        "output_dir": settings.output,
        "max_steps": steps,
        "per_device_train_batch_size": settings.batch,
        "gradient_accumulation_steps": settings.accumulation,
        "learning_rate": settings.learning_rate,
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "bf16": settings.bf16,
        "save_strategy": "steps",
        "save_steps": settings.save_every,
        "save_total_limit": settings.keep,
        "logging_steps": settings.log_every,
        "report_to": settings.report_to,
    }
    return make_trainer(
        model,
        tokenizer,
        rows.training,
        arguments,
        seed=settings.seed,
        schedule=settings.schedule,
        gradient_checkpointing=settings.gradient_checkpointing,
        processing_class=tokenizer,  # so that checkpoints have it
        noise=settings.make_noise(),
        noise_options=settings.noise_options(),
        pair_mode=settings.pair_mode,
        dials=settings.make_dials(),
    )


def trackers(settings: TrainSettings, loaded: Any, rows: Rows) -> Iterator[Any]:
    """What the settings ask to be measured along the way."""
    if settings.track_every:
        yield NormTracker(settings.track_every)
        if settings.make_noise() is not None:
            yield NoiseTracker(settings.track_every)
    if settings.curvature_every:
        probe = (rows.held_out or rows.training)[: settings.curvature_rows]
        yield CurvatureTracker(collate(probe, loaded.tokenizer), settings.curvature_every, seed=settings.seed)


def _publish(checkpoint: Path, output: Path, card: str) -> dict[str, str]:
    """Put the model of the last checkpoint into `output`, file by file in one step each, and the card last."""
    weights = {}
    for file in sorted(checkpoint.iterdir()):
        if file.is_file() and file.name != CARD and not file.name.startswith(_STATE):
            with tempfile.TemporaryDirectory(dir=output, prefix=".publish-") as folder:
                fresh = Path(folder) / file.name
                try:
                    os.link(file, fresh)  # the same bytes on the disk once
                except OSError:
                    shutil.copyfile(file, fresh)
                os.replace(fresh, output / file.name)
            if file.suffix == ".safetensors":
                weights[file.name] = sha256(file)
    write_atomically(output / CARD, lambda path: path.write_text(card, encoding="utf-8"))
    return weights


def _measured(means: dict[str, float], history: list[dict[str, float]]) -> dict[str, float]:
    """Means over the run of the training losses, and the last held-out loss and curvature that were logged."""
    names = {"loss": "loss", "noise/clean_loss": "clean_loss", "clean_loss": "clean_loss"}
    measured = {name: means[key] for key, name in names.items() if key in means}
    for key, name in (("eval_loss", "eval_loss"), ("curvature/trace", "trace")):
        measured |= dict([(name, line[key]) for line in history if key in line][-1:])
    return measured


def is_main_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
