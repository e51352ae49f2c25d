"""Variance budgets along runs: G1's ledger, the table and the figure.

python -m analysis.budgets results/variance-budget     # from the files of experiments.study.budget there
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.ledger import write_ledger
from result_schema.bad_input import one_line_on_bad_input
from result_schema.files import read_json
from symnoise.core import InputError
from symnoise.plot.numbers import fixed, listed
from symnoise.plot.page import saved, write_csv
from symnoise.plot.style import DOUBLE, FAINT, RULE, decades, figure, styled
from symnoise.theory import Row, row
from symnoise.theory.ledger import half_width

TITLE = "Variance budget of a training step"
ALT = "Against alpha: the variance of the gradient's odd part over that of batches; the even part along the gradient."
ALPHAS = (5.0, 10.0, 15.0)  # G1's rows: α of the published recipes
_LOOK = {"start": ("#009E73", "o"), "middle": ("#E69F00", "s"), "end": ("#0072B2", "D")}  # of training
_COLUMNS = ("run", "when", "alpha", "quantity", "value", "stderr", "low", "high", "batches", "batch", "draws")


def read(folder: Path) -> pd.DataFrame:
    """Every point of every file, in the order of training; `run` is the file's name. `InputError` if there is none."""
    command = "run `python -m experiments.study.budget` first"
    found = [
        _in_order(pd.DataFrame(record["points"])).assign(run=path.stem, **{key: record[key] for key in _COLUMNS[-3:]})
        for path in sorted(folder.glob("*.json"))
        if path.stem != "ledger" and (record := read_json(path, command))["points"]
    ]
    if not found:
        raise InputError(f"{folder} has no variance budget; {command}")
    return pd.concat(found, ignore_index=True)[list(_COLUMNS)]


def _in_order(points: pd.DataFrame) -> pd.DataFrame:
    return points.sort_values("when", key=lambda when: when.map(list(_LOOK).index), kind="stable")


def ledger(points: pd.DataFrame) -> list[Row]:
    """G1: ρ = V_odd/V_batch is at most 1 at the published α, at each point of each run. Student's interval, over
    batches."""
    rows = []
    for _, one in points[(points.quantity == "rho") & points.alpha.isin(ALPHAS)].iterrows():
        facts: dict[str, Any] = {"key": f"rho.{one.run}.{one.when}.alpha={one.alpha:g}", "subject": "study"}
        facts |= {"where": one.run, "n": int(one.batches), "relation": "at most", "resolution": 0.0}
        half = half_width(one.stderr, one.batches - 1)
        said = f"ρ = V_odd/V_batch at the {one.when} of training, α = {one.alpha:g}"
        rows.append(row("G1", said, 1, one.value, half, **facts))
    return rows


@styled
def draw(points: pd.DataFrame) -> Figure:
    """A column for each run: above ρ, below ⟨E, g₀⟩/‖g₀‖², against α; a line for each point of training."""
    runs = list(dict.fromkeys(points.run))
    drawn = figure(DOUBLE, 3.2)
    axes = drawn.subplots(2, len(runs), squeeze=False, sharex=True, sharey="row")
    for k, name in enumerate(runs):
        own = points[points.run == name]
        _lines(axes[0, k], own[own.quantity == "rho"])
        _lines(axes[1, k], own[own.quantity == "shrinkage"])
        axes[0, k].axhline(1, color=FAINT, lw=0.8, ls="--", zorder=0)
        axes[0, k].set_title(f"{chr(97 + k)}  {name}, batches of {own.batch.iloc[0]}")
        axes[1, k].axhline(0, color=FAINT, lw=0.6, zorder=0)
        axes[1, k].set_xlabel("α")
    axes[0, 0].set_yscale("log")
    decades(axes[0, 0])
    axes[0, 0].set_ylabel("ρ = V_odd / V_batch")
    axes[1, 0].set_ylabel("⟨E, g₀⟩ / ‖g₀‖²")
    axes[0, 0].legend(loc="best")
    return drawn


def _lines(ax: Axes, points: pd.DataFrame) -> None:
    ax.set_xscale("log")
    for j, (when, (ink, marker)) in enumerate(_LOOK.items()):
        line = points[points.when == when].sort_values("alpha")
        at = line.alpha * 1.04 ** (j - 1)
        shown = "start of training" if when == "start" else when
        ax.plot(at, line.value, color=ink, marker=marker, ms=3, lw=0.9, label=shown if len(line) else None)
        ax.vlines(at, line.low, line.high, color=ink, lw=1)
    ticks = sorted(set(points.alpha))
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.grid(axis="y", color=RULE, lw=0.3)


def caption(points: pd.DataFrame) -> str:
    """ρ at the published α at the last point of each run, and what it means."""
    said = []
    for name, own in points[points.quantity == "rho"].groupby("run", sort=False):
        last = next(when for when in reversed(_LOOK) if when in set(own.when))
        at = own[(own.when == last) & own.alpha.isin(ALPHAS)].sort_values("alpha")
        said.append(f"{', '.join(fixed(value, 2) for value in at.value)} at the {last} of {name}’s training")
    whole = points.iloc[0]
    return (
        "Above, ρ, the variance of the gradient’s odd part in ε, which a mirrored pair removes, over that of batches: "
        "a pair acts like a batch at most 1 + ρ times as large, and costs as much as one twice as large (dashed). At "
        "α = 5, 10, 15, "
        f"ρ is {listed(said)}. Below, the even part along the batch’s gradient: −0.1 means a step of gradient descent "
        f"smaller by a tenth along it; AdamW divides such a factor out. {whole.batches} batches of training rows, "
        f"{whole.draws} draws each; 95 % intervals over batches."
    )


def write(folder: Path) -> Path:
    """Write ledger.json, ledger.csv, tables/budgets.csv and figures/budgets.* into `folder`; the path of the ledger."""
    points = read(folder)
    write_csv(folder / "tables" / "budgets.csv", points)
    saved(draw(points), points, folder / "figures", "budgets")
    return write_ledger(folder, [asdict(made) for made in ledger(points)])


def main(folder: Annotated[Path, typer.Argument(help="A folder of variance budgets.")]) -> None:
    """Ledger, table and figure of variance budgets."""
    print(f"symnoise: the ledger is in {write(folder)}")


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
