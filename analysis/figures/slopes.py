"""S2 and S3: how the difference between two laws grows with σ."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.intervals import PERCENT
from analysis.style import colour
from symnoise.plot.style import DOUBLE, FAINT, RULE, cut, decades, figure, heading, label_ends, log_axis, styled

TITLE = "Differences between laws as the noise grows"
TABLES, STAGES = ("slopes",), ("analytic", "tiny")
ALT = "Log-log plots of differences between laws against sigma, with reference slopes 2 and 4."

_MARKERS = {"uniform": "o", "rademacher": "s", "gaussian-raw": "^"}
LABELS = {
    "uniform": "uniform",
    "gaussian": "Gaussian",
    "rademacher": "Rademacher",
    "gaussian-raw": "raw Gaussian",
}
_ORDERS = {("uniform", "gaussian"): 4, ("gaussian-raw", "uniform"): 2}  # of the reference lines


def frame(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """|difference| at each σ; low and high are empty for closed-form values."""
    return tables["slopes"].assign(kind=np.where(tables["slopes"].low.isna(), "closed form", "sampled"))


@styled
def draw(data: pd.DataFrame) -> Figure:
    """A panel for each subject; lines through closed-form values, points with intervals for sampled ones."""
    subjects = list(dict.fromkeys(data["where"]))
    drawn, labels = figure(DOUBLE, 2.6), []
    axes = drawn.subplots(1, len(subjects), squeeze=False)[0]
    for ax, subject, letter in zip(axes, subjects, "abcdef", strict=False):
        part = data[data["where"] == subject]
        floor = part.value.min() / 4  # intervals that reach 0 do not fit on a logarithmic axis: cut, with an arrow
        ends = []
        for k, ((first, second), points) in enumerate(part.groupby(["first", "second"], sort=False)):
            _draw_difference(ax, points, str(first), k, floor)
            last = points.loc[points.sigma.idxmax()]
            said = " − ".join(LABELS.get(law, law) for law in (str(first), str(second)))
            ends.append((last.sigma, last.value, said, colour(str(first))))
        labels.append((ax, ends))
        ax.set_xlabel("σ (of one coordinate)")
        decades(ax)
        log_axis(ax)
        ax.set_xlim(part.sigma.min() / 1.15, part.sigma.max() * 1.15)
        ax.set_ylim(floor / 1.5, np.nanmax([part.value.max(), part.high.max()]) * 2)
        _draw_reference_slopes(ax, part)
        if letter == "a":
            ax.set_ylabel("|difference of E ℓ(X+σz)|, in units of ℓ")
        ax.grid(color=RULE, lw=0.3)
        ax.set_title(f"{letter}  {heading(subject)}")
    label_ends(drawn, labels)
    return drawn


def _draw_difference(ax: Axes, points: pd.DataFrame, first: str, k: int, floor: float) -> None:
    """The k-th pair of laws of a panel, in the colour of its first."""
    ink = colour(first)
    exact = points[points.kind == "closed form"].sort_values("sigma")
    sampled = points[points.kind == "sampled"].sort_values("sigma")
    if len(exact):
        ax.plot(exact.sigma, exact.value, color=ink)
    else:
        ax.plot(sampled.sigma, sampled.value, color=ink, lw=0.6, alpha=0.6)
    for p in sampled.to_dict("records"):
        at = p["sigma"] * 1.025 ** (k - 1)  # side by side, or the bars hide one another
        cut(ax, at, p["value"], p["low"], p["high"], (floor, np.inf), ink, marker=_MARKERS.get(first, "o"))


def _draw_reference_slopes(ax: Axes, part: pd.DataFrame) -> None:
    """A dashed line of the slope that the theory gives, below the data of each pair that has one."""
    low = part.sigma.min()
    for (first, second), order in _ORDERS.items():
        chosen = part[(part["first"] == first) & (part.second == second)]
        if chosen.empty:
            continue
        top = chosen.nlargest(1, "sigma").iloc[0]
        start = top.value / 2.6 * (low / top.sigma) ** order
        ax.plot([low, top.sigma], [start, top.value / 2.6], color=FAINT, lw=0.8, ls=(0, (4, 2.5)), zorder=1)
        middle = (low * top.sigma) ** 0.5
        ax.annotate(
            f"slope {order}",
            (middle, top.value / 2.6 * (middle / top.sigma) ** order),
            (3, -4),
            textcoords="offset points",
            color=FAINT,
            va="top",
        )


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    sampled = data[data.kind == "sampled"]
    cut = int((sampled.low <= 0).sum())
    return (
        "Difference between the losses smoothed by two laws, against σ, on logarithmic axes. Solid lines are closed "
        f"forms, points coupled draws with {PERCENT} intervals; dashed lines have the slopes predicted by theory, "
        "4 (S2) and 2 (S3), and are placed below the data for comparison."
        + (f" {cut} intervals reach 0 and are cut off (▾)." if cut else "")
    )
