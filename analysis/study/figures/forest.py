"""Paired contrasts with their intervals; primary ones are coloured by the corrected verdict."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.study.claims import ODD_ONE_OUT
from analysis.study.data import StudyTables
from analysis.study.figures.shared import at, stretch
from analysis.style import name
from result_schema.measures import MEASURES, NATS, improvement
from symnoise.plot.numbers import number, plural
from symnoise.plot.style import DOUBLE, FAINT, INK, RULE, figure, heading, styled

TITLE = "Arm against arm, over paired seeds"
ALT = "For each contrast and alpha, the mean difference with its interval, coloured by the corrected verdict."
NEEDS = "two arms to compare, with a held-out loss or a score against references"

PANELS = ("clean training loss", "held-out loss", "tr G", "tr R")  # at the end of training
OWN = "training loss"  # each arm's own noisy objective: shown where the clean one was not measured
INKS = {"better": "#0072B2", "lower": "#0072B2", "worse": "#D55E00", "higher": "#D55E00"}
# Colour, and whether the marker is filled.
LEGEND = {
    (INKS["lower"], True): "primary, first arm lower",
    (INKS["higher"], True): "primary, first arm higher",
    (FAINT, True): "untested, interval without 0",
    (FAINT, False): "no significant difference",
}
MOST_CHARACTERS = 18  # of the labels along a panel
FAMILY = {"main": "Ordering and cost", "laws": "Laws", "controls": "Controls", "named": "Named by the study"}


def frame(study: StudyTables, contrasts: pd.DataFrame) -> pd.DataFrame:
    """The contrasts of the measures that have a panel, except the penalty arm's, larger by an order of magnitude.

    panel: the measure's place.  endpoints: of the study, of any kind; `primary` are those among the rows.
    left_out: whether there is a penalty arm.
    """
    if contrasts.empty:
        return contrasts
    parts = []
    odd = (contrasts["first"] == ODD_ONE_OUT) | (contrasts.second == ODD_ONE_OUT)
    contrasts = contrasts[~odd & (contrasts.when == "end")]
    for k, measure in enumerate(PANELS):
        chosen = measure if k or (contrasts.measure == measure).any() else OWN
        part = contrasts[contrasts.measure == chosen]
        if len(part):
            parts.append(part[part.decoding == part.decoding.min()].assign(panel=k))
    if not parts:
        return pd.DataFrame()
    return pd.concat(parts, ignore_index=True).assign(endpoints=study.primary.endpoints, left_out=bool(odd.any()))


@dataclass(frozen=True)
class _Lines:
    """The lines of the figure from top to bottom. places: contrast's key -> y.  ticks: (y, text, whether it
    is a family's heading).  bottom: the y after the last line."""

    places: dict[tuple[str, str, str, float | None], float]
    ticks: list[tuple[float, str, bool]]
    bottom: float


def _laid_out(data: pd.DataFrame) -> _Lines:
    """By family, then pair of arms, then α."""
    lines = data.drop_duplicates(["family", "first", "second", "alpha"])
    places, ticks, at_y = {}, [], 0.0
    for family, title in FAMILY.items():
        own = lines[lines.family == family]
        if len(own):
            ticks.append((at_y, title, True))
            at_y += 1
        for (first, second), pair in own.groupby(["first", "second"], sort=False):
            for k, alpha in enumerate(pair.alpha):
                places[family, str(first), str(second), _key(alpha)] = at_y
                ticks.append((at_y, _label(str(first), str(second), alpha, whole=k == 0), False))
                at_y += 1
            at_y += 0.25
        at_y += 0.4
    return _Lines(places, ticks, at_y)


@styled
def draw(data: pd.DataFrame) -> Figure:
    """One line per contrast and α, one panel per measure; left is better for the first arm in each."""
    lines = _laid_out(data)
    panels = sorted(data.panel.unique())
    drawn = figure(DOUBLE, 0.7 + max(0.105 * lines.bottom, 1.3))  # few lines still need room for their names
    axes = drawn.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel, letter in zip(axes, panels, "abcd", strict=False):
        part = data[data.panel == panel]
        measure = part.measure.iloc[0]
        _draw_panel(ax, part, lines, measure)
        plain = measure.removeprefix("clean ")
        ax.set_title(f"{letter}  {heading(plain)},\n    end{'' if plain == measure else ', no noise'}")
    axes[0].set_yticks([y for y, *_ in lines.ticks], [said for _, said, _ in lines.ticks], fontsize=5.8)
    for text, (_, _, head) in zip(axes[0].get_yticklabels(), lines.ticks, strict=True):
        text.set_fontweight("bold" if head else "normal")
    axes[0].set_ylim(lines.bottom - 0.4, -0.8)
    looks = {_look(row) for row in data.to_dict("records")}
    marks = [
        Line2D([], [], marker="o", ms=3.5, color=ink, mfc=ink if full else "white", lw=1, label=said)
        for (ink, full), said in LEGEND.items()
        if (ink, full) in looks
    ]
    drawn.legend(handles=marks, loc="outside lower center", ncols=4)
    return drawn


def _draw_panel(ax: Axes, part: pd.DataFrame, lines: _Lines, measure: str) -> None:
    """The contrasts of one measure, each on its line."""
    ax.axvline(0, color=INK, lw=0.6)
    for p in part.to_dict("records"):
        y = lines.places[p["family"], p["first"], p["second"], _key(p["alpha"])]
        ink, full = _look(p)
        if p["low"] == p["low"]:
            ax.plot([p["low"], p["high"]], [y, y], color=ink, lw=1)
        ax.plot(p["mean"], y, "o", color=ink, mfc=ink if full else "white", ms=3, mew=0.8)
        if p["diverged_first"] or p["diverged_second"]:
            ax.annotate("†", (1, y), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=6)
    ax.set_xlabel("difference (nats)" if MEASURES[measure].unit == NATS else "difference")
    ax.grid(axis="x", color=RULE, lw=0.3)
    if improvement(measure) > 0:
        ax.invert_xaxis()
    ax.locator_params(axis="x", nbins=4)
    ends = pd.concat([part.low, part.high, part["mean"]]).dropna()
    stretch(ax, ends, share=0.5)
    _few_ticks(ax, ends)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _look(row: dict[Hashable, Any]) -> tuple[str, bool]:
    """A contrast's colour, and whether its marker is filled."""
    verdict = row["verdict"]
    clear = verdict in ("exploratory", "too few seeds") and (row["low"] > 0 or row["high"] < 0)
    return INKS.get(verdict, FAINT), verdict in INKS or clear


def _few_ticks(ax: Axes, values: pd.Series) -> None:
    """Fewer labels where they would overlap: on a stretched axis 0 and a round number near each end."""
    if ax.get_xscale() == "symlog":
        ticks = [0.0, *(_round(end) for end in (values.min(), values.max()) if end)]
        ax.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
        ax.set_xlabel(f"{ax.get_xlabel()},\nlog beyond ±{number(ax.xaxis.get_transform().linthresh, 1)}")  # type: ignore[attr-defined]
        return
    low, high = ax.get_xlim()
    shown = [tick for tick in ax.get_xticks() if low <= tick <= high]
    if sum(map(len, ax.xaxis.get_major_formatter().format_ticks(shown))) >= MOST_CHARACTERS:
        ax.locator_params(axis="x", nbins=3)


def _round(end: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not beyond `end`."""
    power = 10.0 ** math.floor(math.log10(abs(end)))
    return math.copysign(max(k * power for k in (1, 2, 5) if k * power <= abs(end)), end)


def _label(first: str, second: str, alpha: float, *, whole: bool) -> str:
    pair = f"{name(first)} − {name(second)}"
    if pd.isna(alpha):
        return pair
    return f"{pair}, {at(alpha)}" if whole else at(alpha)


def _key(alpha: float) -> float | None:
    return None if pd.isna(alpha) else alpha


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    lost = data[(data.diverged_first > 0) | (data.diverged_second > 0)]
    told = data[data.primary & data.verdict.isin(list(INKS))]
    said = (
        "Mean difference, first arm − second, losses in nats per token, over pairs of one seed, with 95 % intervals. "
    )
    if OWN in set(data.measure):
        said += "The training loss is the mean over the run of each arm’s own noisy objective. "
    shown, endpoints = int(data.primary.sum()), int(data.endpoints.iloc[0])
    if shown:
        said += (
            f"Coloured: of the {plural(shown, 'endpoint')} shown here ({endpoints} in all), those significant at 5 % "
            f"after Holm’s correction ({len(told)}). All others are exploratory, each interval by itself. "
        )
    elif endpoints:
        said += "The study’s endpoints are others: all shown here are exploratory, each interval by itself. "
    else:
        said += "The study names no endpoints: all are exploratory, each interval by itself. "
    said += f"Axes are linear about 0 and logarithmic beyond; {plural(int(data.pairs.max()), 'pair')} at most."
    if data.left_out.any():
        said += " The penalty arm’s contrasts, larger by an order of magnitude, are left out."
    if len(lost):
        said += " †: pairs with a diverged run are left out of the mean."
    return said
