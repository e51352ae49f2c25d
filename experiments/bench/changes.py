"""Probes that a change of tr H along training takes, fresh at each checkpoint ÷ the same throughout (`DynamicTrace`).

    python -m experiments.bench.changes        # SmolLM2, four held-out rows; results/bench/changes.csv

The model is fine-tuned as in the study `smollm2`, without noise: AdamW at a learning rate of 1e-4 falling linearly to 0
over 48 steps of 8 rows. For each checkpoint, with zᵀH_jz of the same probes z at all checkpoints, the ratio is

    Var zᵀH_jz + Var zᵀH_iz over Var(zᵀH_jz − zᵀH_iz),

variances over probes, summed over rows: the probes per checkpoint that a given error of the change takes, fresh over
the same. i is the checkpoint before (`latest_ratio`) or the start (`change_ratio`). `trace_ratio` is the variance of
the trace from these probes alone over that with the start's. 95 % intervals: the logarithm's jackknife over probes.
"""

import math
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.bench.process import Kept, batch, model_of
from experiments.rows import first_usable
from result_schema.bad_input import one_line_on_bad_input
from symnoise.core import jackknife, progress_shown, track
from symnoise.curvature import DynamicTrace
from symnoise.data import encode, load_data
from symnoise.models import EmbeddingLoss, load_model

STEPS, ROWS, HELD_OUT, TOKENS, RATE = 48, 8, 4, 128, 1e-4
CHECKPOINTS = (1, 2, 4, 8, 12, 16, 24, 32, 40, 48)
PROBES = 31  # prime, so that Taylor mode keeps every probe apart


def ratio(here: Tensor, there: Tensor) -> tuple[float, float, float]:
    """(ratio, low, high) of the variances of fresh and of paired differences of (probe, row) forms."""

    def logarithm(chosen: Tensor) -> Tensor:
        a, b = here[chosen], there[chosen]
        return ((a.var(0) + b.var(0)).sum() / (a - b).var(0).sum()).log()

    found = jackknife(logarithm, len(here))
    low, high = found.interval()
    return tuple(math.exp(float(value)) for value in (found.value, low, high))  # type: ignore[return-value]


def run(
    model: Any, training: list[dict[str, Tensor]], held_out: dict[str, Tensor], kept: Kept, smoke: bool
) -> list[dict[str, Any]]:
    """One record a checkpoint. A run that is started again trains again, and measures what is not kept."""
    along, forms, records = DynamicTrace(PROBES, 4 * PROBES, method="taylor"), [], []
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)

    def measure(step: int) -> dict[str, Any]:
        found = along.measure(EmbeddingLoss(model.eval(), held_out))
        forms.append(along.state_dict()["last"])
        trace, change, latest = (estimate.mean() for estimate in (found.trace, found.change, found.latest))
        alone = forms[-1].var(0).sum().sqrt() / PROBES**0.5 / forms[-1].shape[1]
        record: dict[str, Any] = {"step": step, "trace": float(trace), "trace_stderr": float(trace.stderr)}
        record["trace_ratio"] = float(alone / trace.stderr) ** 2
        for name, estimate, since in (("change", change, 0), ("latest", latest, -2)):
            if step:
                record |= {name: float(estimate), f"{name}_stderr": float(estimate.stderr)}
                columns = (f"{name}_ratio", f"{name}_ratio_low", f"{name}_ratio_high")
                record |= dict(zip(columns, ratio(forms[-1], forms[since]), strict=True))
        state = {
            name: (str(value.dtype).removeprefix("torch."), value.tolist())
            for name, value in along.state_dict().items()
        }
        return {"record": record, "state": state}

    def note(step: int) -> None:
        found, before = kept.row(partial(measure, step), step=step, smoke=smoke), len(forms)
        if len(forms) == before:
            along.load_state_dict({name: _tensor(*value) for name, value in found["state"].items()})
            forms.append(along.state_dict()["last"])
        records.append(found["record"])

    note(0)
    for step in track(range(1, STEPS + 1), "steps"):
        model.train()(**training[step - 1]).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step in CHECKPOINTS:
            note(step)
    return records


def _tensor(dtype: str, values: list[Any]) -> Tensor:
    return torch.tensor(values, dtype=getattr(torch, dtype))


def material(smoke: bool) -> tuple[Any, list[dict[str, Tensor]], dict[str, Tensor]]:
    """The model, training batches and held-out rows; in a smoke run a tiny random model and random ids."""
    if smoke:
        model = model_of({"smoke": True})
        return model, [batch(model.config.vocab_size, ROWS, 12, 6)] * STEPS, batch(model.config.vocab_size, 2, 12, 6)
    loaded, wanted = load_model("smollm2"), HELD_OUT + ROWS * STEPS
    pool = list(load_data("chitchat", limit=4 * wanted))
    rows = first_usable(pool, wanted, loaded.tokenizer, loaded.model, TOKENS, data="chitchat", key="TOKENS")
    held_out, *training = (
        encode(rows[first:last], loaded.tokenizer, max_length=TOKENS)
        for first, last in pairwise((0, *range(HELD_OUT, wanted + 1, ROWS)))
    )
    return loaded.model, training, held_out


def main(smoke: bool = False, output: Path = Path("results/bench/changes.csv")) -> None:
    """Fine-tune, measure and print the table. --smoke: a tiny random model."""
    with progress_shown():
        kept = Kept(output)
        frame = kept.table(run(*material(smoke), kept, smoke))
    _show(frame)
    print(f"written to {output}")


def _show(frame: pd.DataFrame) -> None:
    table = Table(title="Probes for a given error, fresh ÷ the same at all checkpoints", title_justify="left")
    for name in ("step", "tr H", "÷", "since the start", "÷", "since the last", "÷"):
        table.add_column(name, justify="right")
    for row in frame.to_dict("records"):
        cells = [f"{row['step']}", f"{row['trace']:.1f} ± {row['trace_stderr']:.1f}", f"{row['trace_ratio']:.1f}"]
        for name in ("change", "latest"):
            if row["step"]:
                cells.append(f"{row[name]:.2f} ± {row[f'{name}_stderr']:.2f}")
                low, high = (row[f"{name}_ratio_{end}"] for end in ("low", "high"))
                cells.append(f"{row[f'{name}_ratio']:.1f} ({low:.1f} to {high:.1f})")
        table.add_row(*cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
