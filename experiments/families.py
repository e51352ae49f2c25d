"""Curvature and the size of the noise in models of several families, on the same rows.

    python -m experiments.families --data tatsu-lab/alpaca smollm2
    python -m experiments.families --data tatsu-lab/alpaca google/gemma-3-270m
    python -m experiments.families --data alpaca.jsonl --file gemma.gguf google/gemma-3-270m    # a local copy

Writes results/families/NAME.json; `python -m analysis.families results/families` makes the page of all of them.
"""

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from experiments.rows import first_usable
from result_schema.bad_input import one_line_on_bad_input
from symnoise.core import progress_shown, provenance, track, write_json
from symnoise.curvature import TraceParts, trace_parts
from symnoise.data import encode, load_data
from symnoise.models import EmbeddingLoss, load_model
from symnoise.training.advice import token_ratios

ROWS, TOKENS, PROBES = 4, 96, 16
ALPHAS = (1.0, 5.0, 10.0, 15.0)


def measure(model: str, data: str, file: str = "") -> dict[str, Any]:
    """tr H, tr G and tr R, means over the rows with the error of the probes; and r at each α, median over tokens.

    Args:
        model: Hub id, or `smollm2`; names the model in the record.
        data: The text, whose first `ROWS` rows that fit in `TOKENS` tokens are measured.
        file: Local file of the model, instead of the hub's.
    """
    started, loaded, text = time.perf_counter(), load_model(file or model), load_data(data)
    rows = first_usable(list(text), ROWS, loaded.tokenizer, loaded.model, TOKENS, data=data, key="TOKENS")
    traces, ratios = [], []
    for k in track(range(ROWS), "rows"):
        loss = EmbeddingLoss(
            loaded.model, encode(rows[k : k + 1], loaded.tokenizer, max_length=TOKENS, model=loaded.model), [k]
        )
        traces.append(trace_parts(loss, probes=PROBES, precision="float32"))
        ratios.append(token_ratios(loss))
    parts = TraceParts.joined(traces)
    means = {"tr H": parts.hessian.mean(), "tr G": parts.gauss_newton.mean(), "tr R": parts.rest.mean()}
    points: list[dict[str, Any]] = [
        {"quantity": name, "value": float(mean), "stderr": float(mean.stderr)} for name, mean in means.items()
    ]
    middle = float(torch.cat(ratios).median())
    points += [{"quantity": "r", "alpha": alpha, "value": alpha * middle} for alpha in ALPHAS]
    facts = {"model": model, "class": type(loaded.model).__name__, "parameters": loaded.model.num_parameters()}
    facts |= {"rows": ROWS, "tokens": TOKENS, "probes": PROBES, "data_sha256": text.sha256}
    return facts | {"points": points, "seconds": time.perf_counter() - started, **provenance()}


def main(
    model: Annotated[str, typer.Argument(help="Hub id, or smollm2.")],
    data: Annotated[str, typer.Option(help="Data set on the Hub, or a file of rows.")] = "tatsu-lab/alpaca",
    file: Annotated[str, typer.Option(help="Local file or folder of the model.")] = "",
    output: Annotated[Path, typer.Option(help="Folder of the records.")] = Path("results/families"),
) -> None:
    """Measure one model."""
    with progress_shown():
        write_json(output / f"{model.split('/')[-1].lower()}.json", measure(model, data, file))


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
