"""Fine-tune one run: an arm at one α with one seed.

    python -m experiments.study.train STUDY.yaml symnoise_a10_s3
    accelerate launch --config_file experiments/configs/accelerate/fsdp2.yaml -m experiments.study.train …

Writes train.json, and the weights halfway, at the end and at the lowest held-out loss. Rerun the command to resume an
interrupted run from its last checkpoint, with the same result. Of several processes only the first writes.
"""

import json
import os
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from experiments.fine_tuning import norms
from experiments.study.base import base_model
from experiments.study.command import one_run, run_command
from experiments.study.divisor import DrawAtPairSize, PairAtDrawSize
from experiments.study.neighbours import R3FTrainer, WeightPairTrainer
from experiments.study.results import processor
from experiments.study.spec import OPTIMIZERS, Run, Study
from experiments.study.texts import held_out_batches, split, training_rows
from result_schema.study import ARMS
from symnoise.core import Diverged, InputError, peak_rss_mib, provenance, saving, write_json
from symnoise.finetune.callbacks import Periodic
from symnoise.finetune.engine import is_finished, make_trainer, train_to_end
from symnoise.finetune.held_out import held_out_loss, mean_of_processes
from symnoise.models.muted import muted
from symnoise.training import SymNoiseTrainer

TRAINERS: dict[str, type[SymNoiseTrainer]] = {
    "": SymNoiseTrainer,
    "r3f": R3FTrainer,
    "weight-pair": WeightPairTrainer,
    "draw-at-pair-size": DrawAtPairSize,
    "pair-at-draw-size": PairAtDrawSize,
}


def train(study: Study, run: Run, folder: Path) -> None:
    """Train, recording held-out loss and norms along the way; its status is "diverged" if a loss is not finite.

    train.json: train_loss and gradient_norm (over all weights) are means over the steps; seconds and peak_rss_mib are
    those of the first process. A resumed run counts the seconds up to its checkpoint.
    """
    with one_run(folder / run.name) if os.environ.get("RANK", "0") == "0" else nullcontext():
        _train(study, run, folder)


def _train(study: Study, run: Run, folder: Path) -> None:
    place, options, started = folder / run.name, study.training, time.perf_counter()
    arguments, steps = _arguments(study, run, place), study.steps(run.arm)
    source = base_model(study, folder)
    rows = training_rows(study, run.seed, source.tokenizer, source.model)
    trainer = make_trainer(
        source.model,
        source.tokenizer,
        rows,
        arguments,
        seed=run.seed,
        schedule=options.schedule,
        gradient_checkpointing=options.gradient_checkpointing,
        kind=TRAINERS[ARMS[run.arm].method],
        noise=run.noise,
        dials=run.dials,
    )
    curve = Curve(study, steps, place, trainer, source.tokenizer, rows, started)
    trainer.add_callback(curve)
    means, reason = _trained(trainer, curve)
    trainer.accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return
    shutil.rmtree(place / "trainer", ignore_errors=True)
    curve.hand_over()
    write_json(
        place / "train.json",
        {
            "run": run.name,
            "arm": asdict(ARMS[run.arm]),
            "status": "diverged" if reason else "done",
            "reason": reason,
            "batch": study.batch(run.arm),
            "processes": processes(),
            "data_sha256": split(study).data.sha256,
            "train_loss": means.get("loss"),
            "gradient_norm": means.get("grad_norm"),
            "seconds": curve.before + time.perf_counter() - started,
            "peak_rss_mib": peak_rss_mib(),
            "processor": processor(),
            "curve": [{key: value for key, value in point.items() if key != "seconds"} for point in curve.points],
            **provenance(),
        },
    )


def _trained(trainer: Any, curve: "Curve") -> tuple[dict[str, float], str]:
    """The means over the steps and "", or no means and why training stopped."""
    try:
        with muted():
            if is_finished(curve.place / "trainer", curve.steps):  # interrupted just before train.json was written
                curve.begin(curve.steps)
            return train_to_end(trainer), ""
    except Diverged as error:
        return {}, f"diverged: {error}"


def _arguments(study: Study, run: Run, place: Path) -> dict[str, Any]:
    """The arguments of the Trainer, whose checkpoints go to `place`/trainer."""
    options = study.training
    size, accumulation = parts(study.batch(run.arm), options.micro_batch, processes())
    return {
        "output_dir": str(place / "trainer"),
        "max_steps": study.steps(run.arm),
        "optim": OPTIMIZERS[options.optimizer],
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": options.learning_rate * ARMS[run.arm].rate,
        "weight_decay": 0.0,  # decay would shrink the norms that are measured
        "warmup_steps": options.warmup,
        "max_grad_norm": 1e9,  # no clipping, which would affect some arms more than others; norms are logged
        "bf16": options.precision == "bf16",
        "save_steps": options.save_every,
        "save_total_limit": 1,
        "logging_steps": 1,  # the loss of every step is kept in checkpoints
        "report_to": "none",
    }


def processes() -> int:
    """Number of training processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def parts(batch: int, micro_batch: int, processes: int) -> tuple[int, int]:
    """Rows per process at a time, and gradient-accumulation steps, for `batch` rows per step over all processes."""
    size = micro_batch or max(1, batch // processes)
    if batch % (size * processes):
        raise InputError(
            f"{batch} rows per step cannot be split over {processes} processes with {size} at a time; change the "
            "number of processes, or training.micro_batch"
        )
    return size, batch // (size * processes)


class Curve(Periodic):
    """Held-out loss and norms at the start, every few steps and at the end; weights are saved along the way.

    Points are written to curve.json as they are measured, so a run resumed from a checkpoint has them all.
    The loss is in float32; with FSDP it is in the precision of training.
    """

    def __init__(
        self,
        study: Study,
        steps: int,
        place: Path,
        trainer: Any,
        tokenizer: Any,
        rows: list[dict[str, list[int]]],
        started: float,
    ) -> None:
        super().__init__(study.training.evaluate_every, self._note)
        self.steps = steps
        self.options, self.place, self.trainer, self.tokenizer = study.training, place, trainer, tokenizer
        if trainer.is_deepspeed_enabled or (trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2):
            raise InputError("a study trains with DDP or FSDP2; see experiments/configs/accelerate/fsdp2.yaml")
        size = study.training.micro_batch or study.training.batch
        self.batches = [batch for _, batch in held_out_batches(study, tokenizer, trainer.model, size)]
        self.used = torch.tensor(sorted({token for row in rows for token in row["input_ids"]}))
        self.points: list[dict[str, Any]] = []
        self.started, self.before = started, 0.0  # of this process; seconds before it resumed

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After an optimizer step."""
        self.step(state.global_step)

    def begin(self, step: int) -> None:
        """At the start, or where training resumes from a checkpoint."""
        kept = self.place / "curve.json"
        if step and kept.is_file():
            self.points = [p for p in json.loads(kept.read_text(encoding="utf-8")) if p["step"] <= step]
            self.before = self.points[-1]["seconds"]
        else:
            super().begin(step)

    def step(self, step: int) -> None:
        """After an optimizer step."""
        last = self.steps
        if step % self.every == 0 or step in (last // 2, last):
            self.note(step)
        if step == last // 2:
            self.save("middle")
        if step == last:
            self.save("end")

    def _note(self, step: int) -> None:
        """Add a point to the curve; save the weights if its loss is the lowest so far."""
        size = norms(self.trainer.model, self.used)
        point = {"step": step, "held-out loss": self.loss()}
        point |= {"used-row norm": size["used_row_norm"], "all-row norm": size["all_row_norm"]}
        if all(point["held-out loss"] < other["held-out loss"] for other in self.points):
            self.save("best")
        self.points.append(point | {"seconds": self.before + time.perf_counter() - self.started})
        if self.trainer.is_world_process_zero():
            write_json(self.place / "curve.json", self.points)

    def loss(self) -> float:
        """The held-out loss, the same number on every process."""
        loss = held_out_loss(self.trainer.model, self.batches, sharded=self.trainer.is_fsdp_enabled)
        return mean_of_processes(self.trainer, loss)

    def save(self, name: str) -> None:
        """Save the current weights and the tokenizer; an interrupt leaves no partial files under their final name."""
        model, spread = self.trainer.model, self.trainer.is_fsdp_enabled
        weights = self.trainer.accelerator.get_state_dict(model) if spread else None  # gathered by all processes
        if not self.trainer.is_world_process_zero():
            return
        final, partial = self.place / "kept" / name, self.place / "kept" / f".{name}"
        shutil.rmtree(partial, ignore_errors=True)
        with muted(), saving(final):
            model.save_pretrained(partial, state_dict=weights)
            self.tokenizer.save_pretrained(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)

    def hand_over(self) -> None:
        """Move the saved weights to weights/, which exists only once training has finished."""
        shutil.rmtree(self.place / "weights", ignore_errors=True)
        (self.place / "kept").rename(self.place / "weights")


if __name__ == "__main__":
    run_command(train)()
