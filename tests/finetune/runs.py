"""Runs of `symnoise train` in processes of their own: killed, interrupted, two at a time. Used by test_run.py."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState

from symnoise.cli import main
from symnoise.finetune import run
from symnoise.training import SymNoiseTrainer


def command(*arguments: object) -> int:
    """`symnoise train ARGUMENTS`; its exit code."""
    torch.set_num_threads(1)
    sys.argv = ["symnoise", "train", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def after(count: int, method: str, owner: Any, action: Callable[[], None]) -> None:
    """Do `action` when `owner.method` has been called `count` times."""
    usual, calls = getattr(owner, method), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        result = usual(*args, **kwargs)
        calls.append(1)
        if len(calls) == count:
            action()
        return result

    setattr(owner, method, counted)


# Where a run is killed: (calls, method, its owner).
MOMENTS = {
    "in the middle of step 3": (6, "training_step", SymNoiseTrainer),
    "weights of checkpoint-4 written, its state not": (2, "save_model", SymNoiseTrainer),
    "the last file of checkpoint-4 written": (2, "save_to_json", TrainerState),
    "after the last checkpoint, before the model is in place": (1, "summary", run),
}


def killed(moment: str, *arguments: object) -> None:
    """kill −9 to ourselves at a moment of a run."""
    after(*MOMENTS[moment], lambda: os.kill(os.getpid(), signal.SIGKILL))
    command(*arguments)


def interrupted(step: int, said: Path, *arguments: object) -> int:
    """Ctrl-C during optimizer step `step`, at two micro-batches a step; standard error goes to the file `said`."""
    sys.stderr = open(said, "w", encoding="utf-8", buffering=1)  # noqa: SIM115 - until the process ends
    after(2 * step - 1, "training_step", SymNoiseTrainer, lambda: os.kill(os.getpid(), signal.SIGINT))
    return command(*arguments)
