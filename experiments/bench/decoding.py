"""Replies in batches, as a study decodes them, compared with Transformers' `generate` one prompt at a time.

    python -m experiments.bench.decoding       # SmolLM2, 16 prompts, 32 new tokens; results/bench/decoding.csv

Every round decodes the same prompts both ways, one after the other; a ratio is the median over rounds of the ratio of
tokens per second. Padding changes sums by rounding, so a near tie between two tokens may fall the other way:
`same` is the share of prompts whose replies are equal.
"""

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import typer

from experiments.bench.process import Kept
from experiments.study.generate import BATCH, decoding, greedy, prompt_ids
from result_schema.bad_input import one_line_on_bad_input
from symnoise.core import InputError, progress_shown, track
from symnoise.data import load_data, usable
from symnoise.models import LoadedModel, load_model

LONGEST, PENALTIES = 96, (1.0, 1.2)  # tokens of a conversation; of the studies


def main(
    model: str = "smollm2",
    data: str = "chitchat",
    new_tokens: int = 32,
    rounds: int = 3,
    output: Path = Path("results/bench/decoding.csv"),
) -> None:
    """Decode both ways, and print and write the table."""
    source = load_model(model)
    rows = usable(list(load_data(data, limit=4 * BATCH)), source.tokenizer, max_length=LONGEST, model=source.model)
    if len(rows) < BATCH:
        raise InputError(f"{data}: {len(rows)} rows fit {LONGEST} tokens, not {BATCH}; give more or shorter rows")
    prompts, kept = prompt_ids(source, rows[:BATCH]), Kept(output)
    options = {"model": model, "data": data, "new_tokens": new_tokens, "rounds": rounds}
    with progress_shown():
        records = [
            kept.row(partial(compared, source, prompts, new_tokens, penalty, rounds), penalty=penalty, **options)
            for penalty in PENALTIES
        ]
    frame = kept.table(records)
    for row in frame.to_dict("records"):
        print(
            f"{row['decoding']}: {row['tokens_per_second']:.0f} tokens/s, one at a time "
            f"{row['alone_tokens_per_second']:.0f}; ratio {row['ratio']:.2f}; {row['same']:.0%} of replies the same"
        )
    print(f"written to {output}")


def compared(
    source: LoadedModel, prompts: list[list[int]], new_tokens: int, penalty: float, rounds: int
) -> dict[str, Any]:
    """One decoding: medians over rounds."""

    def speed(batches: list[list[list[int]]]) -> tuple[float, list[list[int]]]:
        started = time.perf_counter()
        replies = [reply for batch in batches for reply in greedy(source, batch, new_tokens, penalty)]
        return sum(map(len, replies)) / (time.perf_counter() - started), replies

    together, alone, same = [], [], 0.0
    for _ in track(range(rounds), f"{decoding(penalty)}: rounds"):
        fast, replies = speed([prompts])
        slow, single = speed([[prompt] for prompt in prompts])
        together.append(fast)
        alone.append(slow)
        same = sum(a == b for a, b in zip(replies, single, strict=True)) / len(prompts)
    return {
        "decoding": decoding(penalty),
        "tokens_per_second": statistics.median(together),
        "alone_tokens_per_second": statistics.median(alone),
        "ratio": statistics.median(a / b for a, b in zip(together, alone, strict=True)),
        "same": same,
        "prompts": len(prompts),
        "new_tokens": new_tokens,
        "rounds": rounds,
    }


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
