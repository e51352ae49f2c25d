"""Growth of the embedding norms along training, by arm."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.study.data import StudyTables
from analysis.study.figures.shared import arms_at, at, legend, line, mean_over_seeds, seeds_said
from analysis.style import name, order
from result_schema.measures import NORMS
from symnoise.plot.numbers import number
from symnoise.plot.style import DOUBLE, INK, RULE, figure, styled

TITLE = "Growth of the embedding norms along training"
ALT = "By alpha: for each arm the growth of the mean norm of the embedding rows, against step."
NEEDS = "embedding norms along training"

SAID = {"used-row norm": "rows of the training text", "all-row norm": "all rows"}


def frame(study: StudyTables, contrasts: pd.DataFrame) -> pd.DataFrame:
    """Norm/norm at step 0 − 1, mean over seeds with its 95 % interval; finished runs only."""
    done = study.runs[study.runs.status == "done"]
    norms = study.curves[study.curves.quantity.isin(NORMS)]
    start = norms[norms.step == 0].set_index(["run", "quantity"]).value
    first = start.reindex(pd.MultiIndex.from_frame(norms[["run", "quantity"]])).to_numpy()
    norms = norms.assign(growth=norms.value / first - 1)
    records = []
    for arm, alpha, own in arms_at(done):
        part = norms[norms.run.isin(own.run)].dropna(subset=["growth"])
        for (quantity, step), points in part.groupby(["quantity", "step"]):
            made = mean_over_seeds(points.growth, "growth", arm, alpha, str(quantity), float(str(step)))
            records.append({"quantity": quantity, "arm": arm, "alpha": alpha, "step": step} | made)
    return pd.DataFrame(records)


@styled
def draw(data: pd.DataFrame) -> Figure:
    """A column for each α, a row for each set of rows."""
    alphas, quantities = list(dict.fromkeys(data.alpha)), [q for q in NORMS if q in set(data.quantity)]
    drawn = figure(DOUBLE, 0.6 + 1.6 * len(quantities))
    axes = drawn.subplots(len(quantities), len(alphas), sharex=True, sharey="row", squeeze=False)
    for i, quantity in enumerate(quantities):
        for j, alpha in enumerate(alphas):
            ax = axes[i, j]
            ax.axhline(0, color=INK, lw=0.6)
            here = data[(data.quantity == quantity) & (data.alpha.isna() if pd.isna(alpha) else data.alpha == alpha)]
            for arm in order(here.arm):
                line(ax, here[here.arm == arm], arm, 100)
            ax.grid(color=RULE, lw=0.3)
            if j == 0:
                said = SAID[quantity]
                ax.set_title(f"{chr(97 + i)}  {said[:1].upper() + said[1:]}")
            if i == 0:
                ax.set_title(at(alpha), loc="right", fontweight="normal", fontsize=7)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    drawn.supylabel("growth of the mean row norm (%)", fontsize=7)
    legend(drawn, order(data.arm))
    return drawn


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    used = data[data.quantity == NORMS[0]]
    last = (used if len(used) else data).query("step == step.max()")
    least, most = last.sort_values("value").iloc[0], last.sort_values("value").iloc[-1]
    return (
        f"Mean norm of the embedding rows against its value before training; {seeds_said(data)} At the last step from "
        f"{number(100 * least.value, 2)} % ({name(least.arm)}) to {number(100 * most.value, 2)} % ({name(most.arm)})."
    )
