"""Speed and memory of curvature: ratios to a forward pass, comparison with peers, growth with problem size.

    python -m experiments.bench                    # all four parts, every row in its own process
    python -m experiments.bench peers growth       # some of them: ratios, peers, growth, plans
    python -m experiments.bench --smoke            # everything on a tiny random model, into smoke/: does it run?

    python -m analysis.figures results/bench       # then: the figure of growth, with its exponents

Writes bench.csv, peers.csv, growth.csv and plans.csv into results/bench. Every row is kept as soon as it is measured,
in bench.rows.json and so on; a run that was interrupted goes on from there, and to measure again delete that file. The
model is SmolLM2 in float32 on 4 rows of 128 tokens, 48 of them scored; a forward is without gradients, with logits at
the scored positions. Memory is the peak resident set above what the loaded model takes. Rows named "malloc as found"
leave the C library's setting alone; the others keep freed memory in the process, as every function of the library does
by itself. On a GPU all rows but plans are measured, in one process, into gpu/; memory is that of PyTorch's tensors, and
malloc has one setting. `make bench` runs this in an environment that has the peers; without them they are left out.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from experiments.bench import growth as bench_growth
from experiments.bench import peers as bench_peers
from experiments.bench import plans as bench_plans
from experiments.bench import ratios as bench_ratios
from experiments.bench.process import ON_GPU, ROWS, SCORED, TOKENS, Kept
from experiments.study.results import processor
from result_schema.bench import OWN
from symnoise.core import unknown


def main(
    parts: Annotated[list[str] | None, typer.Argument(help="some of ratios, peers, growth, plans")] = None,
    output: Path = Path("results/bench"),
    smoke: bool = False,
) -> None:
    """Run the parts and print their tables."""
    console = Console(width=100)
    if ON_GPU:
        output = output / "gpu"  # a reader of the tables compares with a processor's
    if smoke:
        output = output / "smoke"  # its points must not be taken for SmolLM2's

    def say(text: str) -> None:
        console.print(f"[dim]{text} …[/]", highlight=False)

    for part in parts or ():
        if part not in RUN:
            raise unknown("part", part, RUN)
    for part in parts or RUN:
        RUN[part](smoke, say, output, console)


def ratios(smoke: bool, say: Callable[[str], None], output: Path, console: Console) -> None:
    """bench.csv."""
    path = output / "bench.csv"
    kept = Kept(path, say)
    frame = kept.table(bench_ratios.run(smoke, say, kept))
    table = Table(title=_title("Work in forwards", smoke))
    _columns(table, "", "forwards\n(a probe)", "first\nset-up", "error", "memory above\nthe model, GiB", "malloc")
    for row in frame.to_dict("records"):
        table.add_row(
            row["work"],
            _number(row["ratio"]) or _number(row["forwards"]) or _number(row["seconds"]),
            _number(row["first_setup"]),
            _number(row["error"], ".2%"),
            _number(row["memory_gib"]),
            row["malloc"] if isinstance(row["malloc"], str) else "",
        )
    console.print(table)
    console.print(f"written to {path}", highlight=False)


def peers(smoke: bool, say: Callable[[str], None], output: Path, console: Console) -> None:
    """peers.csv."""
    path = output / "peers.csv"
    kept = Kept(path, say)
    frame = kept.table(bench_peers.run(smoke, say, kept))
    one = frame.iloc[0]
    table = Table(
        title=_title("Trace of the Hessian to 5 % standard error", smoke),
        caption=f"{one.probes} probes, from the spread of one probe's estimate of the mean trace over examples, "
        f"{one.mean_trace:.3g} ± {one.deviation:.3g}; seconds = set-up + probes × one probe, forwards likewise. ÷: "
        "over the first row, of forwards and of memory. symnoise tells malloc to retain by itself.",
    )
    _columns(
        table, "", "malloc", "set-up\ns", "a probe\ns", "forwards\na probe", "seconds", "forwards", "÷", "GiB", "÷"
    )
    for row in frame.to_dict("records"):
        table.add_row(
            row["method"],
            "as found" if row["malloc"] == "as found" else "retained",
            *(_number(row[name]) for name in ("setup_s", "probe_s", "forwards")),
            *(_number(row[name], ".0f") for name in ("seconds", "work")),
            *(_number(row[name]) for name in ("work_ratio", "memory_gib", "memory_gib_ratio")),
        )
    console.print(table)
    for note, rows in frame[frame.note.fillna("") != ""].groupby("note", sort=False):
        console.print(f"{', '.join(dict.fromkeys(rows.method))}: {note}", highlight=False)
    others = frame[~frame.method.isin(OWN)]
    for malloc, rows in others.groupby(others.malloc == "as found"):
        console.print(
            f"best peer ÷ symnoise, malloc {'as found' if malloc else 'retained'}: "
            f"time {rows.work_ratio.min():.2f}, memory {rows.memory_gib_ratio.min():.2f}",
            highlight=False,
        )
    console.print(f"written to {path}", highlight=False)


def growth(smoke: bool, say: Callable[[str], None], output: Path, console: Console) -> None:
    """growth.csv."""
    path = output / "growth.csv"
    kept = Kept(path, say)
    frame = kept.table(bench_growth.run(smoke, say, kept))
    table = Table(title=_title("Growth", smoke, sized=False))
    _columns(table, "", "method", "from", "to", "seconds", "GiB")
    for (axis, method), line in frame.groupby(["axis", "method"], sort=False):
        line = line.sort_values(str(axis))
        ends = [line[column].iloc[[0, -1]] for column in (str(axis), "seconds", "memory_gib")]
        table.add_row(
            str(axis),
            str(method),
            *(f"{end:g}" for end in ends[0]),
            *(" to ".join(f"{end:.3g}" for end in quantity) for quantity in ends[1:]),
        )
    console.print(table)
    console.print(f"written to {path}; the figure: python -m analysis.figures {output}", highlight=False)


def plans(smoke: bool, say: Callable[[str], None], output: Path, console: Console) -> None:
    """plans.csv; nothing on a GPU, since the processor is planned for and measured."""
    if ON_GPU:
        console.print(
            "plans: left out, since they are of the processor; hide the GPU (CUDA_VISIBLE_DEVICES=) to have them"
        )
        return
    path = output / "plans.csv"
    kept = Kept(path, say)
    frame = kept.table(bench_plans.run(smoke, say, kept))
    table = Table(title=_title("Planned and measured", smoke))
    units = ("gib", "forwards", "s")
    names = [name for unit in ("GiB", "forwards", "seconds") for name in (f"{unit}\nplanned", "measured", "÷")]
    _columns(table, "model", "method", *names)
    for row in frame.to_dict("records"):
        pairs = [(row[f"planned_{unit}"], row[f"measured_{unit}"]) for unit in units]
        numbers = [_number(number) for one, other in pairs for number in (one, other, one / other if other else None)]
        table.add_row(str(row["model"]), str(row["method"]), *numbers)
    console.print(table)
    console.print(f"written to {path}", highlight=False)


def _title(what: str, smoke: bool, *, sized: bool = True) -> str:
    model = "a tiny random Llama (smoke run)" if smoke else "SmolLM2"
    size = f"B = {ROWS}, L = {TOKENS}, " if sized else ""
    where = processor() if ON_GPU else f"{torch.get_num_threads()} threads"
    return f"{what}\n{model}, float32, {size}{SCORED} scored tokens; {where}"


def _columns(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="left" if name in ("", "malloc", "method") else "right")


def _number(value: Any, form: str = ".2f") -> str:
    return "" if value is None or value != value else format(value, form)


RUN = {"ratios": ratios, "peers": peers, "growth": growth, "plans": plans}
