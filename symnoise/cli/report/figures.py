"""A report's figures, captions and summary, all from the records of its sections.

A caption states the finding with its interval before it says how to read the picture.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from symnoise.cli.report.sections import ALPHA, Record
from symnoise.cli.shared import Text
from symnoise.curvature.loss import UNIT
from symnoise.curvature.pooled import range_of_validity
from symnoise.plot import results
from symnoise.plot.numbers import listed, measurement, number, seconds
from symnoise.plot.page import Drawing, saved
from symnoise.plot.style import FAINT, INK, RULE, alpha_axis, figure, interval, log_ticks, styled

_WIDTH, _HEIGHT = 6.0, 2.9  # inches
_ROWS_SHOWN, _TEXT_SHOWN = 6, 200  # rows of data, and characters of each


def drawings(found: Mapping[str, Record], folder: Path) -> list[Drawing]:
    """Each figure with its files in `folder`."""
    made = []
    for name, (title, alt, draw, caption) in _FIGURES.items():
        data = costs(found) if name == "cost" else _of(found, name)
        image = saved(draw(data), data, folder, name)
        made.append(Drawing(name, title, alt, caption(found), image))
    return made


def summary(found: Mapping[str, Record], model: str, data: str) -> str:
    """Two sentences: what the curvature is, and how large the noise is against what it sees."""
    means, rows = found["curvature"]["means"], len(_of(found, "curvature", quantity="tr H"))
    slope, size = _at(found, "validity", quantity="slope"), _at(found, "noise")
    edge = _edge(found)
    least = _of(found, "validity", quantity="slope").alpha.min()
    below = f", interpolated from 1 at α = 0 to the smallest α measured, {least:g}" if edge < least else ""
    reach = f"up to α ≈ {number(edge, 2)}{below}" if math.isfinite(edge) else "at every α measured"
    return (
        f"On {rows} rows of {data}, the loss of {model} has tr H = {_span(means['tr H'])} in the embeddings, made of "
        f"tr G = {_span(means['tr G'])} and tr R = {_span(means['tr R'])} ({UNIT}, means over rows with 95 % "
        f"intervals for rows like these). Noise at α = {ALPHA:g} is {_span(size)} of a token’s embedding norm and "
        f"meets {_span(slope)} of large curvature{_of_draws(found)}; the Hessian describes the noise to 10 % {reach}."
    )


def _of_draws(found: Mapping[str, Record]) -> str:
    """What an interval is for where there is only one row."""
    return " (of one row: for its draws alone)" if len(_of(found, "curvature", quantity="tr H")) == 1 else ""


def costs(found: Mapping[str, Record]) -> pd.DataFrame:
    """Seconds of each section, and of one unit: a probe of a row, or a noisy forward pass of a row."""
    rows = [{"section": name, **record["cost"]} for name, record in found.items() if record["cost"]["units"]]
    return pd.DataFrame(rows).assign(per_unit=lambda table: table.seconds / table.units)


def rows_of(text: Text, found: Mapping[str, Record]) -> list[dict[str, Any]]:
    """The first rows as the model reads them, each with its curvature."""
    hessian = _of(found, "curvature", quantity="tr H").set_index("example")
    shown = []
    for i, row in enumerate(text.rows[:_ROWS_SHOWN]):
        words = text.model.tokenizer.decode(row["input_ids"])
        cut = words if len(words) <= _TEXT_SHOWN else f"{words[: _TEXT_SHOWN - 1]}…"
        shown.append({"tokens": len(row["input_ids"]), "text": cut, "trace": _span(hessian.loc[i])})
    return shown


def _as_drawn_by(plot: Callable[[Any, Axes], Any]) -> Callable[[pd.DataFrame], Figure]:
    """A figure of one panel, by one of `symnoise.plot`'s functions."""

    @styled
    def draw(data: pd.DataFrame) -> Figure:
        drawn = figure(_WIDTH, _HEIGHT)
        plot(data, drawn.subplots())
        return drawn

    return draw


@styled
def _noise(data: pd.DataFrame) -> Figure:
    drawn = figure(_WIDTH, _HEIGHT)
    ax = drawn.subplots()
    ax.fill_between(data.alpha, data.tenth, data.ninth, color=RULE, alpha=0.6, lw=0, label="middle 80 % of tokens")
    ax.plot(data.alpha, data.value, color=INK, label="mean over rows, 95 % interval")
    for p in data.to_dict("records"):
        interval(ax, p["alpha"], p["value"], p["low"], p["high"], INK)
    ax.axhline(1, color=FAINT, lw=0.8, ls=(0, (4, 2)))
    ax.annotate("as large as the token", (1, 1), (0, 2), textcoords="offset points", color=FAINT)
    ax.set_yscale("log")
    log_ticks(ax.yaxis)
    alpha_axis(ax, list(data.alpha), math.nan)
    ax.set_ylabel("noise norm / token norm (1)")
    ax.legend(loc="lower right")
    return drawn


@styled
def _cost(data: pd.DataFrame) -> Figure:
    drawn = figure(_WIDTH, 0.5 + 0.4 * len(data))
    ax = drawn.subplots()
    bars = ax.barh(data.section, data.seconds, color=INK, height=0.55)
    ax.bar_label(bars, [f"{seconds(s)}: {spent}" for s, spent in zip(data.seconds, data.spent, strict=True)], padding=4)
    ax.invert_yaxis()
    ax.set_xlim(0, 2.2 * data.seconds.max())  # room for the labels
    ax.set_xlabel("time (s)")
    return drawn


def _said_of_curvature(found: Mapping[str, Record]) -> str:
    means = found["curvature"]["means"]
    hessian, gauss = (_of(found, "curvature", quantity=name) for name in ("tr H", "tr G"))
    below, above, positive = (int(kept.sum()) for kept in (hessian.high < 0, hessian.low > 0, gauss.value > 0))
    return (
        f"Means over rows, with 95 % intervals for rows like these: {_listed(means)}. The whole interval of tr H is "
        f"above 0 in {above} of {len(hessian)} rows and below 0 in {below}; tr G is positive in {positive}. "
        "Bars are 95 % intervals over probes, of each row alone; arrowheads: the bar continues."
    )


def _said_of_validity(found: Mapping[str, Record]) -> str:
    slope, ratio = (_at(found, "validity", quantity=name) for name in ("slope", "ratio"))
    edge, table = _edge(found), _of(found, "validity")
    said = f"passes 10 % at α ≈ {number(edge, 2)}" if math.isfinite(edge) else "stays within 10 %"
    missing = int((table.low.isna() | table.high.isna()).sum())
    unbounded = f" Hollow: {missing} points whose interval is unbounded, since Σx may be 0." if missing else ""
    return (
        f"At α = {ALPHA:g} the noise meets {_span(slope)} of large curvature (slope) and {_span(ratio)} of the mean "
        f"curvature (ratio), which is what training averages; |slope − 1| {said}. y is a mirrored pair’s excess loss, "
        "x = ½εᵀHε what the Hessian predicts for it; both numbers are 1 where it describes the noise, and the band is "
        f"1 ± 10 %. Bars are 95 % intervals for rows like these{_of_draws(found)}.{unbounded}"
    )


def _said_of_signal(found: Mapping[str, Record]) -> str:
    ratio, kept = _at(found, "signal", quantity="ratio"), found["validity"]["mean kept"]
    equal = _equal(_of(found, "signal", quantity="ratio"))
    meet = f"are equal at α ≈ {number(equal, 2)}" if math.isfinite(equal) else "are not equal at any α measured"
    return (
        f"At α = {ALPHA:g} what a mirrored pair cancels of a draw’s change in loss is {_span(ratio)} times what it "
        f"keeps; the two {meet}. Cancelled is the odd part, noise of mean 0 and of size σ‖∇ℓ‖ to first order; kept is "
        "the even part, ½εᵀHε to second order. Both are root mean squares over draws and rows; dashed, those orders. "
        f"The mean of the kept part, ½σ² tr H to second order, is {_span(kept)} nats. Bars and brackets are 95 % "
        f"intervals for rows like these{_of_draws(found)}."
    )


def _equal(ratios: pd.DataFrame) -> float:
    """The α at which the falling `ratios` pass 1, on logarithmic axes between those measured; NaN if they do not."""
    points = ratios.sort_values("alpha")[["alpha", "value"]].to_numpy(float)
    for (before, above), (after, below) in itertools.pairwise(points):
        if above > 1 >= below > 0:
            return float(before * (after / before) ** (math.log(above) / math.log(above / below)))
    return math.nan


def _said_of_noise(found: Mapping[str, Record]) -> str:
    equal = ALPHA / float(_at(found, "noise").value)
    return (
        f"At α = {ALPHA:g} the noise of a token is {_span(_at(found, 'noise'))} of its embedding’s norm; the two are "
        f"equal at α ≈ {number(equal, 2)}. r = ‖ε_t‖/‖x_t‖ with ‖ε_t‖ = α/√(3L), L the tokens of the row: long rows "
        "get less. Points: means over rows, 95 % intervals for rows like these; the band holds 80 % of tokens."
    )


def _said_of_layers(found: Mapping[str, Record]) -> str:
    moved, grown = (_of(found, "layers", quantity=name) for name in ("displacement", "growth"))
    return (
        f"Noise at α = {ALPHA:g} moves the embeddings by {_percent(moved.iloc[0])} of their squared norm and the last "
        f"layer’s states by {_percent(moved.iloc[-1])}, whose squared norm changes by {_percent(grown.iloc[-1])}. "
        f"Means over {found['layers']['rows']} rows; bands are 95 % intervals over draws, for these rows."
    )


def _said_of_cost(found: Mapping[str, Record]) -> str:
    table = costs(found).set_index("section")
    hessian = found["curvature"]["means"]["tr H"]
    half, each = (hessian["high"] - hessian["low"]) / 2, table.per_unit.map(lambda value: f"{number(value, 2)} s")
    return (
        f"{seconds(float(table.seconds.sum()))} in all. {each['curvature']} per probe and row gave tr H, tr G and "
        f"tr R, the mean tr H within ±{number(half, 2)}; {each['validity']} per noisy forward pass of a row gave the "
        "range of validity. Intervals for rows like these shrink with the square root of the number of rows."
    )


_FIGURES: dict[str, tuple[str, str, Any, Any]] = {
    "curvature": (
        "Curvature of each row",
        "Points with error bars for each row: the trace of the Hessian and its two parts.",
        _as_drawn_by(results.trace),
        _said_of_curvature,
    ),
    "validity": (
        "How far the Hessian describes the noise",
        "Two lines with error bars against alpha, which start near 1.",
        _as_drawn_by(results.smoothed_curvature),
        _said_of_validity,
    ),
    "signal": (
        "Signal to noise: what a pair keeps and what it cancels",
        "Two rising lines with error bars against alpha, the cancelled part above the kept one at small alpha.",
        _as_drawn_by(results.signal_to_noise),
        _said_of_signal,
    ),
    "noise": (
        "Noise against embeddings",
        "A rising line with a band: noise norm over token norm against alpha.",
        _noise,
        _said_of_noise,
    ),
    "layers": (
        "Norm growth through the layers",
        "Two lines with bands against the layer: growth of the squared norm, and displacement.",
        _as_drawn_by(results.layer_growth),
        _said_of_layers,
    ),
    "cost": ("What it cost", "Bars of seconds, one for each section.", _cost, _said_of_cost),
}


def _of(found: Mapping[str, Record], section: str, **where: str) -> pd.DataFrame:
    """The table of a section, or of the signal to noise, which is measured with the range of validity."""
    table = pd.DataFrame(found["validity"]["parts"] if section == "signal" else found[section]["table"])
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def _at(found: Mapping[str, Record], section: str, **where: str) -> "pd.Series[Any]":
    """The row of the α that sentences speak of."""
    table = _of(found, section, **where)
    return table[table.alpha == ALPHA].iloc[0]


def _edge(found: Mapping[str, Record]) -> float:
    slopes = _of(found, "validity", quantity="slope").sort_values("alpha")
    return range_of_validity(slopes.alpha, slopes.value)


def _listed(means: Mapping[str, Any]) -> str:
    return listed([f"{name} = {_span(mean)}" for name, mean in means.items()])


def _span(row: Any) -> str:
    """`0.92 (0.80 to 1.04)`."""
    return "{} ({})".format(*measurement(row["value"], row["low"], row["high"]))


def _percent(row: Any) -> str:
    """`9.2 % (8.0 % to 10.4 %)`, or `1.400 % (exact)`."""
    value, span = measurement(*(100 * row[name] for name in ("value", "low", "high")))
    return f"{value} % ({span.replace(' to', ' % to')} %)" if " to " in span else f"{value} % ({span})"
