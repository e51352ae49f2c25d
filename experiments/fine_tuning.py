"""One small fine-tuning arm: train with a noise, measure before, along the way and after."""

import tempfile
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.rows import AMONG, first_usable
from symnoise.curvature import finite_curvature, trace_parts
from symnoise.data import encode, encode_row, load_data
from symnoise.finetune.callbacks import Periodic, StepBar
from symnoise.finetune.engine import make_trainer, train_to_end
from symnoise.finetune.held_out import held_out_loss
from symnoise.models import EmbeddingLoss, load_model
from symnoise.models.muted import muted
from symnoise.noise import Noise


@dataclass(frozen=True)
class Setting:
    """Shared by every arm: the model before training, its training rows, held-out batches and probe examples.

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
        pool = list(load_data(settings["data"]))[: AMONG * wanted]
        key = "training.max_length"
        chosen = first_usable(pool, wanted, tokenizer, model, length, data=settings["data"], key=key)
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


def fine_tune_arm(arm: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Train one arm and return its tables: held-out loss and embedding norms along the way, curvature at the end.

    All arms see the same rows in the same order. Curvature, and C(σ) at the training α, are measured on the first
    held-out rows with the same probes as at the start.
    """
    options, seed = settings["training"], settings["seed"]
    torch.manual_seed(seed)
    setting = Setting.of(settings)
    model, tokenizer = setting.model, setting.tokenizer
    curve: list[dict[str, Any]] = []

    def note(step: int) -> None:
        loss = {"held_out_loss": held_out_loss(model, setting.held_out)}
        curve.append({"arm": arm, "step": step} | loss | norms(model, setting.used))

    with muted(), tempfile.TemporaryDirectory(prefix="symnoise-") as folder:
        trainer = make_trainer(
            model,
            tokenizer,
            setting.rows,
            {
                "output_dir": folder,
                "max_steps": options["steps"],
                "per_device_train_batch_size": options["batch"],
                "learning_rate": options["learning_rate"],
                "use_cpu": True,
                "weight_decay": 0.0,  # decay shrinks the norms that are measured
                "save_strategy": "no",
                "logging_steps": 1,
                "report_to": "none",
            },
            seed=seed,
            schedule="linear",
            noise=Noise.named(arm, options["alpha"]),
        )
        trainer.add_callback(Periodic(options["evaluate_every"], note))
        trainer.add_callback(StepBar(f"{arm}: training steps"))
        started = time.perf_counter()
        loss = train_to_end(trainer)["loss"]
        seconds = time.perf_counter() - started
    after = [{"arm": arm, "when": "after", **record} for record in curvature(model, setting.probe, options, seed)]
    summary = {"arm": arm, "training_loss": loss, "training_seconds": seconds}
    return {"rows": [], "tables": {"curves": curve, "curvature by arm": after, "arms": [summary]}}


def norms(model: Any, used: Tensor) -> dict[str, float]:
    """Mean embedding-row norm, of rows that the training text uses and of all."""
    rows = model.get_input_embeddings().weight.detach().double().norm(dim=1)
    rows = rows.full_tensor() if hasattr(rows, "full_tensor") else rows  # FSDP2 shards the table
    return {"used_row_norm": float(rows[used].mean()), "all_row_norm": float(rows.mean())}


def curvature(model: Any, probe: dict[str, Tensor], options: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """tr H, tr G and C(σ) at the training α of each probe example."""
    loss = EmbeddingLoss(model, probe)
    parts = trace_parts(loss, probes=options["probes"], seed=seed, precision="float32")  # alike on every machine
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
