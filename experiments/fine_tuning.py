"""One small fine-tuning arm: train with a noise, measure before, along the way and after."""

import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from symnoise.core import InputError, track
from symnoise.curvature import finite_curvature, trace_parts
from symnoise.data import collate, encode, encode_row, load_data, usable
from symnoise.models import EmbeddingLoss, load_model
from symnoise.noise import Noise


@dataclass(frozen=True)
class Setting:
    """What every arm shares: the model before training, its training rows, held-out batches and probe examples.

    used: the token ids that occur in the training rows; the norms of their embeddings are followed.
    """

    model: Any
    tokenizer: Any
    rows: list[dict[str, list[int]]]
    held_out: list[dict[str, Tensor]]
    probe: dict[str, Tensor]
    used: Tensor

    @staticmethod
    def of(settings: dict[str, Any]) -> "Setting":
        """Held-out rows come first in the data and are never trained on."""
        options, source = settings["training"], load_model(settings["model"])
        model, tokenizer, length, size = source.model, source.tokenizer, options["max_length"], options["batch"]
        wanted = options["held_out"] + options["rows"]
        pool = list(load_data(settings["data"]))[: 8 * wanted]
        chosen = usable(pool, tokenizer, max_length=length, model=model)[:wanted]
        if len(chosen) < wanted:
            raise InputError(f"{settings['data']}: too few rows fit {length} tokens; raise training.max_length")
        held_out, training = chosen[: options["held_out"]], chosen[options["held_out"] :]
        rows = [encode_row(example, tokenizer, max_length=length, model=model) for example in training]
        return Setting(
            model=model,
            tokenizer=tokenizer,
            rows=rows,
            held_out=[
                encode(held_out[i : i + size], tokenizer, max_length=length, model=model)
                for i in range(0, len(held_out), size)
            ],
            probe=encode(held_out[: options["curvature_examples"]], tokenizer, max_length=length, model=model),
            used=torch.tensor(sorted({token for row in rows for token in row["input_ids"]})),
        )


def measure_start(settings: dict[str, Any]) -> dict[str, Any]:
    """Curvature of the probe examples before training, which is the same for all arms."""
    setting = Setting.of(settings)
    measured = curvature(setting.model, setting.probe, settings["training"], settings["seed"])
    arms = settings["training"]["arms"]
    return {
        "rows": [],
        "tables": {"curvature by arm": [{"arm": a, "when": "before", **m} for m in measured for a in arms]},
    }


def fine_tune(arm: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train one arm and return its tables: held-out loss and embedding norms along the way, curvature at the end.

    All arms see the same rows in the same order. Curvature, and C(σ) at the training α, are measured on the first
    held-out rows with the same probes as at the start.
    """
    from transformers import PrinterCallback, TrainerCallback, TrainingArguments
    from transformers.utils import logging

    from symnoise.training.trainer import SymNoiseTrainer

    options, seed = settings["training"], settings["seed"]
    torch.manual_seed(seed)
    setting = Setting.of(settings)
    model, tokenizer = setting.model, setting.tokenizer
    curve: list[dict[str, Any]] = []

    class Curve(TrainerCallback):
        """Held-out loss and embedding norms at the start and every few steps."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.note(0)
            self.steps = track(range(state.max_steps), f"{arm}: training steps")
            next(self.steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            next(self.steps, None)  # moves the bar
            if state.global_step % options["evaluate_every"] == 0 or state.global_step == state.max_steps:
                self.note(state.global_step)

        def note(self, step: int) -> None:
            curve.append(
                {"arm": arm, "step": step, "held_out_loss": held_out_loss(model, setting.held_out)}
                | norms(model, setting.used)
            )

    folder = Path(tempfile.mkdtemp(prefix="symnoise-"))
    logging.set_verbosity_error()
    try:
        trainer = SymNoiseTrainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(folder),
                max_steps=options["steps"],
                per_device_train_batch_size=options["batch"],
                learning_rate=options["learning_rate"],
                weight_decay=0.0,  # decay shrinks the norms that are measured
                lr_scheduler_type="linear",
                seed=seed,
                data_seed=seed,
                use_cpu=True,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
            ),
            train_dataset=setting.rows,
            data_collator=lambda rows: collate(rows, tokenizer),
            callbacks=[Curve()],
            noise=Noise.named(arm, options["alpha"]),
            noise_seed=seed,
        )
        trainer.remove_callback(PrinterCallback)  # it prints a dictionary where a bar is enough
        output = trainer.train()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    after = [{"arm": arm, "when": "after", **record} for record in curvature(model, setting.probe, options, seed)]
    summary = {"arm": arm, "training_loss": output.training_loss, "training_seconds": output.metrics["train_runtime"]}
    if not math.isfinite(output.training_loss):
        summary["diverged"] = True
    return {"rows": [], "tables": {"curves": curve, "curvature by arm": after, "arms": [summary]}}


def held_out_loss(model: Any, batches: list[dict[str, Tensor]]) -> float:
    """Mean cross-entropy over all scored held-out tokens: sums first, one division last."""
    losses = [EmbeddingLoss(model, batch).token_losses() for batch in batches]
    return float(torch.cat(losses).double().mean())


def norms(model: Any, used: Tensor) -> dict[str, float]:
    """Mean embedding-row norm, of rows that the training text uses and of all."""
    rows = model.get_input_embeddings().weight.detach().double().norm(dim=1)
    rows = rows.full_tensor() if hasattr(rows, "full_tensor") else rows  # FSDP2 shards the table
    return {"used_row_norm": float(rows[used].mean()), "all_row_norm": float(rows.mean())}


def curvature(model: Any, probe: dict[str, Tensor], options: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """tr H, tr G and C(σ) at the training α of each probe example."""
    loss = EmbeddingLoss(model, probe)
    parts = trace_parts(loss, probes=options["probes"], seed=seed)
    sigma = Noise.neftune(options["alpha"]).sigma(loss.lengths.cpu(), loss.embeddings.shape[-1])
    C = finite_curvature(loss, sigma, draws=options["probes"] // 2, seed=seed)
    return [
        {"example": b, "quantity": name, "value": float(value[b]), "stderr": float(stderr[b]), "dof": dof}
        for name, value, stderr, dof in (
            ("tr H", parts.hessian.value, parts.hessian.stderr, parts.hessian.dof),
            ("tr G", parts.gauss_newton.value, parts.gauss_newton.stderr, parts.gauss_newton.dof),
            ("C(σ)", C.value, C.stderr, C.dof),
        )
        for b in range(len(loss.ids))
    ]
