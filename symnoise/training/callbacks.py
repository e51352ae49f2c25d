"""What a run of `symnoise train` does beside training: its log, its bar, its rate, its held-out loss, its end."""

import json
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import TrainerCallback

from symnoise.core import track, write_atomically
from symnoise.training.trackers import Tracker

_TORCHRUN = 2.0  # seconds in which torchrun passes on a Ctrl-C that its processes have seen already
_SHOWN = {
    "loss": "loss",
    "noise/clean_loss": "clean loss",
    "clean_loss": "clean loss",
    "eval_loss": "held-out loss",
    "curvature/trace": "tr H",
    "embedding_norm/used_mean": "norm of rows in use",
}


class LogFile(TrainerCallback):
    """Every logged line as JSON in `path`. A continued run first puts back the lines up to its checkpoint, so the file
    is that of a run never interrupted, but for what was measured anew where it went on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the file."""
        if state.is_world_process_zero:
            lines = "".join(json.dumps(line) + "\n" for line in state.log_history)
            write_atomically(self.path, lambda path: path.write_text(lines, encoding="utf-8"))

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Add a line."""
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")


class Bar(TrainerCallback):
    """A progress bar, and a line for each step that something was logged at."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._logged: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Draw the bar."""
        what = f"steps {state.global_step + 1} to {state.max_steps}" if state.global_step else "steps"
        self.steps = track(range(state.global_step, state.max_steps), what)
        next(self.steps, None)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep what a person looks for."""
        self._logged |= {name: logs[key] for key, name in _SHOWN.items() if key in logs}

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Print what the last step logged."""
        if self._logged:
            found = ", ".join(f"{name} {value:.5g}" for name, value in self._logged.items())
            self.console.print(f"step {state.global_step}: {found}", highlight=False, soft_wrap=True)
            self._logged = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        next(self.steps, None)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Print what the last step logged."""
        self.on_step_begin(args, state, control)


class LearningRate(TrainerCallback):
    """Lets a continued run follow the learning rate and schedule of its own settings; Transformers takes the rates of
    the checkpoint, which after a finished schedule are 0. Where nothing changed the rates come out as they were."""

    def on_train_begin(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_: Any) -> None:
        """Put the rate of the step that comes next into the optimizer."""
        inner = getattr(lr_scheduler, "scheduler", lr_scheduler)  # accelerate wraps it
        rates = [args.learning_rate * rule(inner.last_epoch) for rule in inner.lr_lambdas]
        inner.base_lrs, inner._last_lr = [args.learning_rate] * len(rates), rates
        for group, rate in zip(inner.optimizer.param_groups, rates, strict=True):
            group["lr"], group["initial_lr"] = rate, args.learning_rate


class HeldOutLoss(Tracker):
    """eval_loss: `mean_token_loss` of `batches`."""

    def __init__(self, batches: Sequence[Mapping[str, Tensor]], every: int) -> None:
        super().__init__(every)
        self.batches = batches

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure the model that training starts from."""
        super().on_train_begin(args, state, control)
        if state.global_step == 0:
            self._measure()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Measure where the step is due, and at the end."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._measure()

    def _measure(self) -> None:
        self._log({"eval_loss": mean_token_loss(self.trainer, self.batches)})


def mean_token_loss(trainer: Any, batches: Sequence[Mapping[str, Tensor]]) -> float:
    """Mean cross-entropy of all scored tokens of `batches` (sums first, one division last), without noise.

    In the precision of training; the next training step puts the model back into training mode. Every process takes
    all batches: FSDP needs them to call the model equally often.
    """
    model, device = trainer.model, trainer.args.device
    first = 0 if model.config.is_encoder_decoder else 1  # a causal model does not predict its first token
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for batch in batches:
            scored = int((batch["labels"][:, first:] != -100).sum())
            total += scored * float(model(**{key: value.to(device) for key, value in batch.items()}).loss)
            count += scored
    return total / count


class Stop(TrainerCallback):
    """Ends a run after the optimizer step in progress, with a checkpoint, once a signal has asked for it.

    at: the step it ended at; None where nobody asked.
    """

    def __init__(self) -> None:
        self.at: int | None = None
        self._asked = 0.0  # when

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within the block the first Ctrl-C or SIGTERM asks, and a later one interrupts at once."""
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
        """Save and stop; all processes at the same step, though a signal reaches each at its own time."""
        asked = bool(self._asked)
        if args.world_size > 1:
            flag = torch.tensor(float(asked), device=args.device)
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            asked = bool(flag)
        if asked and state.global_step < state.max_steps:
            self.at = state.global_step
            control.should_save = control.should_training_stop = True
