"""Curvature of the loss in the embeddings, per example: tr H, its two parts, and tr H by several methods."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.intervals import bounds
from symnoise.plot.numbers import plural
from symnoise.plot.results import limits, points
from symnoise.plot.style import DOUBLE, FAINT, INK, QUANTITIES, QUANTITY_MARKERS, RULE, figure, styled

TITLE = "Curvature per example"
TABLES, STAGES = ("curvature",), ("curvature",)
ALT = "Points with error bars for each example: the trace of the Hessian, of its two parts, and by each method."

LEVEL = 0.95
# Neither the colours nor the markers of the quantities in the other panel.
_METHODS = {"taylor": ("o", INK), "hvp": ("P", "#0b6b8a"), "difference": ("X", "#9a6a1f")}
_SAID = {"taylor": "Taylor mode", "hvp": "Hessian products", "difference": "differences"}


def frame(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """value with its 95 % interval over probes; no interval with a single probe."""
    data = tables["curvature"]
    low, high = bounds(data.value, data.stderr, data.dof, LEVEL)
    return data.assign(low=low, high=high)


@styled
def draw(data: pd.DataFrame) -> Figure:
    """Left, tr H = tr G + tr R; right, tr H by each method."""
    drawn = figure(DOUBLE, 2.7)
    left, right = drawn.subplots(1, 2, sharey=True)
    within = limits(data, headroom=0.45)  # for the legend
    first = data[data.quantity == "tr H"].method.iloc[0]
    parts = data[(data.method == first) | (data.quantity != "tr H")]
    for k, (quantity, ink) in enumerate((q, c) for q, c in QUANTITIES.items() if q in set(parts.quantity)):
        series = parts[parts.quantity == quantity]
        points(left, series, k - 1, ink, QUANTITY_MARKERS[quantity], quantity, within)
    hessian = data[data.quantity == "tr H"]
    for k, method in enumerate(dict.fromkeys(hessian.method)):
        own = hessian[hessian.method == method]
        marker, ink = _METHODS.get(method, ("^", FAINT))
        label = f"{_SAID.get(method, method)}, {plural(int(own.probes.max()), 'probe')}"
        wide = (own.low < within[0]) & (own.high > within[1])  # bars of full height would bury the others
        points(right, own[~wide], k - 1, ink, marker, label, within)
        at, shown = own.example[wide] + 0.22 * (k - 1), "" if len(own[~wide]) else label
        right.plot(at, own.value[wide].clip(*within), marker, color=ink, mfc="white", label=shown)
    left.set_ylim(*within)
    examples = data.drop_duplicates("example").sort_values("example")
    for ax, title in ((left, "a  tr H = tr G + tr R"), (right, "b  tr H by each method")):
        ax.axhline(0, color=INK, lw=0.6)
        ax.set_xticks(examples.example, [f"{e}\n{t}" for e, t in zip(examples.example, examples.tokens, strict=True)])
        ax.set_xlabel("example, and its tokens")
        ax.tick_params(axis="x", length=0)
        ax.grid(axis="y", color=RULE, lw=0.3)
        ax.set_title(title)
        ax.legend(loc="upper left", handletextpad=0.2, frameon=True, framealpha=1, facecolor="white", edgecolor="none")
    left.set_ylabel("trace (nats per squared embedding unit)")
    return drawn


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    hessian = data[data.quantity == "tr H"]
    hessian = hessian[hessian.method == hessian.method.iloc[0]]
    negative, sure = hessian[hessian.value < 0], int((hessian.high < 0).sum())
    gauss = data[data.quantity == "tr G"]
    said = (
        "(a) Curvature of each example’s loss in its embeddings, its Gauss–Newton part tr G and the rest tr R. tr G is "
        f"positive in {int((gauss.value > 0).sum())} of {len(gauss)} examples, tr H negative in {len(negative)} of "
        f"{len(hessian)} ({sure} with the whole interval). (b) The same tr H by each method; Taylor mode and Hessian "
        "products share their probes. Bars are 95 % intervals over probes, for these examples only. "
        "Arrowheads: the bar continues; open: it would be longer than the axis."
    )
    missing = int(data.low.isna().sum())
    return said + (f" {plural(missing, 'point has', 'points have')} no interval." if missing else "")
