"""Held-out loss along training, as paired differences from the reference arm."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.study.contrasts import arms_of, pair_up
from analysis.study.data import StudyTables
from analysis.study.figures.shared import arms_at, at, legend, line, mean_over_seeds, seeds_said
from analysis.style import name, order
from result_schema.study import ARMS, PLAIN
from symnoise.plot.numbers import number
from symnoise.plot.style import DOUBLE, INK, RULE, figure, styled

TITLE = "Held-out loss along training, against the same seeds without noise"
ALT = "By alpha: for each arm the mean difference of the held-out loss from the reference arm, against step."
NEEDS = "the held-out loss along training of the reference arm and one other"

GROUPS = (("at the cost of plain training, or less", True), ("at a higher cost", False))


def frame(study: StudyTables, contrasts: pd.DataFrame) -> pd.DataFrame:
    """Mean over seeds of arm − reference at each step, with its 95 % interval; pairs with a diverged run left out. Arms
    with another learning rate, and so other steps, have no reference here."""
    curves = study.curves[study.curves.quantity == "held-out loss"]
    runs, records = study.runs, []
    by_step = {step: part.set_index("run").value.to_dict() for step, part in curves.groupby("step")}
    for arm, alpha, own in arms_at(runs):
        if arm == study.reference or ARMS[arm].rate != 1:
            continue
        both = arms_of(runs[runs.run.isin(own.run) | (runs.arm == study.reference)])
        for step, values in by_step.items():
            found = pair_up(both, values, arm, study.reference, alpha)
            if len(found.differences):
                made = mean_over_seeds(pd.Series(found.differences), "curves", arm, alpha, float(str(step)))
                facts = {"reference": study.reference, "arm": arm, "alpha": alpha, "step": step}
                records.append(facts | made | {"diverged": sum(found.diverged)})
    return pd.DataFrame(records)


@styled
def draw(data: pd.DataFrame) -> Figure:
    """A column for each α; arms of one cost in a row."""
    alphas = list(dict.fromkeys(data.alpha))
    plain = data.arm.map(_as_plain)
    groups = [(said, one) for said, one in GROUPS if (plain == one).any()]
    drawn = figure(DOUBLE, 0.55 + 1.75 * len(groups))
    axes = drawn.subplots(len(groups), len(alphas), sharex=True, sharey=True, squeeze=False)
    for i, (said, one) in enumerate(groups):
        part = data[plain == one]
        for j, alpha in enumerate(alphas):
            ax = axes[i, j]
            ax.axhline(0, color=INK, lw=0.6)
            here = part[part.alpha.isna() if pd.isna(alpha) else part.alpha == alpha]
            for arm in order(here.arm):
                line(ax, here[here.arm == arm], arm)
            row = f"{chr(97 + i)}  {said[:1].upper() + said[1:]}" if j == 0 else ""
            ax.set_title(f"{row}\n{at(alpha)}".lstrip() if i == 0 else row)
            ax.grid(color=RULE, lw=0.3)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    drawn.supylabel(f"held-out loss − {name(data.reference.iloc[0])} (nats per token)", fontsize=7)
    legend(drawn, order(data.arm))
    return drawn


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    last = data[data.step == data.step.max()]
    best, worst = last.loc[last.value.idxmin()], last.loc[last.value.idxmax()]
    lost = data[data.diverged > 0]
    said = (
        f"Mean difference from {name(data.reference.iloc[0])} over pairs of the same seed; below 0 is better. "
        f"{seeds_said(data)} At the last step it runs from {number(best.value, 2)} ({name(best.arm)}"
        f"{_comma(best.alpha, best.arm)}) to {number(worst.value, 2)} ({name(worst.arm)}"
        f"{_comma(worst.alpha, worst.arm)})."
    )
    if data.arm.map(_as_plain).nunique() > 1:
        said += " A pair passes over each row twice, weights of the even and odd parts three times, hence (b)."
    if len(lost):
        said += f" Pairs with a diverged run are left out ({', '.join(name(arm) for arm in order(lost.arm))})."
    return said


def _as_plain(arm: str) -> bool:
    return ARMS[arm].cost <= 1


def _comma(alpha: float, arm: str) -> str:
    return "" if pd.isna(alpha) or arm in PLAIN else f", {at(alpha)}"
