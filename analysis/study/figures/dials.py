"""Outcome against the weights of a draw's even and odd parts: which of the two does it follow?"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.study.contrasts import LEVEL
from analysis.study.data import StudyTables
from analysis.study.dials import EVEN, ODD, by_cell, cells, slopes
from analysis.study.pairs import student
from result_schema.measures import ENDS, MEASURES, NATS
from symnoise.plot.numbers import listed, plural, with_interval
from symnoise.plot.style import DOUBLE, FAINT, INK, RULE, figure, heading, styled

TITLE = "Outcome against the weights of a draw’s even and odd parts"
ALT = "Each outcome minus that of no noise, against the even weight (left) and the squared odd weight (right)."
NEEDS = "cells of dials, with their clean training loss, held-out loss or tr G"

_INKS = {0: INK, 1: "#0072B2", 2: "#009E73", 3: "#D55E00"}  # by the other weight, which a line keeps
_MARKS = {0: "o", 1: "s", 2: "D", 3: "^"}


def frame(study: StudyTables, contrasts: pd.DataFrame) -> pd.DataFrame:
    """Of each cell the outcome minus that of (0, 0), paired by seed: mean and 95 % interval, Student's over seeds; and
    the slopes of the plane on μ and λ²."""
    planes, records = slopes(study), []
    for fact, table in by_cell(study):
        if fact["measure"] not in ENDS or fact["when"] != "end" or (0.0, 0.0) not in table:
            continue
        own = planes[(planes.measure == fact["measure"]) & (planes.when == "end")] if len(planes) else planes
        plane = {str(row["term"]): row for row in own.to_dict("records")}
        for even, odd in cells(table):
            apart = (table[even, odd] - table[0.0, 0.0]).dropna()
            if plane and len(apart) > 1:
                made = student(apart.to_numpy(), LEVEL)
                sides = {f"{name}_{end}": plane[term][end] for name, term in _TERMS for end in ("mean", "low", "high")}
                fact_of = {"measure": fact["measure"], "even": even, "odd": odd, "seeds": len(apart)}
                records.append(fact_of | {name: made[name] for name in ("mean", "low", "high")} | sides)
    return pd.DataFrame(records)


_TERMS = (("slope_even", EVEN), ("slope_odd", ODD))


@styled
def draw(data: pd.DataFrame) -> Figure:
    """A column an outcome; above against μ, a line for each λ, below against λ², a line for each μ."""
    measures = [m for m in ENDS if m in set(data.measure)]
    drawn = figure(DOUBLE, 3.5)
    axes = drawn.subplots(2, len(measures), squeeze=False, sharey="col", sharex="row")
    for k, measure in enumerate(measures):
        own = data[data.measure == measure].assign(square=lambda table: table.odd**2)
        _lines(axes[0, k], own, "even", "odd", "λ")
        _lines(axes[1, k], own, "square", "even", "μ")
        axes[0, k].set_title(f"{chr(97 + k)}  {heading(measure)}")
        for ax in axes[:, k]:
            ax.set_ylabel("minus no noise" + (" (nats)" if MEASURES[measure].unit == NATS else ""))
        axes[0, k].set_xlabel("μ, of the even part: curvature")
        axes[1, k].set_xlabel("λ², of the odd part: gradient noise")
    for ax in axes[:, 0]:
        ax.legend(loc="best", fontsize=5.8)
    return drawn


def _lines(ax: Axes, own: pd.DataFrame, along: str, kept: str, symbol: str) -> None:
    """Cells of one `kept` weight, where there are several, joined in the order of the other weight."""
    ax.axhline(0, color=FAINT, lw=0.6, zorder=0)
    for weight, part in own.groupby(kept):
        if len(part) < 2:
            continue
        line, key = part.sort_values(along), int(float(str(weight)))
        ink = _INKS[key]
        at = line[along] + 0.02 * (key - 1) * own[along].max()  # so that intervals do not hide one another
        ax.plot(at, line["mean"], color=ink, lw=0.9, marker=_MARKS[key], ms=3.2, label=f"{symbol} = {weight:g}")
        ax.vlines(at, line.low, line.high, color=ink, lw=1)
    ax.set_xticks(sorted(own[along].unique()))
    ax.grid(axis="y", color=RULE, lw=0.3)


def caption(data: pd.DataFrame) -> str:
    """The slopes of the plane, by outcome."""
    said = []
    for measure, own in data.groupby("measure", sort=False):
        row = own.iloc[0]
        each = [with_interval({end: row[f"{name}_{end}"] for end in ("mean", "low", "high")}) for name, _ in _TERMS]
        said.append(f"{measure} {each[0]} and {each[1]}")
    return (
        "A draw’s even part (weight μ) carries curvature to leading order, its odd part (weight λ) is noise of mean 0 "
        "in the gradient. What follows μ is due to the even part, what follows λ² to gradient noise. (μ, λ) = (0, 0) "
        "is no noise, (1, 0) SymNoise, (1, 1) a single draw in law. Least-squares slopes on μ and on λ², over all "
        f"weights: {listed(said)}. Where cells are off the lines, a slope need not have the sign of weight 1. "
        f"Differences are paired by seed; {plural(int(data.seeds.min()), 'seed')}, 95 % intervals (Student’s)."
    )
