"""Curvature on held-out prompts before, during and after training, by arm."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.study.data import STAGES, StudyTables
from analysis.study.figures.shared import arms_at, at, mean_over_seeds, seeds_said, stretch
from analysis.style import colour, name, order
from result_schema.measures import SPLIT
from symnoise.plot.style import DOUBLE, FAINT, RULE, figure, styled

TITLE = "Curvature on held-out prompts, before, during and after training"
ALT = "For each arm, the mean curvature over held-out prompts at three times, tr H and its two parts."
NEEDS = "curvature of finished runs"

FACES = {"before": "white", "during": RULE}


def frame(study: StudyTables, contrasts: pd.DataFrame) -> pd.DataFrame:
    """Mean over held-out examples, then over seeds, with its 95 % interval over seeds; finished runs only."""
    done = study.runs[study.runs.status == "done"]
    part = study.curvature[study.curvature.quantity.isin(SPLIT)]
    by_run = (
        part.groupby(["quantity", "stage", "run"])
        .agg(value=("value", "mean"), examples=("example", "nunique"))
        .reset_index()
    )
    records = []
    for arm, alpha, own in arms_at(done):
        mine = by_run[by_run.run.isin(own.run)]
        for quantity in SPLIT:
            for stage in STAGES:
                values = mine[(mine["quantity"] == quantity) & (mine["stage"] == stage)]
                if len(values):
                    made = mean_over_seeds(values.value, "curvature", arm, alpha, quantity, stage)
                    facts = {"arm": arm, "alpha": alpha, "quantity": quantity, "stage": stage}
                    records.append(facts | made | {"examples": int(values.examples.max())})
    return pd.DataFrame(records)


@styled
def draw(data: pd.DataFrame) -> Figure:
    """One line per arm, a column for each quantity, a row for each α."""
    quantities = [q for q in SPLIT if q in set(data.quantity)]
    alphas, reference = list(dict.fromkeys(data.alpha)), order(data.arm)[0]
    rows = [data[data.alpha.isna() if pd.isna(alpha) else data.alpha == alpha] for alpha in alphas]
    counts = [row.arm.nunique() for row in rows]
    drawn = figure(DOUBLE, 0.5 + 0.3 * len(rows) + 0.135 * sum(counts))
    axes = drawn.subplots(
        len(rows), len(quantities), sharex="col", sharey="row", squeeze=False, height_ratios=[n + 1 for n in counts]
    )
    for i, (alpha, row) in enumerate(zip(alphas, rows, strict=True)):
        arms = order(row.arm)
        for j, quantity in enumerate(quantities):
            ax, here = axes[i, j], row[row["quantity"] == quantity]
            for value in here[(here.arm == reference) & (here.stage == "after")].value:
                ax.axvline(value, color=FAINT, lw=0.6, ls=(0, (2, 2)), zorder=0)
            for y, arm in enumerate(arms):
                points = here[here.arm == arm].set_index("stage").reindex(STAGES).dropna(subset=["value"])
                ax.plot(points.value, [y] * len(points), color=colour(arm), lw=0.5, alpha=0.6)
                for stage, p in points.iterrows():
                    if stage == "after" and p.low == p.low:
                        ax.plot([p.low, p.high], [y, y], color=colour(arm), lw=1.8, alpha=0.55)
                    face = FACES.get(str(stage), colour(arm))
                    ax.plot(p.value, y, "o", color=colour(arm), mfc=face, ms=3.2, mew=0.8)
            stretch(ax, data[data["quantity"] == quantity].value)
            ax.grid(axis="x", color=RULE, lw=0.3)
            ax.tick_params(axis="y", length=0)
            if i == 0:
                ax.set_title(f"{chr(97 + j)}  {quantity}")
            if j == len(quantities) - 1:
                ax.set_title(at(alpha), loc="right", fontweight="normal", fontsize=7)
        axes[i, 0].set_yticks(range(len(arms)), [name(arm) for arm in arms], fontsize=6)
        axes[i, 0].set_ylim(len(arms) - 0.4, -0.6)
    drawn.supxlabel("mean over held-out prompts (nats per squared embedding unit)", fontsize=7)
    return drawn


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    after = data[data.stage == "after"]
    return (
        "tr H is the sum of tr G, which is never negative, and tr R, which bent logits make as negative as one likes. "
        f"Mean over {int(data.examples.max())} held-out prompts, the same in every run. Open: before training, grey: "
        f"half-way, filled: at the end, with its interval; dashed: the end of {name(order(data.arm)[0])}. "
        f"{seeds_said(after if len(after) else data)} An axis on which one arm lies far off is logarithmic there. "
        "Intervals of one arm hold the spread of the seeds, which paired differences (the contrasts) do not."
    )
