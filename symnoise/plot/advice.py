"""What `symnoise advise` measured, against α."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symnoise.plot.style import DOUBLE, FAINT, INK, alpha_axis, cut, figure, interval, log_ticks, styled
from symnoise.theory.checks.validity import MARGIN
from symnoise.training.advice import BEST_RATIO, PAIR_COST, AtAlpha

_SLOPE, _MEAN = "#0072B2", "#D55E00"
_REACH = (-0.5, 2.0)  # of the middle panel: whatever lies beyond is far outside the theory's ±10 %


@styled
def draw(found: Sequence[AtAlpha]) -> Figure:
    """Three panels: r of the tokens, what is left of the quadratic theory, and what a pair is worth as a batch."""
    drawn = figure(DOUBLE, 2.4)
    ratio, theory, worth = drawn.subplots(1, 3)
    alphas = [one.alpha for one in found]
    for ax in (ratio, theory, worth):
        alpha_axis(ax, alphas, float("nan"))
    _ratio(ratio, found, alphas)
    _theory(theory, found)
    _worth(worth, found)
    return drawn


def _ratio(ax: Axes, found: Sequence[AtAlpha], alphas: list[float]) -> None:
    low, median, high = zip(*(one.ratio for one in found), strict=True)
    ax.fill_between(alphas, low, high, color=_SLOPE, alpha=0.2, lw=0)
    ax.plot(alphas, median, color=_SLOPE, marker="o")
    ax.axhline(BEST_RATIO, color=FAINT, ls=(0, (4, 2)))
    ax.set_yscale("log")
    log_ticks(ax.yaxis)
    ax.set_ylabel("r = ‖ε‖/‖x‖, median and middle half")
    crossed = median[-1] > BEST_RATIO  # then the corner below the line, at the right, is free of the curve
    apart, ha, va = (-3, "right", "top") if crossed else (1, "left", "bottom")
    place: dict[str, Any] = {"xytext": (0, apart), "textcoords": "offset points", "ha": ha, "va": va}
    ax.annotate(f"to try: {BEST_RATIO:g}", (alphas[-crossed], BEST_RATIO), color=FAINT, **place)
    ax.set_title("Size of noise")


def _theory(ax: Axes, found: Sequence[AtAlpha]) -> None:
    ax.axhspan(1 - MARGIN, 1 + MARGIN, color=FAINT, alpha=0.25, lw=0)
    for one in found:
        for shift, pooled, ink, mark in ((0.95, one.slope, _SLOPE, "o"), (1.05, one.mean, _MEAN, "s")):
            low, high, fill = pooled.low, pooled.high, ink
            if pooled.unbounded:  # a hollow point: bars of full height would bury the others
                low, high, fill = math.nan, math.nan, "white"
            look = {"marker": mark, "markerfacecolor": fill}
            cut(ax, shift * one.alpha, pooled.value, low, high, _REACH, ink, arrows=False, **look)
    ax.set_ylim(*_REACH)
    ax.set_ylabel("excess loss ÷ ½εᵀHε")
    ax.set_title("Is the theory quadratic?")
    ax.text(0.03, 0.97, "slope", color=_SLOPE, va="top", transform=ax.transAxes)
    ax.text(0.03, 0.89, "ratio of means\n(hollow: unbounded)", color=_MEAN, va="top", transform=ax.transAxes)


def _worth(ax: Axes, found: Sequence[AtAlpha]) -> None:
    for one in found:
        low, high = (1 + float(end) for end in one.rho.interval())
        interval(ax, one.alpha, 1 + float(one.rho), low, high, INK)
    ax.axhline(PAIR_COST, color=FAINT, ls=(0, (4, 2)))
    ax.set_ylabel("1 + ρ, batches at most")
    ax.text(found[0].alpha, PAIR_COST, "its cost", color=FAINT, va="bottom")
    ax.set_title("Worth of a pair")
