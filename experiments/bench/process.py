"""Shared by the parts of the bench: model and batch, one process per row, rows kept, peak memory, malloc's setting.

Where there is a GPU, rows are measured on it, all in one process, since PyTorch counts the memory of each there.

python -m experiments.bench.process peers '{"method": "PyHessian", "retained": true}'     # one row, as JSON
"""

import gc
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.study.results import processor
from result_schema.files import read_json
from symnoise.core import InputError, generator, provenance, retained_heap, write_atomically, write_json
from symnoise.models import EmbeddingLoss, load_model

ROWS, TOKENS, SCORED = 4, 128, 48
ON_GPU = torch.cuda.is_available()  # then everything is measured there
DEVICE = "cuda" if ON_GPU else "cpu"
Row = dict[str, Any]
Call = Callable[[], Any]


def model_of(row: Row) -> Any:
    """SmolLM2 in float32; in a smoke run a random Llama that takes milliseconds. `depth`: its first layers alone."""
    if row["smoke"]:
        from transformers import LlamaConfig, LlamaForCausalLM

        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
        with torch.random.fork_rng(devices=[]):
            model = LlamaForCausalLM(LlamaConfig(vocab_size=99, num_key_value_heads=2, **sizes)).eval().to(DEVICE)
    else:
        model = load_model("smollm2", device=DEVICE).model
    if "depth" in row:
        model.model.layers = model.model.layers[: row["depth"]]
        model.config.num_hidden_layers = len(model.model.layers)
    return model


def batch(vocabulary: int, rows: int = ROWS, tokens: int = TOKENS, scored: int = SCORED) -> dict[str, torch.Tensor]:
    """Random ids, the last `scored` of each row scored: timing does not depend on the text."""
    ids = torch.randint(0, vocabulary, (rows, tokens), generator=generator(0, "bench"))
    labels = ids.clone()
    labels[:, :-scored] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def seconds(work: Call) -> float:
    """Wall-clock seconds of one call; a GPU has finished before and after it."""
    _wait()
    started = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


class Clock:
    """Times work in units of a plain forward pass, run before and after every repetition: a busy moment meets both.

    The model runs as it is, by the attention kernel of PyTorch's choice, also where a method needs another.
    """

    def __init__(self, loss: EmbeddingLoss) -> None:
        self._loss = loss
        self._forwards: list[float] = []

    def forward(self) -> None:
        """Without gradients, with logits at the scored positions."""
        self._loss.plain()

    def median(self, work: Call, repeats: int) -> tuple[float, float]:
        """Median seconds of `work`, and the median of its ratios to the mean of the two forwards around it."""
        times, ratios = [], []
        self._forwards.append(seconds(self.forward))
        for _ in range(repeats):
            times.append(seconds(work))
            self._forwards.append(seconds(self.forward))
            ratios.append(times[-1] / statistics.mean(self._forwards[-2:]))
        return statistics.median(times), statistics.median(ratios)

    @property
    def forward_s(self) -> float:
        """Median seconds of the forwards."""
        return statistics.median(self._forwards)


@contextmanager
def measured(retained: bool, forward: Call) -> Iterator[Row]:
    """Within the block memory is measured; yields a record that afterwards holds `malloc` and `memory_gib`.

    Memory is the peak resident set above what the process held after a first forward, read from Linux's /proc; on a GPU
    that of PyTorch's tensors.
    retained: tell glibc to keep freed memory, as every function of symnoise does by itself; else it is left as found.
    """
    forward()
    before = _start_of_peak()
    record: Row = {}
    with retained_heap() if retained else nullcontext("as found") as heap:
        forward()
        record["malloc"] = heap
        yield record
    # The kernel's two counters are some pages apart, so that a block that needs nothing may come out below zero.
    record["memory_gib"] = max(_peak() - before, 0) / 1024**2


def _start_of_peak() -> float:
    """What is held now, KiB; the peak starts again from there, so that loading does not count."""
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 1024
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _peak() -> float:
    """The most that was held since `_start_of_peak`, KiB."""
    return torch.cuda.max_memory_allocated() / 1024 if ON_GPU else _status("VmHWM")


def _status(field: str) -> int:
    """A memory figure of this process, KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


class Kept:
    """Rows of a table that are measured once: each is kept as soon as it is there, for a run that is started again.

    They are in the file TABLE.rows.json next to the table, with the facts that all of them share. Delete it to measure
    them again. Rows of other facts are replaced if their table is finished; else nothing is lost or mixed.

    Args:
        table: The CSV file that the part writes.
        say: Tells the user that there are rows already.

    Raises:
        InputError: If an unfinished table has rows of another version, commit, processor or number of threads.
    """

    def __init__(self, table: Path, say: Callable[[str], None] = print) -> None:
        self._table, self._file = table, table.with_suffix(".rows.json")
        self._facts = facts()
        self._rows: dict[str, Any] = {}
        if not self._file.is_file():
            return
        found = read_json(self._file, "run the bench")
        pairs = {name: (found["facts"].get(name), now) for name, now in self._facts.items()}
        changed = "; ".join(f"{name} {then}, now {now}" for name, (then, now) in pairs.items() if then != now)
        if changed and not found["finished"]:
            raise InputError(f"{self._file} holds rows of {changed}: delete it to measure all rows again")
        if not changed:
            self._rows = found["rows"]
            count = len(self._rows)
            say(f"{table.name}: {count} of its rows were kept by an earlier run; to measure again, delete {self._file}")

    def row(self, measure: Callable[[], Any], **key: Any) -> Any:
        """The row that `key` names, from `measure()` unless it is there; in JSON's types."""
        name = json.dumps(key, sort_keys=True)
        if name not in self._rows:
            self._rows[name] = measure()
            self._write(finished=False)
        return self._rows[name]

    def in_process(self, part: str, row: Row) -> Row:
        """`in_process(part, row)`, unless it is there."""
        return self.row(partial(in_process, part, row), part=part, **row)

    def table(self, records: list[Row]) -> pd.DataFrame:
        """Write the finished table."""
        frame = pd.DataFrame(records)
        write_atomically(self._table, lambda temporary: frame.to_csv(temporary, index=False))
        self._write(finished=True)
        return frame

    def _write(self, *, finished: bool) -> None:
        write_json(self._file, {"facts": self._facts, "finished": finished, "rows": self._rows})


def facts() -> dict[str, Any]:
    """What all rows of a table must share."""
    made = provenance()
    versions = {name: made["versions"][name] for name in ("symnoise", "torch", "transformers")}
    return {**versions, "commit": made["commit"], "processor": processor(), "threads": torch.get_num_threads()}


def measured_here(part: str, row: Row) -> Row:
    """`measure(row)` of `experiments.bench.PART`."""
    return importlib.import_module(f"experiments.bench.{part}").measure(row)


def in_process(part: str, row: Row) -> Row:
    """`measured_here` in a process of its own, unless there is a GPU; what it says on failure is passed on."""
    if ON_GPU:
        gc.collect()  # the models of the row before
        return measured_here(part, row)
    command = [sys.executable, "-m", "experiments.bench.process", part, json.dumps(row)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{part} {row} failed with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(measured_here(sys.argv[1], json.loads(sys.argv[2]))))
