"""Callbacks of a run: log file, progress bar, learning rate, periodic measurements, stopping."""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import TrainerCallback

from symnoise.core import track, unwritable, write_atomically
from symnoise.finetune.held_out import held_out_loss
from symnoise.training.trackers import log_at_once

_TORCHRUN = 2.0  # seconds within which torchrun forwards a Ctrl-C that its processes have already received
_SHOWN = {
    "loss": "loss",
    "noise/clean_loss": "clean loss",
    "clean_loss": "clean loss",
    "eval_loss": "held-out loss",
    "curvature/trace": "tr H",
    "embedding_norm/used_mean": "norm of rows in use",
}


class LogFile(TrainerCallback):
    """Log file: every logged line as JSON in `path`.

    A resumed run first restores the lines up to its checkpoint, so the file is that of an uninterrupted run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the file."""
        if state.is_world_process_zero:
            lines = "".join(map(_line, state.log_history))
            write_atomically(self.path, lambda path: path.write_text(lines, encoding="utf-8"))

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add a line; not Transformers' last one, whose means are over the steps since the run was resumed."""
        line = state.log_history[-1]
        if state.is_world_process_zero and "train_runtime" not in line:
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(_line(line))
            except OSError as error:
                raise unwritable(self.path, error) from error


def _line(values: Mapping[str, float]) -> str:
    """In the order that values have in a checkpoint, so that a resumed run's lines are those of any other."""
    return json.dumps(values, sort_keys=True) + "\n"


class StepBar(TrainerCallback):
    """Progress bar over the remaining steps."""

    def __init__(self, what: str = "steps") -> None:
        self.what = what

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw the bar."""
        left = f"{self.what} {state.global_step + 1} to {state.max_steps}" if state.global_step else self.what
        self.steps = track(range(state.global_step, state.max_steps), left)
        next(self.steps, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        next(self.steps, None)


class Bar(StepBar):
    """Progress bar, with a line for each step at which something was logged."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self._logged: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the values to print."""
        self._logged |= {name: logs[key] for key, name in _SHOWN.items() if key in logs}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Print what the last step logged."""
        if self._logged:
            found = ", ".join(f"{name} {value:.5g}" for name, value in self._logged.items())
            self.console.print(f"step {state.global_step}: {found}", highlight=False, soft_wrap=True)
            self._logged = {}

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Print what the last step logged."""
        self.on_step_begin(args, state, control)


class LearningRate(TrainerCallback):
    """Makes a resumed run follow its own learning rate and schedule.

    Transformers takes the rates of the checkpoint, which are 0 after a finished schedule. If nothing changed, the rates
    are the same.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_: Any) -> None:
        """Set the rate of the next step in the optimizer."""
        inner = getattr(lr_scheduler, "scheduler", lr_scheduler)  # accelerate wraps it
        rates = [args.learning_rate * rule(inner.last_epoch) for rule in inner.lr_lambdas]
        inner.base_lrs, inner._last_lr = [args.learning_rate] * len(rates), rates
        for group, rate in zip(inner.optimizer.param_groups, rates, strict=True):
            group["lr"], group["initial_lr"] = rate, args.learning_rate


class Periodic(TrainerCallback):
    """Calls `note(step)` before training, every `every` steps and after the last step."""

    def __init__(self, every: int, note: Callable[[int], None]) -> None:
        self.every, self.note = every, note

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """At the start, or on resuming from a checkpoint."""
        self.begin(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After an optimizer step."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.note(state.global_step)

    def begin(self, step: int) -> None:
        """A resumed run has already noted its start."""
        if step == 0:
            self.note(0)


def log_held_out_loss(trainer: Any, batches: Sequence[Mapping[str, Tensor]], every: int) -> None:
    """Make `trainer` log `held_out_loss` of `batches` as eval_loss."""
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled

    def note(step: int) -> None:
        log_at_once(trainer, {"eval_loss": held_out_loss(trainer.model, batches, sharded=sharded)})

    trainer.add_callback(Periodic(every, note))


class Stop(TrainerCallback):
    """Stops a run on a signal, after the optimizer step in progress, with a checkpoint.

    at: the step at which it stopped; None if it was not asked to.
    """

    def __init__(self) -> None:
        self.at: int | None = None
        self._asked = 0.0  # when

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block the first Ctrl-C or SIGTERM requests a stop, and a later one interrupts at once."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, *_: Any) -> None:
        if self._asked and time.monotonic() - self._asked > _TORCHRUN:
            raise KeyboardInterrupt
        self._asked = self._asked or time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop, all processes at the same step, although a signal reaches each at a different time."""
        asked = bool(self._asked)
        if args.world_size > 1:
            flag = torch.tensor(float(asked), device=args.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            asked = bool(flag)
        if asked and state.global_step < state.max_steps:
            self.at = state.global_step
            control.should_save = control.should_training_stop = True
