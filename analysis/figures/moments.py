"""Noise moments: the distribution of ‖ε‖² by law, and how far measured moments are from their closed forms."""

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from analysis.intervals import PERCENT
from analysis.style import colour, name, order
from symnoise.plot.numbers import number
from symnoise.plot.style import DOUBLE, FAINT, INK, RULE, figure, styled

TITLE = "Moments of the noise, against their closed forms"
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


@styled
def draw(data: pd.DataFrame) -> Figure:
    """Above, the histograms; below, (measured − predicted)/predicted for the three moments."""
    drawn = figure(DOUBLE, 3.5)
    panels = drawn.subplot_mosaic([["density"] * 3, [p[0] for p in _PANELS]], height_ratios=(1.15, 1))
    laws = order(data.law)
    means = data[data.quantity == "mean square norm"].set_index("law").predicted
    variances = data[data.quantity == "variance of the square norm"].set_index("law").predicted

    ax = panels["density"]
    histograms = data[data.quantity == "density"]
    tallest = histograms[histograms.law.map(variances) > 0].density.max()
    for law in laws:
        bins = histograms[histograms.law == law]
        edges = [*bins.bin_low, bins.bin_high.iloc[-1]]
        constant = variances[law] == 0
        if constant:  # all of its weight in one bin: a line, whose height means nothing
            ax.plot([means[law]] * 2, [0, 1.28 * tallest], color=colour(law), lw=1.6)
            ax.text(means[law] + 0.15, 1.28 * tallest, f"{name(law)}: every draw", color=colour(law), va="top")
            continue
        ax.stairs(bins.density, edges, color=colour(law), fill=True, alpha=0.25)
        ax.stairs(bins.density, edges, color=colour(law), lw=0.9)
        peak = bins.density.max()
        # On the outer shoulder, where the wider of two nested histograms shows beside the narrower.
        shoulder = bins[(bins.bin_low > means[law]) & (bins.density > 0.35 * peak)].iloc[-1]
        ax.text(shoulder.bin_high + 0.15, 1.15 * shoulder.density, name(law), color=colour(law), va="bottom")
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

    for (quantity, symbol), letter in zip(_PANELS, "bcd", strict=True):
        ax = panels[quantity]
        part = data[data.quantity == quantity].set_index("law")
        ax.axvline(0, color=INK, lw=0.7, ls=(0, (4, 3)))
        reach, beside = 0.0, blended_transform_factory(ax.transAxes, ax.transData)
        for place, law in enumerate(laws):
            row = part.loc[law]
            if row.predicted == 0:
                text = f"0; measured {number(row.measured, 1)}"
                ax.text(1, place - 0.18, text, transform=beside, color=FAINT, ha="right", va="bottom", fontsize=6)
                ax.plot(0, place, "o", color=colour(law))
                continue
            value, low, high = ((x / row.predicted - 1) * 100 for x in (row.measured, row.low, row.high))
            ax.errorbar(
                value,
                place,
                xerr=[[value - low], [high - value]],
                color=colour(law),
                marker="o",
                capsize=1.6,
                elinewidth=0.8,
                capthick=0.8,
            )
            reach = max(reach, abs(low), abs(high))
            ax.text(
                1,
                place - 0.18,
                number(row.predicted),
                transform=beside,
                color=FAINT,
                ha="right",
                va="bottom",
                fontsize=6,
            )
        ax.set(yticks=range(len(laws)), ylim=(len(laws) - 0.6, -0.75), xlim=(-1.15 * reach, 1.15 * reach))
        ax.set_yticklabels([name(law) for law in laws] if letter == "b" else [])
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x", color=RULE, lw=0.3)
        ax.set_xlabel("deviation from closed form (%)")
        ax.set_title(f"{letter}  {symbol}")
    return drawn


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    means = data[data.quantity == "mean square norm"].predicted
    ratio = means.max() / means.min()
    raw = "" if math.isclose(ratio, 1) else f" An uncalibrated Gaussian’s mean is {ratio:.3g} times theirs."
    return (
        "(a) Calibrated laws share one mean of ‖ε‖² and differ in spread; Rademacher noise has none, so its line’s "
        f"height means nothing.{raw} (b–d) Measured moments relative to their closed forms, which are written in "
        f"grey; bars are {PERCENT} intervals. Where the noise does not vary only float32 rounding is left."
    )
