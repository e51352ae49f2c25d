"""The small fine-tuning comparison: held-out loss, embedding norms, curvature before and after."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.intervals import bounds
from analysis.style import colour, name, order
from symnoise.plot.style import DOUBLE, FAINT, INK, RULE, figure, interval, label_ends, styled

TITLE = "A small fine-tuning comparison (a demonstration, one seed)"
TABLES, STAGES = ("curves", "curvature by arm"), ("training-*",)
ALT = "By arm: held-out loss and embedding norm against step, and curvature before and after training."

LEVEL = 0.95


def frame(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Curves (no interval: one seed) and curvature, a mean over examples with its interval over probes."""
    curves = tables["curves"]
    start = curves[curves.step == 0].set_index("arm").used_row_norm
    keep = curves[["arm", "step"]]
    parts = [
        keep.assign(quantity="held-out loss", value=curves.held_out_loss),
        keep.assign(quantity="norm growth", value=curves.used_row_norm / curves.arm.map(start) - 1),
    ]
    records = []
    for (arm, when, quantity), points in tables["curvature by arm"].groupby(["arm", "when", "quantity"], sort=False):
        # As Estimate.mean: standard errors of independent probes, degrees of freedom by Satterthwaite.
        s2 = points.stderr.astype(float) ** 2
        freedom = s2.sum() ** 2 / (s2**2 / points.dof).sum() if s2.sum() > 0 else np.inf
        facts = {"arm": arm, "when": when, "quantity": quantity, "examples": len(points)}
        records.append(
            facts | {"value": points.value.mean(), "stderr": s2.sum(skipna=False) ** 0.5 / len(points), "dof": freedom}
        )
    means = pd.DataFrame(records)
    low, high = bounds(means.value, means.stderr, means.dof, LEVEL)
    return pd.concat([*parts, means.assign(low=low, high=high)], ignore_index=True)


@styled
def draw(data: pd.DataFrame) -> Figure:
    """Three panels: loss, norms, curvature."""
    drawn, labels = figure(DOUBLE, 2.75), []
    loss, norm, curvature = drawn.subplots(1, 3, width_ratios=(1, 1, 1.25))
    arms = order(data.arm)
    for ax, quantity, scale, title, label in (
        (loss, "held-out loss", 1, "a  Held-out loss", "cross-entropy (nats per token)"),
        (norm, "norm growth", 100, "b  Norm of trained rows", "growth of the mean row norm (%)"),
    ):
        ends = []
        for arm in arms:
            line = data[(data.quantity == quantity) & (data.arm == arm)].sort_values("step")
            ax.plot(line.step, scale * line.value, color=colour(arm), marker="o", ms=2)
            ends.append((line.step.iloc[-1], scale * line.value.iloc[-1], name(arm), colour(arm)))
        ax.set(xlabel="step", ylabel=label)
        ax.set_title(title)
        ax.grid(color=RULE, lw=0.3)
        labels.append((ax, ends))
    quantities = [q for q in ("tr H", "tr G", "C(σ)") if q in set(data.quantity)]
    for k, quantity in enumerate(quantities):
        part = data[data.quantity == quantity]
        # The same model and probes in every arm, so one point stands for all.
        for p in part[part.when == "before"].head(1).to_dict("records"):
            interval(curvature, k - 0.36, p["value"], p["low"], p["high"], INK, mfc="white")
            curvature.plot([k - 0.36, k + 0.36], [p["value"]] * 2, color=FAINT, lw=0.5, ls=(0, (2, 2)), zorder=1)
        for j, arm in enumerate(arms):
            after = part[(part.when == "after") & (part.arm == arm)]
            for p in after.to_dict("records"):
                interval(curvature, k - 0.15 + 0.15 * j, p["value"], p["low"], p["high"], colour(arm))
    curvature.margins(y=0.14)
    curvature.axhline(0, color=INK, lw=0.6)
    curvature.set_xticks(range(len(quantities)), quantities)
    curvature.tick_params(axis="x", length=0)
    curvature.set_ylabel("mean over examples")
    curvature.annotate("○ before   ● after", (0.98, 0.98), xycoords="axes fraction", ha="right", va="top", fontsize=6.5)
    curvature.set_title("c  Curvature")
    curvature.grid(axis="y", color=RULE, lw=0.3)
    label_ends(drawn, labels[:1])  # the colours are the same in all three
    drawn.supxlabel(
        "demonstration, one seed: the curves have no interval", fontsize=6, color=FAINT, ha="right", x=0.995
    )
    return drawn


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    measured = data[data.when.notna()]
    examples = int(measured.examples.max()) if len(measured) else 0
    none = int(measured.low.isna().sum())
    return (
        f"A demonstration, not evidence: {data.arm.nunique()} arms, one seed, {int(data.step.max())} steps. (a) Loss "
        "on held-out replies and (b) growth of the mean norm of the embedding rows used by the training text have "
        f"no interval with one seed. (c) Curvature, the mean over {examples} held-out examples, before "
        "(open) and after training, with 95 % intervals over probes, which are the same in every run; they do not "
        "cover other seeds." + (f" {none} of these points have no interval." if none else "")
    )
