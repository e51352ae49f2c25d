"""What several figures of the study need: arms at each α, lines with bands, one legend for all panels."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator, ScalarFormatter

from analysis.study.contrasts import LEVEL
from analysis.study.pairs import interval
from analysis.style import colour, dash, name, order
from result_schema.study import PLAIN
from symnoise.plot.numbers import plural


def arms_at(runs: pd.DataFrame) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """arm, α and the runs of that arm, at every α of the study; an arm without α appears at each."""
    alphas = sorted(runs.alpha.dropna().unique()) or [float("nan")]
    for arm in order(runs.arm):
        for alpha in alphas:
            own = runs[(runs.arm == arm) & ((runs.alpha == alpha) | runs.arm.isin(PLAIN))]
            if len(own):
                yield arm, alpha, own


def mean_over_seeds(values: pd.Series, *key: str | float) -> dict[str, Any]:
    """value, its 95 % interval low and high over the seeds (NaN for one seed), and how many seeds."""
    made = interval(values.to_numpy(float), LEVEL, *key)
    return {"value": made.mean, "low": made.low, "high": made.high, "seeds": len(values)}


def at(alpha: float) -> str:
    """`α = 5`; "" if there is none."""
    return "" if pd.isna(alpha) else f"α = {alpha:g}"


def stretch(ax: Axes, values: pd.Series, share: float = 0.8) -> None:
    """Make the x-axis linear up to the `share` quantile of |value| and logarithmic beyond, if the largest is more
    than three times that: otherwise one distant arm would squeeze all others together."""
    sizes = values.abs()
    bend = float(sizes.quantile(share))
    if not sizes.max() > 3 * bend > 0:
        return
    ax.set_xscale("symlog", linthresh=bend, linscale=1.5)
    powers = [10.0**k for k in range(math.ceil(math.log10(bend)), math.ceil(math.log10(sizes.max())))]
    digit = 10.0 ** math.floor(math.log10(bend))
    ticks = [*(-power for power in powers), 0.0, bend // digit * digit, *powers]
    ax.set_xticks([tick for tick in ticks if min(values.min(), 0) <= tick <= values.max()])
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())


def line(ax: Axes, points: pd.DataFrame, arm: str, scale: float = 1) -> None:
    """Mean against step, and its interval as a band."""
    points = points.sort_values("step")
    ax.fill_between(points.step, scale * points.low, scale * points.high, color=colour(arm), alpha=0.1, lw=0)
    ax.plot(points.step, scale * points.value, color=colour(arm), ls=dash(arm), lw=1.1)


def legend(drawn: Figure, arms: Sequence[str], columns: int = 5, **look: Any) -> None:
    """One legend for all panels, below them."""
    marks = [Line2D([], [], color=colour(arm), ls=dash(arm), label=name(arm), **look) for arm in arms]
    drawn.legend(handles=marks, loc="outside lower center", ncols=columns, handlelength=2.6, columnspacing=1.4)


def seeds_said(data: pd.DataFrame) -> str:
    """How many seeds, and what that means for the intervals."""
    low, high = int(data.seeds.min()), int(data.seeds.max())
    seeds = plural(high, "seed") if low == high else f"{low} to {high} seeds"
    if high < 2:
        return f"{seeds}: one gives no interval."
    kind = "bootstrap" if low >= 6 else "Student’s, since a bootstrap of so few cannot reach 95 %"
    return f"{seeds}; intervals are 95 % over seeds ({kind})."
