"""P2: variance over draws of one draw, of two, and of a pair."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.intervals import PERCENT
from analysis.style import colour
from symnoise.curvature import SmoothedCurvature
from symnoise.plot.numbers import number
from symnoise.plot.style import DOUBLE, FAINT, INK, RULE, alpha_axis, cut, decades, figure, heading, log_axis, styled
from symnoise.theory import check_variances_on_text

TITLE = "Variance over draws: one, two, and a mirrored pair"
TABLES, STAGES = ("variances",), ("analytic", "tiny", "validity")
ALT = "Log-log plots of the variance over draws against sigma, for one draw, two draws and a mirrored pair."

SCHEMES = {"one draw": (FAINT, "o"), "two draws": (INK, "s"), "pair": (colour("symnoise"), "D")}


def frame(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """measured with its interval, and predicted. On text both are means over examples: the measured point is the mean
    prediction times the mean over examples of measured over predicted, as in the ledger."""
    parts = [tables["variances"].assign(alpha=np.nan)] if len(tables["variances"]) else []
    if "variances on text" in tables:
        text = on_text(tables["variances on text"])
        sigma = tables["validity"][["where", "alpha", "sigma"]]
        parts.append(text.drop(columns="ratio").merge(sigma, on=["where", "alpha"], how="left"))
    return pd.concat(parts, ignore_index=True)


def measured(smoothed: SmoothedCurvature, alphas: list[float], where: str) -> dict[str, pd.DataFrame]:
    """The tables of a measurement in memory."""
    text = check_variances_on_text(smoothed, alphas, where=where)
    sigmas = {"where": where, "alpha": alphas, "sigma": smoothed.sigmas.mean(1).tolist()}
    tables = {"variances": pd.DataFrame(), "validity": pd.DataFrame(sigmas)}
    return tables | {name: pd.DataFrame(records) for name, records in text.tables.items()}


def on_text(table: pd.DataFrame) -> pd.DataFrame:
    """measured, low and high as the mean prediction times the mean over examples of measured over predicted."""
    ends = {end: table.predicted * table[end] for end in ("low", "high")}
    return table.assign(measured=table.predicted * table.ratio, **ends)


@styled
def draw(data: pd.DataFrame) -> Figure:
    """One panel per subject, with predictions as lines."""
    subjects = list(dict.fromkeys(data["where"]))
    drawn = figure(DOUBLE, 2.6)
    axes = drawn.subplots(1, len(subjects), squeeze=False)[0]
    for ax, subject, letter in zip(axes, subjects, "abcdef", strict=False):
        part = data[data["where"] == subject]
        by = "alpha" if part.alpha.notna().all() else "sigma"
        floor = np.nanmin([part.measured.min(), part.predicted.min()]) / 4
        for scheme, (ink, marker) in SCHEMES.items():
            points = part[part.scheme == scheme].sort_values(by)
            ax.plot(points[by], points.predicted, color=ink, lw=0.9)
            for p in points.to_dict("records"):
                cut(ax, p[by], p["measured"], p["low"], p["high"], (floor, np.inf), ink, marker=marker)
        decades(ax)
        ax.set_ylim(floor / 1.6, None)
        if by == "alpha":
            alpha_axis(ax, sorted(part.alpha.unique()), float((part.sigma / part.alpha).mean()))
        else:
            log_axis(ax)
            ax.set_xlabel("σ (of one coordinate)")
        if letter == "a":
            ax.set_ylabel("variance over draws, in units of ℓ²")
            _labels(ax, part, by)
        ax.grid(color=RULE, lw=0.3)
        ax.set_title(f"{letter}  {heading(subject)}")
    return drawn


def _labels(ax: Axes, part: pd.DataFrame, by: str) -> None:
    """Each line labelled next to its middle: one draw above, the others below."""
    for scheme, (ink, _) in SCHEMES.items():
        points = part[part.scheme == scheme].sort_values(by)
        if len(points):
            at = points.iloc[(len(points) - 1) // 2]
            above = scheme == "one draw"
            ax.annotate(
                scheme,
                (at[by], at.predicted),
                (-5, 2) if above else (5, -2),
                textcoords="offset points",
                color=ink,
                ha="right" if above else "left",
                va="bottom" if above else "top",
            )


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    text = data[data.alpha.notna()]
    said = (
        "Variance over draws of the loss under one draw of Rademacher noise, the mean of two, and a mirrored pair. "
        f"Lines are the leading-order predictions σ²‖g‖², half of it, and (σ⁴/4) Var(zᵀHz); bars are "
        f"{PERCENT} intervals."
    )
    if len(text):
        ratio = text.pivot_table(index="alpha", columns="scheme", values="measured")
        if {"pair", "two draws"} <= set(ratio.columns):
            known = text[(text.scheme == "pair") & (text.low > 0)].alpha  # where a ratio has an upper end
            gain = (ratio["two draws"] / ratio["pair"]).reindex(sorted(known))
            if len(gain):
                said += (
                    f" On text, two draws, which cost as much as a pair, have about {number(gain.iloc[0], 1)} times "
                    f"its variance at α = {gain.index[0]:g} and about {number(gain.iloc[-1], 1)} times at "
                    f"α = {gain.index[-1]:g}."
                )
    else:
        said += " Nothing measured on text yet."
    return said
