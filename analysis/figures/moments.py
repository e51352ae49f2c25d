"""Noise moments: the distribution of ‖ε‖² by law, and how far measured moments are from their closed forms."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from analysis.intervals import PERCENT
from analysis.style import colour, name, order
from symnoise.plot.numbers import number
from symnoise.plot.style import DOUBLE, FAINT, INK, RULE, figure, styled
from symnoise.theory import check_moments

TITLE = "Noise moments and their closed forms"
TABLES, STAGES = ("moments", "square_norms"), ("moments",)
ALT = "Histograms of the squared norm of the noise by law, and measured moments relative to their closed forms."

_PANELS = (
    ("mean square norm", "E‖ε‖²"),
    ("variance of the square norm", "Var‖ε‖²"),
    ("mean norm", "E‖ε‖"),
)


def frame(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Moments (predicted, measured, low, high) and, as `density` from `bin_low` to `bin_high`, the histograms."""
    moments = tables["moments"].copy()
    moments["low"], moments["high"] = moments.measured - moments.half, moments.measured + moments.half
    draws = tables["square_norms"]
    edges = np.linspace(draws.square_norm.min() * 0.98, draws.square_norm.max() * 1.02, 121)
    bins = []
    for law in dict.fromkeys(draws.law):
        values = draws[draws.law == law]
        density, _ = np.histogram(values.square_norm, edges, density=True)
        bins.append(
            pd.DataFrame({"law": law, "quantity": "density", "bin_low": edges[:-1], "bin_high": edges[1:]}).assign(
                density=density
            )
        )
    return pd.concat([moments.drop(columns="half"), *bins], ignore_index=True)


def measured(alpha: float, length: int, dim: int, draws: int) -> dict[str, pd.DataFrame]:
    """The tables of `draws` draws of (length, dim) by each law."""
    found = check_moments(alpha, length, dim, draws)
    return {name: pd.DataFrame(records) for name, records in found.tables.items()}


@styled
def draw(data: pd.DataFrame) -> Figure:
    """Above, the histograms; below, (measured − predicted)/predicted for the three moments."""
    drawn = figure(DOUBLE, 3.5)
    panels = drawn.subplot_mosaic([["density"] * 3, [p[0] for p in _PANELS]], height_ratios=(1.15, 1))
    laws = order(data.law)
    _draw_histograms(panels["density"], data, laws)
    for (quantity, symbol), letter in zip(_PANELS, "bcd", strict=True):
        ax = panels[quantity]
        _draw_deviations(ax, data[data.quantity == quantity].set_index("law"), laws)
        ax.set_yticklabels([name(law) for law in laws] if letter == "b" else [])
        ax.set_title(f"{letter}  {symbol}")
    return drawn


def _draw_histograms(ax: Axes, data: pd.DataFrame, laws: list[str]) -> None:
    """The density of ‖ε‖² by law, and a dashed line at each closed-form mean."""
    means = data[data.quantity == "mean square norm"].set_index("law").predicted
    variances = data[data.quantity == "variance of the square norm"].set_index("law").predicted
    histograms = data[data.quantity == "density"]
    tallest = histograms[histograms.law.map(variances) > 0].density.max()
    for law in laws:
        if variances[law] == 0:  # all of its weight in one bin: a line, whose height means nothing
            ax.plot([means[law]] * 2, [0, 1.28 * tallest], color=colour(law), lw=1.6)
            ax.text(means[law] + 0.15, 1.28 * tallest, f"{name(law)}: every draw", color=colour(law), va="top")
        else:
            _draw_histogram(ax, histograms[histograms.law == law], law, means[law])
    for mean in sorted(set(means.round(9))):
        ax.axvline(mean, color=INK, lw=0.7, ls=(0, (4, 3)), zorder=3)
        ax.annotate(
            f"closed form {number(mean)}",
            (mean, 0.9),
            (-5, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="center",
            ha="right",
        )
    ax.set(xlabel="‖ε‖² (squared embedding units)", ylabel="density", xlim=(0, None), ylim=(0, 1.35 * tallest))
    ax.set_title("a  Distribution of ‖ε‖² over draws")


def _draw_histogram(ax: Axes, bins: pd.DataFrame, law: str, mean: float) -> None:
    edges = [*bins.bin_low, bins.bin_high.iloc[-1]]
    ax.stairs(bins.density, edges, color=colour(law), fill=True, alpha=0.25)
    ax.stairs(bins.density, edges, color=colour(law), lw=0.9)
    # On the outer shoulder, where the wider of two nested histograms shows beside the narrower.
    shoulder = bins[(bins.bin_low > mean) & (bins.density > 0.35 * bins.density.max())].iloc[-1]
    ax.text(shoulder.bin_high + 0.15, 1.15 * shoulder.density, name(law), color=colour(law), va="bottom")


def _draw_deviations(ax: Axes, moments: pd.DataFrame, laws: list[str]) -> None:
    """One moment's deviation from its closed form in per cent, a line for each law, with the closed form in grey."""
    ax.axvline(0, color=INK, lw=0.7, ls=(0, (4, 3)))
    reach, beside = 0.0, blended_transform_factory(ax.transAxes, ax.transData)
    grey: dict[str, Any] = {"transform": beside, "color": FAINT, "ha": "right", "va": "bottom", "fontsize": 6}
    bars: dict[str, Any] = {"marker": "o", "capsize": 1.6, "elinewidth": 0.8, "capthick": 0.8}
    for place, law in enumerate(laws):
        row = moments.loc[law]
        if row.predicted == 0:
            ax.text(1, place - 0.18, f"0; measured {number(row.measured, 1)}", **grey)
            ax.plot(0, place, "o", color=colour(law))
            continue
        value, low, high = ((x / row.predicted - 1) * 100 for x in (row.measured, row.low, row.high))
        ax.errorbar(value, place, xerr=[[value - low], [high - value]], color=colour(law), **bars)
        reach = max(reach, abs(low), abs(high))
        ax.text(1, place - 0.18, number(row.predicted), **grey)
    ax.set(yticks=range(len(laws)), ylim=(len(laws) - 0.6, -0.75), xlim=(-1.15 * reach, 1.15 * reach))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", color=RULE, lw=0.3)
    ax.set_xlabel("deviation from closed form (%)")


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    means = data[data.quantity == "mean square norm"].predicted
    ratio = means.max() / means.min()
    raw = "" if math.isclose(ratio, 1) else f" An uncalibrated Gaussian’s mean is {ratio:.3g} times theirs."
    return (
        "(a) Calibrated laws have the same mean ‖ε‖² and differ in spread; Rademacher noise has none, so its line’s "
        f"height means nothing.{raw} (b–d) Measured moments relative to their closed forms, shown in "
        f"grey; bars are {PERCENT} intervals. Where the noise does not vary, only float32 rounding is left."
    )
