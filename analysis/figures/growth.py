"""How time and memory of a trace grow with probes, length, batch and depth, with fitted exponents.

Drawn from the bench's growth.csv, not from a run of the experiments, so it is not among the report's figures.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symnoise.plot.style import DOUBLE, INK, RULE, figure, label_ends, log_axis, log_ticks, styled

TITLE = "How the cost of curvature grows"
TABLES, STAGES = ("growth",), ("bench",)
ALT = "Log-log plots of seconds and memory against probes, length, batch and depth, for both methods."

AXES = {"probes": "Probes K", "tokens": "Length L (tokens)", "rows": "Batch B", "depth": "Depth D (layers)"}
_SYMBOLS = {"probes": "K", "tokens": "L", "rows": "B", "depth": "D"}
METHODS = {"taylor": ("Taylor mode", INK, "o"), "hvp": ("Hessian products", "#D55E00", "s")}
_QUANTITIES = {"seconds": "seconds", "memory_gib": "memory above the model (GiB)"}
_FITTED = 8  # lines are fitted over the last factor of 8, where fixed costs no longer mask the growth


def frame(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per point; `value` is its position on its own axis."""
    data = tables["growth"]
    return data.assign(value=[float(row[row["axis"]]) for row in data.to_dict("records")])


def exponents(line: pd.DataFrame) -> dict[str, float]:
    """Least-squares slope of log quantity against log value over the points within a factor of 8 of the largest."""
    found = {}
    for quantity in _QUANTITIES:
        top = line[(line.value * _FITTED >= line.value.max()) & (line[quantity] > 0)]
        slope = np.polyfit(np.log(top.value), np.log(top[quantity]), 1)[0] if len(top) > 1 else float("nan")
        found[quantity] = float(slope)
    return found


def fits(data: pd.DataFrame) -> pd.DataFrame:
    """The exponents of every line."""
    lines = data.groupby(["axis", "method"], sort=False)
    return pd.DataFrame([{"axis": a, "method": m} | exponents(line) for (a, m), line in lines]).round(2)


@styled
def draw(data: pd.DataFrame) -> Figure:
    """Seconds above, memory below; a column for each axis."""
    axes = [axis for axis in AXES if axis in set(data.axis)]
    drawn = figure(DOUBLE, 3.7)
    panels = drawn.subplots(2, len(axes), sharex="col", sharey="row", squeeze=False)
    labels = []
    for row, (quantity, label) in enumerate(_QUANTITIES.items()):
        panels[row, 0].set_ylabel(label)
        for column, axis in enumerate(axes):
            ax, ends = panels[row, column], []
            for method, (_, ink, marker) in METHODS.items():
                line = data[(data.axis == axis) & (data.method == method)].sort_values("value")
                if len(line):
                    _line(ax, line, quantity, ink, marker)
                    last = line.iloc[-1]
                    said = _power(_SYMBOLS[axis], exponents(line)[quantity])
                    if last.value < data[data.axis == axis].value.max():  # ends early: another line may pass next to it
                        place: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "va": "bottom"}
                        ax.annotate(said, (last.value, last[quantity]), (1, 4), color=ink, fontsize=6.5, **place)
                    else:
                        ends.append((last.value, last[quantity], said, ink))
            ax.set_yscale("log")
            log_ticks(ax.yaxis)
            log_axis(ax)
            ax.margins(x=0.12)
            ax.grid(color=RULE, lw=0.3)
            labels.append((ax, ends))
            if row == 0:
                ax.set_title(f"{'abcd'[column]}  {AXES[axis]}")
            values = sorted(set(data[data.axis == axis].value))
            shown = values if len(values) < 6 else values[-1::-2][::-1]
            ax.set_xticks(shown, [f"{v:,.0f}" for v in shown])
    for name, ink, marker in METHODS.values():
        panels[0, -1].plot([], [], color=ink, marker=marker, ms=3, lw=1, label=name)
    panels[0, -1].legend(loc="best", handlelength=1.4)  # the last axis spans least, so there is room
    label_ends(drawn, labels, gap=7, pad=5)
    return drawn


def _line(ax: Axes, line: pd.DataFrame, quantity: str, ink: str, marker: str) -> None:
    ax.plot(line.value, line[quantity], color=ink, marker=marker, ms=3, lw=1)


def _power(symbol: str, exponent: float) -> str:
    return f"∝ ${symbol}^{{{round(exponent, 2) + 0.0:.2f}}}$" if np.isfinite(exponent) else ""


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    base = {axis: data[data.axis != axis][axis].mode().iloc[0] for axis in AXES}
    return (
        f"Seconds and memory of one trace, set-up included, as one of K, L, B and depth varies and the others stay at "
        f"K = {base['probes']}, L = {base['tokens']}, B = {base['rows']} and {base['depth']} layers. Exponents are "
        "least-squares slopes over the last factor of 8. Points expected above the memory limit are omitted."
    )
