"""Trackers of noise, norms and curvature along a run: TrainerCallbacks that log through the Trainer."""

import io
import math
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback

from symnoise.core import InputError, write_atomically
from symnoise.curvature import DynamicTrace
from symnoise.models import EmbeddingLoss
from symnoise.noise import law
from symnoise.training.checkpoints import loading
from symnoise.training.target import find_target


def log_at_once(trainer: Any, values: Mapping[str, float]) -> None:
    """Log `values` through `trainer` from within a callback, without losing a line of its own that may be due."""
    due = trainer.control.should_log
    # The base class's log, since TRL's also flushes its own running averages.
    Trainer.log(trainer, dict(values))
    trainer.control.should_log = due  # logging clears it, and the Trainer's own line would be lost


class Tracker(TrainerCallback):
    """Base of the trackers: logs every `every` optimizer steps.

    Pass it to a SymNoise Trainer as a callback; with any other Trainer call `tracker.watch(trainer)` instead.

    Attributes:
        file: The name of what it keeps in a checkpoint for a run that resumes from there; "" for nothing.
    """

    file = ""

    def __init__(self, every: int = 10) -> None:
        if every < 1:
            raise InputError(f"every must be at least 1; got {every}")
        self.every = every
        self.trainer: Any = None
        self._saved = -1  # the step of the last checkpoint that has its file

    def watch(self, trainer: Trainer) -> None:
        """Join `trainer`'s callbacks and log through it. Where its training fails, call `close`."""
        trainer.add_callback(self)
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Check that the tracker has a Trainer to log through."""
        if self.trainer is None:
            raise InputError(f"{type(self).__name__} does not know its Trainer; call tracker.watch(trainer) first")
        self._saved = -1

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """For a Trainer that does not call `save` itself, before its checkpoint is complete."""
        self.save(args, state)

    def save(self, args: Any, state: Any) -> None:
        """Save in the checkpoint of this step, once, what a run that resumes from it needs."""
        if not self.file or not state.is_world_process_zero or self._saved == state.global_step:
            return
        self._saved, content = state.global_step, io.BytesIO()
        torch.save(self._state(), content)  # a file's name would be part of its bytes
        write_atomically(self._kept(args, state), lambda path: path.write_bytes(content.getvalue()))

    def _state(self) -> Any:
        """What is saved."""

    def _restored(self, args: Any, state: Any) -> Any:
        """What was saved in the checkpoint that the run resumes from; None without one."""
        folder = getattr(self.trainer, "resumed_from", None)  # which a Trainer of another kind does not tell
        kept = Path(folder) / self.file if folder else self._kept(args, state)
        if not kept.is_file():
            return None
        with loading(kept.parent):
            return torch.load(kept)

    def _kept(self, args: Any, state: Any) -> Path:
        return Path(args.output_dir) / f"checkpoint-{state.global_step}" / self.file

    def close(self) -> None:
        """Undo the tracker's changes to the model; SymNoise Trainers also call it when training fails."""

    def _log(self, values: Mapping[str, float]) -> None:
        log_at_once(self.trainer, values)


class NoiseTracker(Tracker):
    """Log the realised noise and its effect on the loss, for SymNoise Trainers with noise.

    Over all micro-batches of the watched steps on this process:

    - noise/mean_square_norm: ‖ε‖² per document and side; noise/predicted_mean_square_norm is α²v c² (claim M1). If
      `where` excludes tokens, both are for a document with noise on all tokens.
    - noise/mean: mean of ε's coordinates; 0 up to the order of summation for a mirrored pair (M3).
    - noise/kurtosis: kurtosis of ε's coordinates, each divided by its own scale.
    - noise/signal_to_noise: root mean square of the embeddings over that of the noise, on tokens with noise.
    - noise/alpha: α of the step, after the schedule.
    - noise/loss, noise/clean_loss, noise/loss_excess: the step's training loss, that of the same batches without noise,
      and their difference, averaged over processes. The clean loss costs an extra forward.

    Args:
        every: Optimizer steps between watched steps.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Check that the Trainer has noise."""
        super().on_train_begin(args, state, control)
        if getattr(self.trainer, "noise", None) is None:
            raise InputError("NoiseTracker needs a SymNoise Trainer with noise; leave it out of the plain arm")

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start watching if the step is due."""
        if state.global_step % self.every == 0:
            self._sums = torch.zeros(6, dtype=torch.float64)
            self._losses = torch.zeros(2, dtype=torch.float64)
            self._micro_steps = 0
            self.trainer.observer = self

    def draw(self, epsilon: Tensor, embeddings: Tensor, lengths: Tensor) -> None:
        """Add one draw to the sums."""
        noised = lengths != 0
        sides = epsilon.numel() // (lengths.numel() * epsilon.shape[-1])
        if sides == 2:
            rows = epsilon.shape[0] != lengths.shape[0]
            lengths = lengths.repeat_interleave(2, 0) if rows else torch.cat([lengths, lengths], 1)
            noised = lengths != 0
        values, per_token = epsilon[noised].double(), lengths[noised].double()
        standard = values.square() * per_token[:, None]  # ε²·L: the same law for every token
        self._sums += torch.stack(
            [
                values.square().sum(),
                (1 / per_token).sum(),  # documents: each token is one L-th of one
                values.sum(),
                torch.tensor(values.numel(), dtype=torch.float64, device=values.device),
                standard.square().mean() / standard.mean().square() * values.numel(),
                embeddings[noised].double().square().sum(),
            ]
        ).cpu()

    def losses(self, noisy: Tensor, clean: Tensor | None, *, averaged: bool) -> None:
        """Add the losses of a micro-batch; `averaged`: a step's loss is their mean, not their sum."""
        self._losses += torch.stack([noisy, torch.zeros_like(noisy) if clean is None else clean]).double().cpu()
        self._micro_steps += clean is not None
        self._averaged = averaged

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Log what was watched."""
        if self.trainer.observer is not self:
            return
        self.trainer.observer = None
        noise, fraction = self.trainer.noise, self.trainer.attached(self.trainer.model).options.fraction
        alpha = noise.alpha * fraction(state.global_step - 1)
        square, documents, total, count, kurtosis, signal = self._sums.tolist()
        losses = self._losses / (self._micro_steps if self._averaged else 1)
        noisy, clean = self.trainer.accelerator.reduce(losses.float().to(args.device), "mean").tolist()
        self._log(
            {
                "noise/mean_square_norm": square / documents if documents else 0.0,
                "noise/predicted_mean_square_norm": (noise.calibration * alpha) ** 2 * law(noise.law).variance,
                "noise/mean": total / count if count else 0.0,
                "noise/kurtosis": kurtosis / count if count else math.nan,
                "noise/signal_to_noise": math.sqrt(signal / square) if square else math.inf,
                "noise/alpha": alpha,
                "noise/loss": noisy,
                "noise/clean_loss": clean,
                "noise/loss_excess": noisy - clean,
            }
        )

    def close(self) -> None:
        """Stop watching."""
        if self.trainer is not None and getattr(self.trainer, "observer", None) is self:
            self.trainer.observer = None


class NormTracker(Tracker):
    """Log the norms ‖E_i‖ of the rows of the embedding table, at the start and every `every` steps.

    - embedding_norm/all_mean, embedding_norm/all_rms: over all rows.
    - embedding_norm/used_mean, embedding_norm/used_rms: over the rows that batches on the first process have used so
      far; embedding_norm/used_rows counts them. The table's padding row is excluded.

    Norms in float32 or better, means in float64; of the stored table, without Gemma's √d.

    Args:
        every: Optimizer steps between logs.
    """

    file = "used_rows.pt"

    def __init__(self, every: int = 10) -> None:
        super().__init__(every)
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Start counting rows, or resume; log the norms that training starts from."""
        super().on_train_begin(args, state, control)
        self.close()
        self._table: Any = find_target(model).embedding
        kept = self._restored(args, state)
        self._used = torch.zeros(len(self._row_norms()), dtype=torch.bool) if kept is None else kept
        self._hook = self._table.register_forward_pre_hook(torch.compiler.disable(self._count))
        if state.global_step == 0:
            self._report()

    def _state(self) -> Tensor:
        """The rows used so far."""
        return self._used.cpu()

    def _count(self, module: Any, args: tuple[Any, ...]) -> None:
        if module.training and args and not args[0].is_floating_point():
            if self._used.device != args[0].device:
                self._used = self._used.to(args[0].device)
            self._used[args[0].flatten()] = True

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Log if the step is due."""
        if state.global_step % self.every == 0:
            self._report()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop counting rows."""
        self.close()

    def close(self) -> None:
        """Stop counting rows."""
        if self._hook is not None:
            self._hook.remove()
        self._hook = None

    def _row_norms(self) -> Tensor:
        weight = self._table.weight.detach()
        if hasattr(self._table, "token_indices"):  # PEFT's trainable tokens, kept apart from the table
            weight = self._table.get_merged_weights(self._table.active_adapters).detach()
        if hasattr(self._table, "get_delta_weight"):  # LoRA on the table: lookups differ from the stored weights
            weight = weight + sum(self._table.get_delta_weight(name).detach() for name in self._table.active_adapters)
        norms = torch.linalg.vector_norm(weight, dim=1, dtype=torch.promote_types(weight.dtype, torch.float32))
        return norms.full_tensor() if hasattr(norms, "full_tensor") else norms  # FSDP2 shards the table

    def _report(self) -> None:
        norms = self._row_norms().double()
        used = self._used.to(norms.device).clone()
        padding = getattr(self._table, "padding_idx", None)
        if padding is not None:
            used[padding] = False
        values = {}
        for name, chosen in (("all", norms), ("used", norms[used])):
            if len(chosen):
                values[f"embedding_norm/{name}_mean"] = float(chosen.mean())
                values[f"embedding_norm/{name}_rms"] = float(chosen.square().mean().sqrt())
        self._log({**values, "embedding_norm/used_rows": int(used.sum())})


class CurvatureTracker(Tracker):
    """Log tr H of a fixed probe batch, at the start and every `every` steps, within a time budget.

    - curvature/trace, curvature/trace_stderr: mean over the batch's examples of tr ∇²ℓ(X), with the standard error from
      the probes, which are the same each time.
    - curvature/change, curvature/change_stderr: that mean minus its value at the start, with the error of the
      difference, far smaller than the trace's own while the weights have not moved far (`symnoise.DynamicTrace`).
    - curvature/seconds: time of the measurement.

    Runs on process 0. Checkpoints hold what was measured at the start, for a run that resumes from them; from one
    without it, the first measurement is the start, and from one of another batch or seed they refuse to go on. With
    FSDP or DeepSpeed, whose weights are sharded, measure checkpoints instead.

    Args:
        batch: input_ids, attention_mask, labels; small, since this costs about three forwards per probe and more
            memory.
        every: Optimizer steps between measurements.
        probes: Random directions per example, 4 or more.
        start_probes: More of them at the start.
        seed: Random seed of the probes.
        budget: Seconds for the whole run, before and after it is resumed. If the next measurement would exceed it,
            assuming that it takes as long as the last, tracking ends with a warning.

    Raises:
        InputError: For fewer than 4 probes or fewer than `probes` at the start.
    """

    file = "curvature_start.pt"

    def __init__(
        self,
        batch: Mapping[str, Tensor],
        every: int = 100,
        *,
        probes: int = 4,
        start_probes: int = 16,
        seed: int = 0,
        budget: float = 300.0,
    ) -> None:
        super().__init__(every)
        self.batch, self.budget = dict(batch), budget
        self._along = DynamicTrace(probes, start_probes, seed)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure the model that training starts from, or resume."""
        super().on_train_begin(args, state, control)
        if self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled:
            raise InputError("CurvatureTracker needs whole weights; with FSDP or DeepSpeed measure saved checkpoints")
        # From the log and not from a file of ours, so that the files of a checkpoint do not depend on a clock.
        seconds = [line["curvature/seconds"] for line in state.log_history if "curvature/seconds" in line]
        self._spent, self._last, self._over = sum(seconds), seconds[-1] if seconds else 0.0, False
        kept = self._restored(args, state) or {}
        self._along.load_state_dict(kept)
        if kept and state.is_world_process_zero:  # now, not at the next measurement
            self._along.require_start(self._loss(model))
        if state.global_step == 0:
            self._measure(model, state)

    def _state(self) -> dict[str, Tensor]:
        """What was measured at the start; empty before that."""
        return self._along.state_dict()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Measure if the step is due."""
        if state.global_step % self.every == 0:
            self._measure(model, state)

    def _loss(self, model: Any) -> EmbeddingLoss:
        outer: Any = find_target(model).model
        if getattr(getattr(outer, "active_peft_config", None), "is_prompt_learning", False):
            raise InputError("CurvatureTracker does not measure prompt tuning: what is trained is no part of the model")
        inner = outer.get_base_model() if hasattr(outer, "get_base_model") else outer
        return EmbeddingLoss(inner, self.batch)

    def _measure(self, model: Any, state: Any) -> None:
        if self._over or not state.is_world_process_zero:
            return
        if self._spent + self._last > self.budget:
            self._over = True
            warnings.warn(
                f"curvature tracking ends at step {state.global_step}: its {self.budget} s are spent", stacklevel=2
            )
            return
        start = time.perf_counter()
        found = self._along.measure(self._loss(model))
        self._last = time.perf_counter() - start
        self._spent += self._last
        trace, change = found.trace.mean(), found.change.mean()
        self._log(
            {
                "curvature/trace": float(trace.value),
                "curvature/trace_stderr": float(trace.stderr),
                "curvature/change": float(change.value),
                "curvature/change_stderr": float(change.stderr),
                "curvature/seconds": self._last,
            }
        )
