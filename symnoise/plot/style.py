"""One look for every figure: sizes, type, colours, and how intervals and labels are drawn.

Widths are those of a two-column page in inches. Colours are Okabe and Ito's (2008), which stay distinct under the
common kinds of colour blindness.
"""

import io
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from symnoise.core import write_atomically
from symnoise.plot.numbers import Number

SINGLE, DOUBLE = 3.25, 6.75  # width of one column, and of both, inches
INK, FAINT, RULE = "#222222", "#8a8a8a", "#c9c9c9"

# In colours that no law of noise has (`analysis.style`).
QUANTITIES = {"tr H": INK, "tr G": "#56B4E9", "tr R": "#CC79A7", "C(σ)": "#7a6fb0"}
QUANTITY_MARKERS = {"tr H": "o", "tr G": "s", "tr R": "D", "C(σ)": "^"}

_RC = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same bytes on every machine
    "mathtext.fontset": "dejavusans",
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # publishers refuse type 3
}

Arguments = ParamSpec("Arguments")
End = tuple[Number, Number, str, str]  # x, y, text, colour


@contextmanager
def style() -> Iterator[None]:
    """Within the block figures have the house style; outside it nothing has changed."""
    settings: Any = {**sns.axes_style("ticks"), **sns.plotting_context("paper"), **_RC}
    with matplotlib.rc_context(settings):
        yield


def styled(draw: Callable[Arguments, Figure]) -> Callable[Arguments, Figure]:
    """`draw`, in the house style."""

    @wraps(draw)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Figure:
        with style():
            return draw(*args, **kwargs)

    return run


def figure(width: float, height: float) -> Figure:
    """An empty figure, `width` × `height` inches, that keeps its labels apart. No pyplot, so no global state."""
    return Figure(figsize=(width, height), layout="constrained")


def interval(
    ax: Axes,
    x: Number,
    y: Number,
    low: Number,
    high: Number,
    colour: str,
    *,
    marker: str = "o",
    label: str = "",
    **look: Any,
) -> None:
    """A point with its interval; the point alone where there is none (NaN)."""
    known = math.isfinite(low) and math.isfinite(high)
    error = [[max(y - low, 0)], [max(high - y, 0)]] if known else None
    usual: dict[str, Any] = {"elinewidth": 0.8, "capsize": 1.6, "capthick": 0.8, "markeredgewidth": 0.6}
    facts = usual | look | {"color": colour, "marker": marker, "label": label, "linestyle": "none"}
    ax.errorbar([x], [y], yerr=error, **facts)


def cut(
    ax: Axes,
    x: Number,
    y: Number,
    low: Number,
    high: Number,
    limits: tuple[Number, Number],
    ink: str,
    *,
    arrows: bool = True,
    **look: Any,
) -> None:
    """`interval`, cut off at `limits`; an arrowhead where the point goes on and, with `arrows`, where the bar does."""
    bottom, top = limits
    if bottom <= y <= top:
        interval(ax, x, y, max(low, bottom), min(high, top), ink, **look)
    elif low < top and high > bottom:  # the point lies outside, its interval reaches in
        ax.plot([x, x], [max(low, bottom), min(high, top)], color=ink, lw=0.8)
    ends = (min(y, low), max(y, high)) if arrows else (y, y)
    for edge, mark, out in ((bottom, "v", ends[0] < bottom), (top, "^", ends[1] > top)):
        if out:
            ax.plot(x, edge, marker=mark, color=ink, ms=3, clip_on=False, zorder=5)


def label_ends(drawn: Figure, panels: Sequence[tuple[Axes, Sequence[End]]], *, gap: float = 8, pad: float = 6) -> None:
    """Labels to the right of the last points of each panel's lines, moved apart to `gap` points where they crowd.

    Call when all else is drawn: places in points are only known after the layout, which then makes room for them.
    """
    drawn.draw_without_rendering()
    scale = 72 / drawn.dpi
    for ax, every in panels:
        ends = [end for end in every if math.isfinite(end[1])]  # a diverged arm has no end
        if not ends:
            continue
        points: Any = ax.transData.transform([(x, y) for x, y, *_ in ends])
        at = sorted(zip((scale * points[:, 1]).tolist(), ends, strict=True), key=lambda item: item[0])
        places: list[float] = []
        for height, _ in at:
            places.append(max(height, places[-1] + gap) if places else height)
        shift = sum(place - height for place, (height, _) in zip(places, at, strict=True)) / len(at)
        box = ax.get_window_extent()
        shift = max(min(shift, places[0] - box.y0 * scale), places[-1] - box.y1 * scale)  # within the axes if they fit
        for place, (height, (x, y, text, ink)) in zip(places, at, strict=True):
            ax.annotate(
                text,
                (x, y),
                xytext=(pad, place - shift - height),
                textcoords="offset points",
                color=ink,
                va="center",
                fontsize=6.5,
                annotation_clip=False,
            )


def log_axis(ax: Axes) -> None:
    """A logarithmic x axis over few decades: plain numbers at 1, 2 and 5 times powers of ten."""
    ax.set_xscale("log")
    log_ticks(ax.xaxis)


def decades(ax: Axes) -> None:
    """A logarithmic y axis over many decades: powers of ten alone."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(numticks=7))
    ax.yaxis.set_minor_locator(NullLocator())


def log_ticks(axis: Axis) -> None:
    """Plain numbers at 1, 2 and 5 times powers of ten."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def alpha_axis(ax: Axes, alphas: Sequence[Number], sigma_per_alpha: float) -> None:
    """A logarithmic axis with a tick at each α, and the mean σ that belongs to it above (where it is known)."""
    ax.set_xscale("log")
    ax.set_xticks(alphas, [f"{a:g}" for a in alphas])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("α")
    if math.isfinite(sigma_per_alpha):

        def sigma(alpha: Any) -> Any:
            return alpha * sigma_per_alpha

        def alpha(sigma: Any) -> Any:
            return sigma / sigma_per_alpha

        top = ax.secondary_xaxis("top", functions=(sigma, alpha))
        log_ticks(top.xaxis)
        top.spines["top"].set_visible(True)
        top.set_xlabel("mean σ", labelpad=2)


def heading(text: str) -> str:
    """`text` with a capital letter, as a panel's title; a name with a form of its own (chrF, tr G) is left alone."""
    first = text.split()[0]
    own = first == "tr" or any(c.isdigit() or c.isupper() for c in first)
    return text if own else text[:1].upper() + text[1:]


def save(drawn: Figure, folder: Path, name: str) -> str:
    """Write `name`.pdf and `name`.png into `folder` and return the figure as SVG text; equal figures, equal bytes."""
    with style(), matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        drawn.draw_without_rendering()
        drawn.set_layout_engine(None)  # laid out once, and the same in all three
        write_atomically(folder / f"{name}.pdf", lambda path: drawn.savefig(path, metadata={"CreationDate": None}))
        write_atomically(folder / f"{name}.png", lambda path: drawn.savefig(path, metadata={"Software": None}))
        svg = io.StringIO()
        drawn.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()
