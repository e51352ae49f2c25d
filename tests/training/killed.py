"""Run by test_checkpoints.py: a training run that is killed without warning."""

import os
import signal
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from symnoise.noise import Noise
from symnoise.training import Dials, NoiseOptions, SymNoiseTrainer
from tests.tiny import tiny
from tests.training.ragged import collate, rows


class Kill(TrainerCallback):
    """kill −9 to ourselves in the middle of optimizer step `step`."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder: str, *, kill_at: int | None = None, resume: bool | str = False, **settings: Any) -> SymNoiseTrainer:
    """Six steps of two micro-batches on GPT-2, which has dropout, with a cosine schedule; saved every two steps."""
    torch.set_num_threads(1)
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=6,
        learning_rate=1e-2,
        save_steps=2,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SymNoiseTrainer(
        model=tiny("gpt2"),
        args=arguments,
        train_dataset=rows(),
        data_collator=collate,
        callbacks=[] if kill_at is None else [Kill(kill_at)],
        **{"noise": Noise.symnoise(5.0), "noise_options": NoiseOptions(schedule="cosine"), **settings},
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def run_and_die(folder: str, kill_at: int, dials: Dials | None) -> None:
    run(folder, kill_at=kill_at, dials=dials)
