"""`fine_tune`: a whole training run from its settings, resumable at any time."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from symnoise.core import InputError, progress_shown, unknown
from symnoise.data import collate, prompt_format, set_chat_template
from symnoise.finetune.callbacks import Bar, LearningRate, LogFile, Stop, log_held_out_loss
from symnoise.finetune.card import model_card
from symnoise.finetune.engine import make_trainer, train_to_end
from symnoise.finetune.folder import (
    LOG,
    claim,
    one_run,
    publish,
    refuse_other_files,
    refuse_other_processes,
    refuse_other_settings,
    refuse_other_sources,
    remove_optimizer_state,
    require_state,
    sources,
)
from symnoise.finetune.log import summary
from symnoise.finetune.rows import Rows, read_rows, require
from symnoise.finetune.settings import TrainSettings
from symnoise.models import LoadedModel, load_model
from symnoise.models.muted import muted
from symnoise.training.checkpoints import keep_newest, last_whole_checkpoint, step_of
from symnoise.training.trackers import CurvatureTracker, NoiseTracker, NormTracker
from symnoise.training.trainer import SymNoiseTrainer


@dataclass(frozen=True)
class Outcome:
    """Result of a run. step < steps if it was interrupted; `held_out` is the number of rows held out; `data` is the
    provenance of the rows, with counts of skipped rows by reason."""

    output: Path
    step: int
    steps: int
    seconds: float
    measured: dict[str, float]
    weights: dict[str, str]
    held_out: int
    data: dict[str, Any]


def fine_tune(settings: TrainSettings, written: TrainSettings | None = None) -> Outcome:
    """Run a fine-tuning, resuming from the newest complete checkpoint in the output folder, if any.

    The folder has train.yaml (the settings), sources.json (hashes of the weights and rows, the number of processes),
    log.jsonl, checkpoints, and at the end the model as safetensors with its tokenizer, and the card README.md, which
    marks the run as finished. A second call finds it finished. Under torchrun or accelerate each process calls this;
    the first writes.

    Args:
        settings: Settings of the run.
        written: Settings for train.yaml, also compared with those of a run in the folder; they differ from `settings`
            in a dry run, whose model and data are synthetic.

    Raises:
        InputError: For settings that cannot be trained, for a folder that holds a run with other settings, of other
            weights, on other rows or on another number of processes, and for one that another run is writing to.
        Diverged: If a loss is not finite.
    """
    if not settings.output:
        raise InputError("the run has no output folder; give --output DIR")
    _require_tracker(settings.report_to)
    with one_run(Path(settings.output)) if is_main_process() else nullcontext():
        return _fine_tune(settings, written or settings)


def _fine_tune(settings: TrainSettings, written: TrainSettings) -> Outcome:
    started, output, main = time.perf_counter(), Path(settings.output), is_main_process()
    checkpoint = last_whole_checkpoint(output)
    at = step_of(checkpoint) if checkpoint else 0
    refuse_other_files(output, checkpoint)
    refuse_other_settings(output, written, checkpoint)
    refuse_other_processes(output, _processes(), checkpoint)
    stop = Stop()
    with muted(), progress_shown() if main else nullcontext() as console:
        loaded = _load(settings)
        rows = read_rows(settings, loaded)
        base = loaded.provenance() if main else {}
        model = with_lora(loaded.model, settings) if settings.lora_rank else loaded.model
        steps = count_steps(settings, len(rows.training))
        if at > steps:
            raise InputError(f"{output} holds a run of {at} steps, and {steps} are fewer: choose another --output")
        require_state(checkpoint, at, steps)
        if main:
            now = sources(base, rows, _processes())
            refuse_other_sources(output, now, checkpoint)
            claim(output, written, now, finished=at >= steps)
        trainer = trainer_of(settings, model, loaded.tokenizer, rows, steps)
        _watch(trainer, settings, loaded, rows, console)
        trainer.add_callback(stop)
        with stop.listening():
            train_to_end(trainer)
    step = max(at, steps) if stop.at is None else stop.at
    measured, weights = {}, {}
    if main:
        measured = summary(trainer.state.log_history)
        if stop.at is None:
            run = {"steps": step, "rows": len(rows.training), "processes": _processes(), "measured": measured}
            run |= {"held_out": len(rows.held_out), "prompt": prompt_format(loaded.tokenizer, rows.provenance["form"])}
            weights = _finish(settings, model_card(settings, base, rows.provenance, run))
    seconds = time.perf_counter() - started
    return Outcome(output, step, max(at, steps), seconds, measured, weights, len(rows.held_out), rows.provenance)


def _load(settings: TrainSettings) -> LoadedModel:
    """The model with its chat template; `InputError` where it is of another family than asked for."""
    loaded = load_model(settings.model)
    require("family", settings.family, loaded.model.config.model_type)
    if settings.chat_template:
        set_chat_template(loaded.tokenizer, settings.chat_template)
    return loaded


def _finish(settings: TrainSettings, card: str) -> dict[str, str]:
    """The model of the last checkpoint and the card into the output folder; the SHA-256 of each file of weights."""
    output = Path(settings.output)
    ended = last_whole_checkpoint(output)
    assert ended is not None  # the Trainer saves its last step
    keep_newest(output, settings.keep)  # which a kill may have prevented
    weights = publish(ended, output, card)
    if not settings.keep_state:
        remove_optimizer_state(output)
    return weights


def _watch(trainer: SymNoiseTrainer, settings: TrainSettings, loaded: Any, rows: Rows, console: Any) -> None:
    """Add the callbacks that log, show and measure; the log first, since the others write to it."""
    trainer.add_callback(LearningRate())
    trainer.add_callback(LogFile(Path(settings.output) / LOG))
    if console:
        trainer.add_callback(Bar(console))
    for tracker in trackers(settings, loaded, rows):
        trainer.add_callback(tracker)
    if rows.held_out:
        parts = [rows.held_out[i : i + settings.batch] for i in range(0, len(rows.held_out), settings.batch)]
        log_held_out_loss(trainer, [collate(part, loaded.tokenizer) for part in parts], settings.eval_every)


def _require_tracker(name: str) -> None:
    """`InputError` for a `report_to` that is unknown or not installed."""
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    if name not in (known := ("none", "all", *INTEGRATION_TO_CALLBACK)):
        raise unknown("report_to", name, known)
    if name in INTEGRATION_TO_CALLBACK and name not in get_available_reporting_integrations():
        raise InputError(f"report_to {name} needs a package that is not installed; run: pip install {name}")


def with_lora(model: Any, settings: TrainSettings) -> Any:
    """`model` with LoRA on all linear layers but the head, at scale 2; its initial weights depend only on the seed."""
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise InputError("LoRA needs PEFT; run: pip install peft") from error
    task = TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else TaskType.CAUSAL_LM
    rank = settings.lora_rank
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return get_peft_model(
            model,
            LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type=task),
        )


def count_steps(settings: TrainSettings, rows: int) -> int:
    """Optimizer steps of the whole run: as set, or those of `epochs` epochs."""
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
    """The trackers that the settings ask for."""
    if settings.track_every:
        yield NormTracker(settings.track_every)
        if settings.make_noise() is not None:
            yield NoiseTracker(settings.track_every)
    if settings.curvature_every:
        probe = (rows.held_out or rows.training)[: settings.curvature_rows]
        yield CurvatureTracker(collate(probe, loaded.tokenizer), settings.curvature_every, seed=settings.seed)


def is_main_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
