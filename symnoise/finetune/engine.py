"""The training engine of all runs: builds a Trainer, trains it to its last step, and resumes killed runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from symnoise.data import collate
from symnoise.finetune.log import mean_of_steps
from symnoise.training.checkpoints import keep_newest, last_whole_checkpoint, step_of
from symnoise.training.trainer import SymNoiseTrainer


def make_trainer(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, list[int]]],
    arguments: Mapping[str, Any],
    *,
    seed: int,
    schedule: str,
    gradient_checkpointing: bool = False,
    kind: type[SymNoiseTrainer] = SymNoiseTrainer,
    **more: Any,
) -> SymNoiseTrainer:
    """A quiet Trainer of `model` on encoded `rows`.

    Args:
        model: The model to train.
        tokenizer: Its tokenizer, for padding.
        rows: Encoded rows.
        arguments: `TrainingArguments` that differ between callers. The newest `save_total_limit` checkpoints are kept:
            by their steps, where Transformers goes by the clock, which may jump.
        seed: Random seed of row order, dropout and noise.
        schedule: Learning-rate schedule: constant, linear or cosine, with the warmup of `arguments`.
        gradient_checkpointing: Whether to recompute activations in the backward pass.
        kind: The class of the Trainer.
        more: Arguments of the Trainer, such as `noise`, `dials`, `noise_options` and `pair_mode`.
    """
    trainer = kind(
        model=model,
        args=TrainingArguments(
            lr_scheduler_type="constant_with_warmup" if schedule == "constant" else schedule,
            seed=seed,
            data_seed=seed,
            disable_tqdm=True,
            remove_unused_columns=False,
            ddp_find_unused_parameters=False,
            **_checkpointing(gradient_checkpointing),
            **{"use_cpu": not torch.accelerator.is_available(), **arguments, "save_total_limit": None},
        ),
        train_dataset=rows,
        data_collator=partial(collate, tokenizer=tokenizer),
        noise_seed=seed,
        **more,
    )
    trainer.remove_callback(PrinterCallback)  # it prints dictionaries; the bar is enough
    if limit := arguments.get("save_total_limit"):
        trainer.add_callback(_Newest(limit))
    return trainer


def _checkpointing(on: bool) -> dict[str, Any]:
    """`TrainingArguments` for gradient checkpointing, under the name in this version of Transformers."""
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in known else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": False}} if on else {}


class _Newest(TrainerCallback):
    """Keeps the newest `count` checkpoints."""

    def __init__(self, count: int) -> None:
        self.count = count

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            keep_newest(args.output_dir, self.count)


class _LoggedWhereSaved(TrainerCallback):
    """Logs at the last step and before every checkpoint, so that the log of a resumed run covers each step once."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_save or state.global_step == state.max_steps:
            control.should_log = True


def train_to_end(trainer: SymNoiseTrainer) -> dict[str, float]:
    """Train to the last step, resuming from the newest complete checkpoint in the Trainer's folder, if any.

    A run that was killed after its last step is not trained further; its log is read from the checkpoint.

    Returns:
        `mean_of_steps` over the whole run, including steps before a kill.

    Raises:
        Diverged: If a training loss is not finite.
    """
    trainer.add_callback(_LoggedWhereSaved())  # after those that save
    checkpoint = last_whole_checkpoint(trainer.args.output_dir)
    if checkpoint and step_of(checkpoint) >= trainer.args.max_steps:
        trainer.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    else:
        trainer.train(str(checkpoint) if checkpoint else None)
    return mean_of_steps(trainer.state.log_history)


def is_finished(folder: Path, steps: int) -> bool:
    """Whether the newest complete checkpoint in `folder` is from step `steps` or later."""
    checkpoint = last_whole_checkpoint(folder)
    return checkpoint is not None and step_of(checkpoint) >= steps
