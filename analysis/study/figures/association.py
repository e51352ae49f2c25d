"""O2: a run's outcome against its curvature."""

import math
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.study.claims import ODD_ONE_OUT, between_settings, outcomes
from analysis.study.contrasts import LEVEL
from analysis.study.data import StudyTables, measurements
from analysis.study.figures.shared import at, stretch
from analysis.style import colour, name, order
from result_schema.measures import CURVATURE
from symnoise.plot.numbers import fixed, plural
from symnoise.plot.style import DOUBLE, FAINT, RULE, figure, heading, styled

TITLE = "Outcome against curvature at the end of training"
ALT = "Scatter of held-out outcome against each curvature quantity, one point per setting, coloured by arm."
NEEDS = "curvature and outcomes at the end of finished runs"

MARKERS = ("o", "s", "^", "D", "v")
# Arms of one law share its colour and differ in which part of the marker is filled.
FILLS: dict[str, Any] = dict.fromkeys(
    ("none-double-batch", "independent-pair", "uniform-pair", "gaussian-pair"), "none"
)
FILLS |= {"rademacher": "left", "symnoise-half-batch": "bottom"}


def frame(study: StudyTables, contrasts: pd.DataFrame) -> pd.DataFrame:
    """One row per setting (arm and α), quantity and outcome: means over the seeds, and the panel's ρ between arms
    (`between_settings`) with quality, without the penalty arm, and its 95 % interval."""
    measured = measurements(study)
    own = measured[measured.run.isin(study.runs.run)]
    parts = []
    for quantity in CURVATURE:
        for outcome in outcomes(own, study.runs, quantity)[-2:]:
            found = outcome.frame[outcome.frame.arm != ODD_ONE_OUT]
            rho = between_settings(found, outcome.given)
            low, high = rho.interval(LEVEL)
            facts: dict[str, Any] = {
                "quantity": quantity,
                "outcome": outcome.label,
                "rho": rho.value,
                "low": low,
                "high": high,
            }
            means = found.groupby(["arm", "alpha"], dropna=False)
            table = means.agg(curvature=("curvature", "mean"), value=("value", "mean"), seeds=("seed", "nunique"))
            parts.append(table.reset_index().assign(**facts, given=outcome.given))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


@styled
def draw(data: pd.DataFrame) -> Figure:
    """A column for each quantity, a row for each outcome."""
    quantities, labels = list(dict.fromkeys(data.quantity)), sorted(set(data.outcome), reverse=True)
    alphas = sorted(data.alpha.dropna().unique())
    drawn = figure(DOUBLE, 0.75 + 1.75 * len(labels))
    axes = drawn.subplots(len(labels), len(quantities), sharex="col", sharey="row", squeeze=False)
    for i, label in enumerate(labels):
        for j, quantity in enumerate(quantities):
            ax, part = axes[i, j], data[(data.quantity == quantity) & (data.outcome == label)]
            for (arm, alpha), own in part.groupby(["arm", "alpha"], dropna=False):
                mark = _marker(alphas, alpha)
                look = {"color": colour(str(arm)), "fillstyle": FILLS.get(str(arm), "full")}
                ax.plot(own.curvature, own.value, mark, **look, ms=4, mew=0.8, alpha=0.9)
            stretch(ax, data[data["quantity"] == quantity].curvature)
            if len(part) and (one := part.iloc[0]).rho == one.rho:
                span = f" ({fixed(one.low, 2)} to {fixed(one.high, 2)})" if one.low == one.low else ""
                ax.set_title(f"ρ = {fixed(one.rho, 2)}{span}", loc="right", fontweight="normal", fontsize=6.5)
            ax.grid(color=RULE, lw=0.3)
            ax.set_title(chr(97 + i * len(quantities) + j))
        axes[i, 0].set_ylabel(heading(label))
    for ax, quantity in zip(axes[-1], quantities, strict=True):
        ax.set_xlabel(quantity)
    marks = [
        Line2D([], [], ls="none", marker="o", ms=3.5, color=colour(a), fillstyle=FILLS.get(a, "full"), label=name(a))
        for a in order(data.arm)
    ]
    marks += [
        Line2D([], [], ls="none", marker=_marker(alphas, a), ms=3.5, color=FAINT, label=at(a) or "no α")
        for a in (alphas if data.alpha.notna().all() else [*alphas, math.nan])
    ]
    drawn.legend(handles=marks, loc="outside lower center", ncols=5, handletextpad=0.2, columnspacing=1.2)
    return drawn


def _marker(alphas: list[float], alpha: float) -> str:
    return MARKERS[alphas.index(alpha) % len(MARKERS)] if alpha in alphas else "P"


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    none = data.low.isna().all()
    return (
        f"One point per setting (arm and α), means over up to {plural(int(data.seeds.max()), 'seed')}; curvature is "
        "the mean over the held-out prompts at the end, in nats per squared embedding unit (the two-sided KL: nats per "
        "token). ρ is a rank correlation with quality, for which a loss counts as its negative, so below 0 is what O2 "
        "predicts: ranks are taken within each α and averaged over an arm’s α, so that what α itself does to both, "
        "which the points show, does not count; of a score it is partial, given the length of the replies; the "
        "penalty arm is left out. "
        + ("So few arms give no interval. " if none else "95 % interval over arms. ")
        + "An axis on which one arm lies far off is logarithmic there. Settings that differ in both correlate, "
        "whatever the cause."
    )
