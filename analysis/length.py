"""How much of a gain in preferences is left at equal length: Z1's ledger, the table and the figure.

python -m analysis.length results/length-7b     # from its gains.json
"""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from matplotlib.figure import Figure

from analysis.ledger import write_ledger
from result_schema.bad_input import one_line_on_bad_input
from result_schema.files import read_json
from symnoise.core import Estimate
from symnoise.plot.numbers import with_interval
from symnoise.plot.page import saved, write_csv
from symnoise.plot.style import DOUBLE, FAINT, INK, figure, styled
from symnoise.theory import Row, row
from symnoise.theory.ledger import half_width, slug, verdict

_TITLE = 20  # characters of a line above a panel
# What each adjustment compares, for a reader; in the order of the figure.
WORDS = {
    "raw": "as published",
    "like length": "replies of like length",
    "difference": "line through differences",
    "strata": "strata of length",
    "two fits": "length control, each model alone",
    "all generators": "all generators, one slope",
    "own slopes": "all generators, own slopes",
}


def gains(record: dict[str, Any]) -> pd.DataFrame:
    """The record's gains with 95 % intervals, in percentage points. `blind` and `unsure` name a control."""
    table = pd.DataFrame(record["gains"])
    gain, stderr = (torch.tensor(table[name].to_numpy()) for name in ("gain", "stderr"))
    low, high = Estimate(gain, stderr, len(table), math.inf).interval()
    table = table.assign(mean=100 * table.gain, low=100 * low.numpy(), high=100 * high.numpy())
    for column, known in (("blind", _taken), ("unsure", _not_shown_to_be_kept)):
        table[column] = table.adjustment.map({name: _control(record, name, known) for name in WORDS})
    return table


def is_named(control: Any) -> bool:
    """Whether a control is named; a table read from CSV has NaN where it is not."""
    return isinstance(control, str) and bool(control)


def _control(record: dict[str, Any], adjustment: str, known: Callable[[dict[str, Any]], bool]) -> str:
    """The first control of which `known` holds under the adjustment; "" if there is none."""
    for one in record["gains"]:
        if one["role"] == "control" and one["adjustment"] == adjustment and known(one):
            return f"{one['noisy']} − {one['plain']}"
    return ""


def _taken(one: dict[str, Any]) -> bool:
    """The plan's rule: no more than the stated share of the control's gain is left."""
    return bool(one["left"] <= 0)


def _not_shown_to_be_kept(one: dict[str, Any]) -> bool:
    """A stricter rule than the plan's: more than that share is not shown, at the ledger's level, to be left."""
    return verdict("at most", 0, *_interval(one), 0) != "fails"


def _interval(one: dict[str, Any]) -> tuple[float, float]:
    """Of what is left of a gain, at the ledger's level."""
    half = half_width(one["left_stderr"])
    return one["left"] - half, one["left"] + half


def ledger(record: dict[str, Any]) -> list[Row]:
    """Z1: for each pair and adjustment, the adjusted gain minus the stated share of the raw one is at most 0.

    Where the adjustment is blind, that is leaves no more than this share of a control's gain, nothing is decided.
    """
    rows, share = [], record["plan"]["share"]
    for one in record["gains"]:
        if one["role"] != "pair" or one["adjustment"] == "raw":
            continue
        ends, said = _interval(one), f"{WORDS[one['adjustment']]}: gain − {share:g} · raw gain"
        if control := _control(record, one["adjustment"], _taken):
            ends, said = (-math.inf, math.inf), f"{said}; blind: it takes the gain {control}"
        facts: dict[str, Any] = {
            "key": f"gain.{slug(one['noisy'])}.{slug(one['adjustment'])}",
            "subject": "preferences",
        }
        facts |= {"where": f"{one['noisy']} − {one['plain']}", "n": one["used"]}
        facts |= {"seed": record["plan"]["bootstrap"]["seed"], "relation": "at most", "resolution": 0}
        rows.append(row("Z1", said, 0, one["left"], ends, **facts))
    return rows


def side_by_side(gains: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """A head, and a line per adjustment: its gain for each pair and control; an `unsure` adjustment has a star."""
    pairs = list(dict.fromkeys(zip(gains.role, gains.plain, gains.noisy, strict=True)))
    head = ["gain, percentage points"]
    head += [f"{noisy} − {plain}" + (" (control)" if role == "control" else "") for role, plain, noisy in pairs]
    lines = []
    for name, words in WORDS.items():
        own = gains[gains.adjustment == name].set_index("noisy")
        cells = [with_interval(own.loc[noisy].to_dict()) for _, _, noisy in pairs]
        marks = [mark for column, mark in (("blind", ", blind"), ("unsure", " *")) if is_named(own[column].iloc[0])]
        lines.append([words + "".join(marks), *cells])
    return head, lines


@styled
def draw(data: pd.DataFrame) -> Figure:
    """A panel for each pair, controls last; dashed: the stated share of the raw gain. Hollow: `unsure`."""
    pairs = list(dict.fromkeys(zip(data.plain, data.noisy, strict=True)))
    drawn = figure(DOUBLE, 2.1)
    axes = drawn.subplots(1, len(pairs), sharey=True)
    for ax, (plain, noisy) in zip(axes, pairs, strict=True):
        own = data[(data.plain == plain) & (data.noisy == noisy)].set_index("adjustment").reindex(WORDS)
        raw = own.loc["raw"]
        ax.axvline(0, color=INK, linewidth=0.6)
        ax.axvline(100 * (raw.gain - raw.left), color=FAINT, linewidth=0.8, linestyle="--")
        for y, (_, one) in enumerate(own.iterrows()):
            colour = INK if one.role == "control" else "#0072B2"
            ax.plot([one.low, one.high], [y, y], color=colour, linewidth=1)
            ax.plot(
                one["mean"],
                y,
                "o",
                color=colour,
                markersize=3.5,
                markerfacecolor="white" if is_named(one.unsure) else colour,
            )
        lines = [*wrap(noisy, _TITLE), *wrap(f"− {plain}", _TITLE)]
        ax.set_title("\n".join([*lines, "(control)"] if own.role.iloc[0] == "control" else lines), fontsize=5.5)
        ax.set_xlabel("gain, points")
    axes[0].set_yticks(range(len(WORDS)), list(WORDS.values()))
    axes[0].invert_yaxis()
    return drawn


def write(folder: Path) -> Path:
    """Write ledger.json, ledger.csv, tables/gains.csv and figures/length.* into `folder`; the path of the ledger."""
    record = read_json(folder / "gains.json", "run `python -m experiments.alpaca_eval length` first")
    table = gains(record)
    write_csv(folder / "tables" / "gains.csv", table)
    saved(draw(table), table, folder / "figures", "length")
    return write_ledger(folder, [asdict(made) for made in ledger(record)])


def main(folder: Annotated[Path, typer.Argument(help="A folder with gains.json.")]) -> None:
    """Ledger, table and figure of gains in preferences at equal length."""
    print(f"symnoise: the ledger is in {write(folder)}")


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
