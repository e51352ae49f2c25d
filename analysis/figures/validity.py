"""V1: how far the quadratic regime reaches, and the curvature at the size of the noise itself."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.intervals import PERCENT, bounds
from analysis.numbers import number
from analysis.style import DOUBLE, FAINT, INK, RULE, alpha_axis, cut, figure, label_ends, styled

TITLE = "How far the Hessian speaks for the noise"
TABLES, STAGES = ("smoothed", "validity"), ("validity",)
ALT = "T of sigma against alpha, per example and pooled, with the ten per cent band; C of sigma per example."

LEVEL = 0.95  # of one example; the pooled interval is the ledger's
TRAINING = (5.0, 10.0, 15.0)  # α that NEFTune trains with
_POSITIVE, _NEGATIVE = "#0b6b8a", "#a3427a"


def frame(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """T and C per example (`example` a number; `limit` the mean zᵀHz of the same draws), and T pooled (no example)."""
    single = tables["smoothed"]
    parts = [tables["validity"].assign(quantity="T", value=tables["validity"]["T"])]
    for quantity in ("T", "C"):
        value, stderr = single[quantity], single[f"{quantity}_stderr"]
        low, high = bounds(value, stderr, single.dof, LEVEL)
        limit = single.hessian if quantity == "C" else 1.0
        facts = single[["example", "alpha", "sigma"]].assign(limit=limit)
        parts.append(facts.assign(quantity=quantity, value=value, low=low, high=high))
    columns = ["quantity", "example", "alpha", "sigma", "value", "low", "high", "limit"]
    return pd.concat(parts, ignore_index=True)[columns]


def radius(pooled: pd.DataFrame, margin: float = 0.1) -> float:
    """The α at which pooled |T − 1| first passes `margin`, linear in α between the measured ones; NaN if never.

    pooled: columns alpha and T (or value). |T − 1| is taken to start at 0 for α = 0, where T is 1 by definition.
    """
    points = pooled.sort_values("alpha")
    value = points["T"] if "T" in points else points["value"]
    before, off = 0.0, 0.0
    for alpha, now in zip(points.alpha, (value - 1).abs(), strict=True):
        if now > margin:
            return float(before + (alpha - before) * (margin - off) / (now - off))
        before, off = alpha, now
    return float("nan")


@styled
def draw(data: pd.DataFrame) -> Figure:
    """Left T(σ), right C(σ), against α."""
    drawn = figure(DOUBLE, 3.0)
    left, right = drawn.subplots(1, 2)
    alphas = sorted(data.alpha.unique())
    ratio = float((data.sigma / data.alpha).mean())
    single = data[data.example.notna()]
    pooled = data[data.example.isna()].sort_values("alpha")
    sign = single[single.quantity == "C"].groupby("example").limit.first()
    ink: dict[Any, str] = {e: _POSITIVE if v > 0 else _NEGATIVE for e, v in sign.items()}

    limits = min(-0.5, pooled.value.min() - 0.3), max(2.5, pooled.value.max() + 0.3)
    left.axhspan(0.9, 1.1, color=RULE, alpha=0.6, lw=0)
    left.axhline(1, color=INK, lw=0.6)
    _examples(left, single[single.quantity == "T"], limits, ink)
    left.plot(pooled.alpha, pooled.value.clip(*limits), color=INK, lw=1.6)
    for p in pooled.to_dict("records"):
        cut(left, p["alpha"], p["value"], p["low"], p["high"], limits, INK, markersize=4.5, elinewidth=1.4, zorder=4)
    left.set_ylim(*limits)
    left.set_ylabel("T(σ) = pair’s excess / ½σ²zᵀHz")
    left.set_title("a  Range of validity")
    left.annotate("±10 %", (1, 1), (3, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center")

    C = single[single.quantity == "C"]
    # From α = 1 on the signal stands above float32 rounding, so that range sets the limits.
    size = 1.15 * float(C[C.alpha >= 1].value.abs().max())
    limits = min(1.15 * C[C.alpha >= 1].value.min(), -0.15 * size), size
    right.axhline(0, color=INK, lw=0.6)
    start = alphas[0] / 1.7
    ends = []
    for example, points in C.groupby("example"):
        points = points.sort_values("alpha")
        first, last = points.iloc[0], points.iloc[-1]
        right.plot(
            [start, first.alpha],
            np.clip([first.limit, first.value], *limits),
            color=ink[example],
            lw=0.5,
            ls=(0, (2, 2)),
        )
        right.plot(start, np.clip(first.limit, *limits), "o", mfc="white", mec=ink[example], mew=0.9, ms=3.5)
        ends.append((alphas[-1] * 1.2, float(np.clip(last.value, *limits)), f"{int(first.example) + 1}", ink[example]))
    _examples(right, C, limits, ink)
    right.set_ylim(*limits)
    right.set_ylabel("C(σ) (nats per squared embedding unit)")
    right.set_title("b  Curvature at the size of the noise")
    used = [a for a in TRAINING if a in alphas]
    if used:
        left.annotate(
            "NEFTune’s α",
            (used[0], 0.03),
            (-2, 0),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            rotation=90,
            color=FAINT,
            ha="right",
            va="bottom",
            fontsize=6,
            bbox={"facecolor": "white", "alpha": 0.8, "pad": 0.5, "linewidth": 0},
        )
    for ax in (left, right):
        for alpha in used:
            ax.axvline(alpha, color=FAINT, lw=0.7, ls=(0, (1, 1.5)), zorder=0)
        alpha_axis(ax, alphas, ratio)
    right.set_xticks([start, *alphas], ["σ→0", *(f"{a:g}" for a in alphas)])
    left.set_xlim(alphas[0] / 1.2, alphas[-1] * 1.2)
    right.set_xlim(start / 1.15, alphas[-1] * 1.2)
    label_ends(drawn, [(right, ends)], gap=6.5, pad=2)
    return drawn


def _examples(ax: Axes, single: pd.DataFrame, limits: tuple[float, float], ink: dict[Any, str]) -> None:
    """A thin line for each example, its points beside one another so that their intervals can be told apart."""
    examples = sorted(single.example.unique())
    for k, example in enumerate(examples):
        points = single[single.example == example].sort_values("alpha")
        at = points.alpha * 1.035 ** (k - (len(examples) - 1) / 2)
        ax.plot(at, points.value.clip(*limits), color=ink[example], lw=0.6, alpha=0.7)
        for x, p in zip(at, points.to_dict("records"), strict=True):
            look: dict[str, Any] = {"markersize": 2, "elinewidth": 0.5, "capsize": 0, "alpha": 0.8, "arrows": False}
            cut(ax, x, p["value"], p["low"], p["high"], limits, ink[example], **look)


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    pooled = data[data.example.isna()]
    single = data[(data.quantity == "C") & data.example.notna()]
    negative = int((single.groupby("example").limit.first() < 0).sum())
    edge = radius(pooled)
    said = (
        f"pooled |T − 1| first passes 10 % at α ≈ {number(edge, 2)}"
        if np.isfinite(edge)
        else f"pooled |T − 1| stays within 10 % up to α = {pooled.alpha.max():g}"
    )
    return (
        "Against α (mean σ above); dotted lines mark those that NEFTune trains with. (a) T(σ) → 1 where the Hessian "
        f"describes what a pair adds to the loss. Black: all examples and draws pooled, with {PERCENT} intervals; "
        f"thin: single examples, 95 % intervals; grey: 1 ± 10 %. By linear interpolation, {said}. "
        "(b) C(σ) = 2(E ℓ(X+σz) − ℓ)/σ² of each example with 95 % intervals; open circles at the left are the mean "
        f"zᵀHz of the same draws, its limit. In {negative} of {single.example.nunique()} examples it is negative "
        "(purple). The axes’ limits are set by the pooled T and by C at α ≥ 1: below, float32 rounding divided by σ² "
        "widens the intervals. Arrowheads are points outside them, and bars that reach the frame go on."
    )
