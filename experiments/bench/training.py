"""Cost of noise in training: time and memory against the same loop without it, and against Transformers' NEFTune.

    python -m experiments.bench.training       # SmolLM2, 4 rows of 128 tokens; results/bench/training.csv

Time: in one process, on one model with one optimizer, every round takes one step of each loop, in an order that
rotates; a ratio is the median over rounds of the loop's seconds over those of the plain step of its round
(`neftune_ratio`: of the NEFTune step). A step is forward, backward and AdamW; `gradient_ratio` leaves AdamW out,
which a pair does not double. Putting noise on the model, once in a run, is not timed. A draw takes milliseconds, which
are lost in a step's jitter: `noise_ms` is what it adds to a forward pass of the model without its layers.
Memory: each loop in a process of its own; the largest resident set after two steps, weights and all. With one
micro-batch a step the plain loop holds no gradients while activations are at their largest, and two passes hold those
of the first; with two (`memory_ratio_accumulated`) both loops do.
"""

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.optim import AdamW
from transformers import Trainer, TrainingArguments
from transformers.integrations.neftune import activate_neftune, deactivate_neftune

from experiments.bench.process import ROWS, TOKENS, Kept, batch
from result_schema.bad_input import one_line_on_bad_input
from symnoise.core import InputError, peak_rss_mib, progress_shown, track
from symnoise.models import load_model
from symnoise.noise import Noise
from symnoise.training.trainer import SymNoiseTrainer

ALPHA, MEMORY_STEPS, DRAWS = 5.0, 2, 200
PLAIN, NEFTUNE, UNPAIRED = "plain Trainer", "Transformers' NEFTune", "unpaired noise"
BF16 = "plain Trainer, bf16 autocast"
DOUBLED, TWO_PASS = "pair, one doubled batch", "pair, two passes"
# The noise and pair mode of each loop that is ours.
OURS = {
    UNPAIRED: (Noise.neftune(ALPHA), "doubled"),
    DOUBLED: (Noise.symnoise(ALPHA), "doubled"),
    TWO_PASS: (Noise.symnoise(ALPHA), "two-pass"),
}
LOOPS = (PLAIN, BF16, NEFTUNE, *OURS)
# What is promised: (loop, column, at most).
LIMITS = (
    (UNPAIRED, "time_ratio", 1.01),
    (UNPAIRED, "noise_share", 0.01),
    (UNPAIRED, "neftune_ratio", 1.0),
    (UNPAIRED, "neftune_noise_ratio", 1.0),
    (DOUBLED, "time_ratio", 2.03),
    (TWO_PASS, "memory_ratio", 1.05),
    (TWO_PASS, "memory_ratio_accumulated", 1.05),
)


class Bench:
    """One model, one optimizer, and a Trainer for each of `loops`."""

    def __init__(self, model: Any, loops: tuple[str, ...], folder: str) -> None:
        self.model, self.batch = model.train(), batch(model.config.vocab_size)
        self.optimizer = AdamW(model.parameters(), lr=1e-6)
        arguments = TrainingArguments(folder, report_to="none", use_cpu=True, disable_tqdm=True)
        self.trainers: dict[str, Any] = {}
        for loop in loops:
            if loop in OURS:
                noise, mode = OURS[loop]
                self.trainers[loop] = SymNoiseTrainer(model=model, args=arguments, noise=noise, pair_mode=mode)
                self.trainers[loop]._coupled = False  # tried once in a run, which is no part of a step
            else:
                self.trainers[loop] = Trainer(model=model, args=arguments)

    @contextmanager
    def noise(self, loop: str) -> Iterator[None]:
        """What the loop does once in a run: put its noise on the model, and take it off."""
        trainer = self.trainers[loop]
        if loop == NEFTUNE:
            handle = activate_neftune(self.model, ALPHA)
            yield
            deactivate_neftune(self.model, handle)
        elif loop in OURS:
            trainer.attached(self.model)
            yield
            trainer._detach()
        else:
            yield

    def step(self, loop: str, micro_batches: int = 1) -> tuple[float, float]:
        """Seconds of one training step, and those of them that the gradient took."""
        count = (self.batch["labels"][:, 1:] != -100).sum()
        with self.noise(loop):
            gc.collect()  # not in the middle of a step
            started = time.perf_counter()
            for _ in range(micro_batches):
                with torch.autocast("cpu", torch.bfloat16, enabled=loop == BF16):  # as the Trainer does with bf16=True
                    self.trainers[loop].training_step(self.model, dict(self.batch), num_items_in_batch=count)
            gradient = time.perf_counter() - started
            self.optimizer.step()
            self.optimizer.zero_grad()
            return time.perf_counter() - started, gradient


def times(bench: Bench, rounds: int, kept: Kept, **key: Any) -> dict[str, list[tuple[float, float]]]:
    """(step, gradient) seconds of every loop in every round; a round before the first one here warms up."""
    warm = False

    def one(i: int) -> dict[str, tuple[float, float]]:
        nonlocal warm
        if not warm:
            warm = True
            one(i - 1)
        return {loop: bench.step(loop) for loop in LOOPS[i % len(LOOPS) :] + LOOPS[: i % len(LOOPS)]}

    taken = [kept.row(partial(one, i), round=i, **key) for i in track(range(rounds), "rounds")]
    return {loop: [measured[loop] for measured in taken] for loop in LOOPS}


def draws(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """Milliseconds that noise adds to a forward pass of the model without its layers, in every round."""
    layers, model = bench.model.base_model.layers, bench.model
    inputs = {key: bench.batch[key] for key in ("input_ids", "attention_mask")}
    taken: dict[str, list[float]] = {loop: [] for loop in (PLAIN, NEFTUNE, UNPAIRED)}
    model.base_model.layers = layers[:0]
    try:
        for i in range(rounds):
            for loop in taken:
                with bench.noise(loop), torch.no_grad():
                    if loop in OURS:
                        bench.trainers[loop].attached(model).at(i)
                    started = time.perf_counter()
                    model(**inputs, logits_to_keep=1)
                    taken[loop].append(1e3 * (time.perf_counter() - started))
    finally:
        model.base_model.layers = layers
    return {
        loop: [t - plain for t, plain in zip(taken[loop], taken[PLAIN], strict=True)] for loop in (NEFTUNE, UNPAIRED)
    }


def table(
    taken: dict[str, list[tuple[float, float]]], added: dict[str, list[float]], memory: dict[tuple[str, int], float]
) -> list[dict[str, Any]]:
    """One row a loop: medians over rounds of ratios within a round, with standard errors."""
    plain_ms = 1e3 * statistics.median(step for step, _ in taken[PLAIN])
    records = []
    for loop in LOOPS:
        record: dict[str, Any] = {"loop": loop}
        for column, against, part in (
            ("time_ratio", PLAIN, 0),
            ("neftune_ratio", NEFTUNE, 0),
            ("gradient_ratio", PLAIN, 1),
        ):
            ratios = [mine[part] / other[part] for mine, other in zip(taken[loop], taken[against], strict=True)]
            record[column], record[f"{column}_stderr"] = _median(ratios)
        if loop in added:
            record["noise_ms"], record["noise_ms_stderr"] = _median(added[loop])
            record["noise_share"] = record["noise_ms"] / plain_ms
            record["noise_share_stderr"] = record["noise_ms_stderr"] / plain_ms
            ratios = [mine / other for mine, other in zip(added[loop], added[NEFTUNE], strict=True)]
            record["neftune_noise_ratio"], record["neftune_noise_ratio_stderr"] = _median(ratios)
        records.append(
            {
                **record,
                "memory_ratio": memory[loop, 1] / memory[PLAIN, 1],
                "memory_ratio_accumulated": memory[loop, 2] / memory[PLAIN, 2] if (loop, 2) in memory else None,
                "peak_rss_mib": memory[loop, 1],
                "step_seconds": statistics.median(step for step, _ in taken[loop]),
                "rounds": len(taken[loop]),
                "threads": torch.get_num_threads(),
            }
        )
    return records


def _median(values: list[float]) -> tuple[float, float]:
    """The median, and its standard error 1.253·s/√n with s = interquartile range/1.349, as for a normal law."""
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, 1.253 * (high - low) / 1.349 / len(values) ** 0.5


def verdicts(records: list[dict[str, Any]]) -> list[tuple[str, float, float, str]]:
    """(what, measured, limit, verdict) of each promise; undecided within two standard errors of the limit."""
    by_loop, found = {record["loop"]: record for record in records}, []
    for loop, column, limit in LIMITS:
        measured, stderr = (by_loop[loop].get(name, 0.0) for name in (column, f"{column}_stderr"))
        close = abs(measured - limit) <= 2 * stderr
        word = "undecided" if close else "kept" if measured <= limit else "NOT KEPT"
        found.append((f"{loop}, {column.replace('_', ' ')}", measured, limit, word))
    return found


def peak(loop: str, micro_batches: int, model: str) -> float:
    """Largest resident set, MiB, of a process that loads the model and takes a few steps of `loop`."""
    options = ["--loop", loop, "--micro-batches", str(micro_batches), "--model", model]
    command = [sys.executable, "-m", "experiments.bench.training", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"the memory of {loop!r} could not be measured: {done.stderr.strip()[-3000:]}")
    return float(json.loads(done.stdout.splitlines()[-1])["peak_rss_mib"])


def main(
    loop: str = "",
    micro_batches: int = 1,
    model: str = "smollm2",
    rounds: int = 12,
    output: Path = Path("results/bench/training.csv"),
) -> None:
    """Measure every loop and print the table; with --loop, the memory of that one alone, as JSON."""
    with tempfile.TemporaryDirectory(prefix="symnoise-bench-") as folder:
        if loop:
            alone = Bench(load_model(model).model, (loop,), folder)
            for _ in range(MEMORY_STEPS):
                alone.step(loop, micro_batches)
            print(json.dumps({"loop": loop, "peak_rss_mib": peak_rss_mib()}))
            return
        with progress_shown():
            cases = [*((name, 1) for name in LOOPS), (PLAIN, 2), (TWO_PASS, 2)]
            kept = Kept(output)
            memory = {
                case: kept.row(partial(peak, *case, model), memory=case, model=model)
                for case in track(cases, "memory, in processes of their own")
            }
            bench = Bench(load_model(model).model, LOOPS, folder)
            taken = times(bench, rounds, kept, model=model)
            added = kept.row(partial(draws, bench, DRAWS), draws=DRAWS, model=model)
    records = table(taken, added, memory)
    kept.table(records)
    _show(records, model)
    print(f"written to {output}")


def _show(records: list[dict[str, Any]], model: str) -> None:
    console = Console()
    shown = Table(
        expand=True, title=f"{model}, float32, {ROWS} rows of {TOKENS} tokens; {torch.get_num_threads()} threads"
    )
    numbers = {"time_ratio": 3, "gradient_ratio": 3, "noise_ms": 1, "memory_ratio": 3, "memory_ratio_accumulated": 3}
    numbers |= {"step_seconds": 2}
    shown.add_column("", min_width=max(map(len, LOOPS)))
    for column in numbers:
        shown.add_column(column.replace("_", " ").replace("ratio accumulated", "ratio, two micro-batches"))
    for record in records:
        values = [(record.get(column), decimals) for column, decimals in numbers.items()]
        shown.add_row(str(record["loop"]), *("" if v is None else f"{v:.{decimals}f}" for v, decimals in values))
    console.print(shown)
    for what, measured, limit, verdict in verdicts(records):
        console.print(f"{verdict}: {what}: {measured:.3g}, at most {limit:g}", highlight=False)


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
