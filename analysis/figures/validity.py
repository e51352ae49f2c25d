"""V1: what is left of the quadratic term at the size of the noise, by two numbers and example by example."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.intervals import PERCENT
from symnoise.curvature import SmoothedCurvature
from symnoise.curvature.pooled import range_of_validity
from symnoise.plot.numbers import fixed, number
from symnoise.plot.style import DOUBLE, FAINT, INK, RULE, alpha_axis, cut, figure, label_ends, styled
from symnoise.theory import check_validity

TITLE = "Where the Hessian describes the noise"
TABLES, STAGES = ("validity", "validity by example"), ("validity",)
ALT = "Attenuation slope and ratio of means against alpha, pooled over examples; mean excess against its second order."

TRAINING = (5.0, 10.0, 15.0)  # NEFTune's training α
INKS = {"T": INK, "R": "#0b6b8a"}
WORDS = {"T": "slope Σxy/Σx²", "R": "ratio Σy/Σx"}
_OF_A_TEXT = {"T": "T", "T_without": "T without", "excess": "excess", "second_order": "second order"}
WIDEST = 2.0  # interval that is drawn: a wider one cannot tell 1 from none


def frame(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Both numbers pooled (no example); per example its slope T, that of the others, mean excess y and second order x.

    For pooled numbers low and high are for texts like these, these_low and these_high for these texts.
    """
    pooled, single = tables["validity"], tables["validity by example"]
    parts = []
    for quantity in WORDS:
        names = {f"{quantity}{end}": end.strip("_") or "value" for end in ("", "_low", "_high")}
        names |= {f"{quantity}_these_{end}": f"these_{end}" for end in ("low", "high")}
        own = pooled[["where", "alpha", "sigma", *names]].rename(columns=names)
        parts.append(own.assign(quantity=quantity, example=np.nan))
    for column, quantity in _OF_A_TEXT.items():
        own = single[["where", "example", "alpha", "sigma", column]].rename(columns={column: "value"})
        parts.append(own.assign(quantity=quantity))
    columns = ["where", "quantity", "example", "alpha", "sigma", "value", "low", "high", "these_low", "these_high"]
    return pd.concat([part.dropna(axis=1, how="all") for part in parts], ignore_index=True).reindex(columns=columns)


def measured(smoothed: SmoothedCurvature, alphas: list[float], where: str) -> dict[str, pd.DataFrame]:
    """The tables of a measurement in memory."""
    found = check_validity(smoothed, alphas, where=where, training=TRAINING)
    return {name: pd.DataFrame(records) for name, records in found.tables.items()}


def pooled(data: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """The pooled points of one number on the first text, from the figure's data."""
    own = data[data.example.isna() & (data.quantity == quantity)]
    return own[own["where"] == own["where"].iloc[0]] if len(own) and "where" in own else own


def without_one(tables: Mapping[str, pd.DataFrame]) -> str:
    """`4.6 to 6.2 with one text left out`: `radius` of the others' slopes, over the texts of the run's first set."""
    single = first_text(tables["validity by example"])
    curves = (own[["alpha", "T_without"]].set_axis(["alpha", "value"], axis=1) for _, own in single.groupby("example"))
    edges = [math.inf if math.isnan(edge) else edge for edge in map(radius, curves)]
    low, high = (number(edge, 2) if math.isfinite(edge) else "beyond" for edge in (min(edges), max(edges)))
    return f"{low} to {high} with one text left out"


def first_text(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the run's first text, by rising α, of a table of validity."""
    return table[table["where"] == table["where"].iloc[0]].sort_values("alpha")


def radius(pooled: pd.DataFrame, margin: float = 0.1) -> float:
    """The α at which pooled |T − 1| first passes `margin`, linear in α² between the measured ones; NaN if never.

    pooled: columns alpha and T (or value). |T − 1| is taken to start at 0 for α = 0, where T is 1 by definition.
    """
    points = pooled.sort_values("alpha")
    return range_of_validity(points.alpha, points["T"] if "T" in points else points["value"], margin)


@styled
def draw(data: pd.DataFrame) -> Figure:
    """Left: both numbers against α. Right: the examples at a training α."""
    drawn = figure(DOUBLE, 3.0)
    left, right = drawn.subplots(1, 2, width_ratios=(1.15, 1))
    alphas = sorted(data.alpha.unique())
    every, single = data[data.example.isna()], data[data.example.notna()]
    texts = list(dict.fromkeys(data["where"]))
    sure = every[np.isfinite(every.these_low) & np.isfinite(every.these_high)]  # the others say too little for the axes
    limits = min(-0.25, sure.value.min() - 0.2), max(2.0, sure.value.max() + 0.3)
    left.axhspan(0.9, 1.1, color=RULE, alpha=0.6, lw=0)
    left.axhline(1, color=INK, lw=0.6)
    for _, own in single[(single.quantity == "T") & (single["where"] == texts[0])].groupby("example"):
        own = own.sort_values("alpha")
        left.plot(own.alpha, own.value, color=FAINT, lw=0.35, alpha=0.5, zorder=1)
    ends = []
    for k, where in enumerate(texts):
        for side, quantity in ((-1, "T"), (1, "R")):
            own = every[(every.quantity == quantity) & (every["where"] == where)].sort_values("alpha")
            ends.append(_pooled(left, own, quantity, 1.02 ** (side * (1 + k)), limits, dashed=k > 0))
    left.set_ylim(*limits)
    left.set_ylabel("excess ÷ second-order term")
    left.set_title("a  Two answers")
    left.annotate("±10 %", (0, 0.9), (3, -1), xycoords=("axes fraction", "data"), textcoords="offset points", va="top")
    used = [a for a in TRAINING if a in alphas]
    for alpha in used:
        left.axvline(alpha, color=FAINT, lw=0.7, ls=(0, (1, 1.5)), zorder=0)
    alpha_axis(left, alphas, float((data.sigma / data.alpha).mean()))
    left.set_xlim(alphas[0] / 1.2, alphas[-1] * 1.15)
    if used:
        place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        look: dict[str, Any] = {"rotation": 90, "color": FAINT, "ha": "right", "va": "bottom", "fontsize": 6}
        left.annotate("training’s α", (used[0], 0.03), (-2, 0), **place, **look)
    _scatter(right, data, texts[0], shown_alpha(data))
    label_ends(drawn, [(left, ends)], gap=7, pad=3)
    return drawn


def _pooled(
    ax: Axes, own: pd.DataFrame, quantity: str, beside: float, limits: tuple[float, float], dashed: bool
) -> tuple[float, float, str, str]:
    """One number's curve with its intervals; where its label goes."""
    at, ink = own.alpha * beside, INKS[quantity]
    ax.plot(at, own.value, color=ink, lw=1.4, ls=(0, (4, 2)) if dashed else "-", zorder=3)
    for x, p in zip(at, own.to_dict("records"), strict=True):
        says = p["these_high"] - p["these_low"] <= WIDEST
        look: dict[str, Any] = {
            "markersize": 3.5 if says else 2,
            "elinewidth": 1.0,
            "zorder": 4,
            "arrows": False,
            "mfc": "white" if dashed else ink,
        }
        low, high = (p["these_low"], p["these_high"]) if says else (np.nan, np.nan)
        cut(ax, x, p["value"], low, high, limits, ink, **look)
    name, _ = WORDS[quantity].split()
    said = f"{name}, {Path(own['where'].iloc[0].split(' on ')[-1]).stem}" if dashed else WORDS[quantity]
    return float(at.iloc[-1]), float(np.clip(own.value.iloc[-1], *limits)), said, ink


def shown_alpha(data: pd.DataFrame) -> float:
    """The α of the second panel: 10, or the largest."""
    return 10.0 if 10.0 in set(data.alpha) else float(data.alpha.max())


def _scatter(ax: Axes, data: pd.DataFrame, where: str, alpha: float) -> None:
    """Mean excess against its second-order term, one point per example, with the lines of both numbers."""
    own = data[(data["where"] == where) & (data.alpha == alpha)]
    points = own[own.example.notna()].pivot_table(index="example", columns="quantity", values="value")
    x, y = points["second order"], points["excess"]
    width = float(np.median(np.abs(np.r_[x, y]))) or 1.0
    reach = 1.3 * float(np.abs(np.r_[x, y]).max())
    for scale in (ax.set_xscale, ax.set_yscale):
        scale("asinh", linear_width=width)
    line = width * np.sinh(np.linspace(-1, 1, 201) * np.arcsinh(reach / width))
    ax.plot(line, line, color=RULE, lw=0.9, zorder=0)
    ax.axhline(0, color=RULE, lw=0.4, zorder=0)
    ax.axvline(0, color=RULE, lw=0.4, zorder=0)
    slope = float(own[own.example.isna() & (own.quantity == "T")].value.iloc[0])
    ax.plot(line, slope * line, color=INKS["T"], lw=1.1)
    ax.plot(x, y, "o", color=FAINT, ms=2.6, alpha=0.8, mew=0)
    ax.plot(x.mean(), y.mean(), "D", color=INKS["R"], ms=5.5, zorder=5)
    ax.set_xlim(-reach, reach)
    ax.set_ylim(-reach, reach)
    ticks = [tick for tick in (0.001, 0.01, 0.1, 1.0, 10.0) if 0.4 * width < tick < reach]
    both = [-t for t in reversed(ticks)] + [0.0, *ticks]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks(both, [f"{t:g}".replace("-", "−") for t in both])
        axis.set_ticks([], minor=True)
    ax.set_xlabel("x = ½σ²zᵀHz, mean over draws (nats)")
    ax.set_ylabel("y = pairs’ excess, mean over draws (nats)")
    ax.set_title(f"b  Each text, α = {alpha:g}")
    ax.annotate("y = x", (0.97 * reach, 0.97 * reach), (-16, -9), textcoords="offset points", color=FAINT, ha="right")
    place: dict[str, Any] = {"xycoords": "axes fraction", "ha": "left", "va": "top"}
    ax.annotate("line: slope", (0.04, 0.97), color=INKS["T"], **place)
    ax.annotate("diamond: means, their ratio", (0.04, 0.91), color=INKS["R"], **place)


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    first = pd.concat([pooled(data, quantity) for quantity in WORDS])
    examples = int(data[data["where"] == first["where"].iloc[0]].example.nunique())
    edge = radius(first[first.quantity == "T"])
    said = (
        f"passes 10 % at α ≈ {number(edge, 2)}"
        if np.isfinite(edge)
        else f"stays within 10 % up to α = {first.alpha.max():g}"
    )
    every = data[data.example.isna() & data.quantity.isin(WORDS)]
    open_ = int((~(every.these_high.astype(float) - every.these_low.astype(float) <= WIDEST)).sum())
    second = every["where"].nunique() > 1
    shown = "; ".join(
        f"α = {alpha:g}: slope {number(own['T'], 3)}, ratio {number(own['R'], 3)}"
        for alpha, own in first.pivot_table(index="alpha", columns="quantity", values="value").iterrows()
        if alpha in TRAINING
    )
    texts = data[(data.quantity == "T without") & (data["where"] == data["where"].iloc[0]) & data.value.notna()]
    one_out = "; ".join(
        f"{fixed(own.min(), 2)} to {fixed(own.max(), 2)} at α = {alpha:g}"
        for alpha, own in texts.groupby("alpha").value
        if alpha in TRAINING
    )
    left_out = f"; slope with one text left out {one_out}" if one_out else ""
    return (
        f"A pair’s excess y against its second order x = ½σ²zᵀHz, over {examples} texts. Black: Σxy/Σx², the share of "
        "large curvature left at this σ. Blue: Σy/Σx, that of the mean curvature, which training averages. They "
        f"answer different questions. {shown}{left_out}. Bars are {PERCENT} intervals for these texts alone"
        + (
            f"; {open_} {'is' if open_ == 1 else 'are'} wider than {WIDEST:g} or unbounded, since few "
            "draws carry Σx² or Σx may be 0, and not drawn (small points)"
            if open_
            else ""
        )
        + ("; dashed and open: the second text" if second else "")
        + "; triangles: outside the frame"
        + ". (a) Against α (mean σ above); grey: the slope of each text, cut off at the frame; band: 1 ± 10 %; dotted: "
        f"NEFTune’s training α. |slope − 1| {said} (linear in α² between the measured ones). "
        f"(b) Each text’s means at α = {shown_alpha(data):g}, on axes that are linear near 0 and logarithmic beyond."
    )
