"""Spectral density of each example's Hessian, with its eigenvalues of largest size.

Drawn from `python -m experiments.spectra`, not from a run of the experiments, so it is not among the report's figures.
"""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from symnoise.plot.numbers import number
from symnoise.plot.style import DOUBLE, FAINT, INK, RULE, decades, figure, styled

TITLE = "Spectral density of the Hessian"
TABLES, STAGES = ("density", "eigenvalues"), ("spectra",)
ALT = "For each example the density of eigenvalues on symmetric-logarithmic axes, the largest ones marked."

_POSITIVE, _NEGATIVE = "#0b6b8a", "#a3427a"  # as in the figure of validity


def frame(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The density at each λ, one standard error below and above, and the eigenvalues (no density) with residuals."""
    density = tables["density"]
    band = {"low": density.density - density.stderr, "high": density.density + density.stderr}
    return pd.concat([density.assign(**band), tables["eigenvalues"]], ignore_index=True)


@styled
def draw(data: pd.DataFrame) -> Figure:
    """A panel for each example, all on the same axes."""
    examples = sorted(data.example.unique())
    drawn = figure(DOUBLE, 2.5)
    axes = drawn.subplots(1, len(examples), sharex=True, sharey=True, squeeze=False)[0]
    curves = data[data.density.notna()]
    width, single = float(curves.width.max()), 1 / (curves.coordinates * curves.width * (2 * np.pi) ** 0.5)
    floor = float(single.min()) / 30
    for ax, example, letter in zip(axes, examples, "abcdef", strict=False):
        curve = curves[curves.example == example].sort_values("eigenvalue")
        known = data[(data.example == example) & data.density.isna()].eigenvalue
        ax.axhline(float(single[curve.index[0]]), color=FAINT, lw=0.7, ls=(0, (4, 2.5)), zorder=1)
        ax.fill_between(curve.eigenvalue, curve.low.clip(floor), curve.high.clip(floor), color=INK, alpha=0.2, lw=0)
        ax.plot(curve.eigenvalue, curve.density.clip(floor), color=INK, lw=0.9)
        for ink, some in ((_POSITIVE, known[known > 0]), (_NEGATIVE, known[known <= 0])):
            ax.plot(some, np.full(len(some), 0.94), "|", color=ink, ms=6, mew=0.8, transform=ax.get_xaxis_transform())
        decades(ax)
        ax.set_ylim(floor, 20 * float(curves.high.max()))
        _signed_decades(ax, width, float(curves.eigenvalue.abs().max()))
        _ends(ax, known)
        ax.set_xlabel("eigenvalue λ (nats per squared unit)")
        ax.grid(color=RULE, lw=0.3)
        ax.set_title(f"{letter}  Example {int(example)}, {int(curve.tokens.iloc[0])} tokens")
    axes[0].set_ylabel("density (per unit of λ)")
    middle: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "color": FAINT, "fontsize": 6}
    axes[0].annotate("one eigenvalue", (0, float(single[curves.index[0]])), (0, 2), **middle)
    return drawn


def _ends(ax: Axes, known: pd.Series) -> None:
    """Labels of the smallest and largest eigenvalue, below their marks."""
    for value in dict.fromkeys((known.min(), known.max())):
        ink = _POSITIVE if value > 0 else _NEGATIVE
        look: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "top", "color": ink}
        ax.annotate(number(value, 3), (value, 0.9), (0, 0), xycoords=ax.get_xaxis_transform(), fontsize=6, **look)


def _signed_decades(ax: Axes, threshold: float, largest: float) -> None:
    """Linear within the bells' width of 0, logarithmic beyond; ticks at the powers of ten of both signs."""
    ax.set_xscale("symlog", linthresh=threshold, linscale=0.4)
    powers = 10.0 ** np.arange(np.ceil(np.log10(threshold)), np.floor(np.log10(largest)) + 1)
    ax.xaxis.set_major_locator(FixedLocator([*-powers[::-1], 0, *powers]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    ax.xaxis.set_minor_locator(NullLocator())


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    curves, known = data[data.density.notna()], data[data.density.isna()]
    steps, probes = int(curves.steps.iloc[0]), int(curves.probes.iloc[0])
    return (
        "Density of the eigenvalues of each example’s Hessian, by stochastic Lanczos quadrature of "
        f"{steps} steps from {probes} probes, widened to Gaussians of standard deviation "
        f"{number(curves.width.max(), 2)}, within which the axis is linear; bands are one standard error over "
        "probes. Marks: the "
        f"{len(known) // max(data.example.nunique(), 1)} eigenvalues of largest size, blue above 0, purple below, with "
        f"residuals of at most {number(known.residual.max(), 2)}. Dashed: the height of a single eigenvalue."
    )
