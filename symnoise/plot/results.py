"""Figures of the library's results: each function has the name of the one whose result it draws.

Each has a `…_frame` that makes the table it draws, one row per point with its 95 % interval, and takes such a table in
place of the result, so that a figure can be drawn again from its CSV. With `ax` it draws there, in the style that is
set; without, on a figure of its own in the house style. All return the axes; in a notebook, `.figure` shows the figure.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from symnoise.core import Estimate
from symnoise.curvature import (
    PositionTraces,
    SmoothedCurvature,
    SpectralDensity,
    Spectrum,
    TokenTraces,
    TraceParts,
    attenuation_slope,
    ratio_of_means,
    root_ratio,
)
from symnoise.curvature.loss import UNIT
from symnoise.curvature.pooled import Unit
from symnoise.noise import Moments, SampledMoments
from symnoise.norms.layers import LayerGrowth
from symnoise.plot.style import (
    DOUBLE,
    FAINT,
    INK,
    QUANTITIES,
    QUANTITY_MARKERS,
    RULE,
    SINGLE,
    alpha_axis,
    cut,
    decades,
    figure,
    interval,
    style,
)
from symnoise.training.budget import VarianceBudget

LEVEL = 0.95  # coverage of every interval in this room
_SMOOTHED = {"slope": (INK, "slope Σxy/Σx²"), "ratio": ("#0b6b8a", "ratio Σy/Σx")}
_PARTS = {
    "cancelled": (INK, "o", "cancelled by a pair", "first order", "σ‖∇ℓ‖"),
    "kept": ("#0b6b8a", "D", "kept by a pair", "second order", "½σ²zᵀHz"),
}
_MOMENTS = {"mean_square_norm": "E‖ε‖²", "var_square_norm": "Var‖ε‖²", "mean_norm": "E‖ε‖"}
_BUDGET = {
    "batch": (INK, "o", "batches"),
    "odd": ("#D55E00", "s", "noise, odd"),
    "even": ("#0072B2", "D", "noise, even"),
}
_WIDTHS = 50  # a spectral density's eigenvalues are widened to this part of their range: wider than nodes are apart


@contextmanager
def _axes(ax: Axes | None, width: float = SINGLE) -> Iterator[Axes]:
    if ax is not None:
        yield ax
        return
    with style():
        yield figure(width, 2.5).subplots()


def _with_interval(estimate: Estimate) -> dict[str, list[float]]:
    low, high = estimate.interval(LEVEL)
    columns = {"value": estimate.value, "low": low, "high": high}
    return {name: column.flatten().tolist() for name, column in columns.items()}


def trace_frame(found: TraceParts | Estimate) -> pd.DataFrame:
    """A row for each quantity (an estimate alone counts as tr H) and example; intervals over probes."""
    named = {"tr H": found} if isinstance(found, Estimate) else found.named()
    tables = []
    for quantity, one in named.items():
        columns = _with_interval(one)
        tables.append(pd.DataFrame({"example": range(len(columns["value"])), "quantity": quantity, **columns}))
    return pd.concat(tables, ignore_index=True)


def trace(found: TraceParts | Estimate | pd.DataFrame, ax: Axes | None = None) -> Axes:
    """tr H of each example, and tr G and tr R where they are known; an arrowhead where a bar leaves the axes."""
    data = found if isinstance(found, pd.DataFrame) else trace_frame(found)
    quantities = list(dict.fromkeys(data.quantity))
    with _axes(ax, DOUBLE) as drawn:
        within = limits(data)
        drawn.set_ylim(*within)
        for k, quantity in enumerate(quantities):
            look = QUANTITIES[quantity], QUANTITY_MARKERS[quantity], quantity
            points(drawn, data[data.quantity == quantity], k - (len(quantities) - 1) / 2, *look, within)
        drawn.axhline(0, color=INK, lw=0.6, zorder=0)
        examples = sorted(set(data.example))
        drawn.set_xticks(examples)
        drawn.set_xlim(examples[0] - 0.6, examples[-1] + 0.6)
        drawn.tick_params(axis="x", length=0)
        drawn.set_xlabel("example")
        drawn.set_ylabel(f"trace ({UNIT})")
        drawn.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, handletextpad=0.2)
    return drawn


def limits(data: pd.DataFrame, headroom: float = 0.05) -> tuple[float, float]:
    """Of the y axis: all points, and the intervals but those over four times as wide as the median one.

    Few probes say little, and their bars would flatten the rest. headroom: above it all, as a share of the height.
    """
    width = data.high - data.low
    usual = data[~(width > 4 * width.median())]
    bottom, top = min(data.value.min(), usual.low.min()), max(data.value.max(), usual.high.max())
    height = top - bottom or 1.0
    return float(bottom - 0.05 * height), float(top + headroom * height)


def points(
    ax: Axes, data: pd.DataFrame, place: float, ink: str, marker: str, label: str, within: tuple[float, float]
) -> None:
    """One series over the examples, `place` steps of 0.22 from the examples' ticks."""
    for i, p in enumerate(data.to_dict("records")):
        x, said = p["example"] + 0.22 * place, "" if i else label
        cut(ax, x, p["value"], p["low"], p["high"], within, ink, marker=marker, label=said)


def token_traces_frame(found: TokenTraces | PositionTraces) -> pd.DataFrame:
    """A row for each example and real token, or for each position of the mean; intervals over probes."""
    if isinstance(found, PositionTraces):
        columns = {"position": found.position.tolist(), "examples": found.examples.tolist()}
        return pd.DataFrame(columns | _with_interval(found.trace))
    data = found.to_frame()[["example", "position"]]
    real = (found.position >= 0).flatten().tolist()
    return data.join(pd.DataFrame(_with_interval(found.trace))[real].reset_index(drop=True))


def token_traces(found: TokenTraces | PositionTraces | pd.DataFrame, ax: Axes | None = None) -> Axes:
    """tr H_tt against the token's position, a line for each example or their mean, bands over probes."""
    data = found if isinstance(found, pd.DataFrame) else token_traces_frame(found)
    lines = {"mean over examples": data}
    if "example" in data:
        lines = {f"example {b}": data[data.example == b] for b in data.example.unique()}
    with _axes(ax, DOUBLE) as drawn:
        for label, line in lines.items():
            (curve,) = drawn.plot(line.position, line.value, marker="o", ms=2, lw=0.8, label=label)
            drawn.fill_between(line.position, line.low, line.high, color=curve.get_color(), alpha=0.2, lw=0)
        drawn.axhline(0, color=INK, lw=0.6, zorder=0)
        drawn.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawn.set_xlabel("position (tokens from the origin)")
        drawn.set_ylabel(f"trace of a token's block ({UNIT})")
        drawn.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    return drawn


def smoothed_curvature_frame(found: SmoothedCurvature, alphas: Sequence[float] | None = None) -> pd.DataFrame:
    """A row for each σ and quantity: slope and ratio (`symnoise.curvature.pooled`), pooled over all examples.

    sigma is the mean over examples; alpha is there where `alphas` are given. The interval is over examples, or over
    draws where there is one example; it is infinite where the ratio's denominator may be 0.
    """
    rows = []
    for i, sigma in enumerate(found.sigmas):
        y, x = found.pair[i], found.second_order[i]
        for quantity, pooled in (("slope", attenuation_slope), ("ratio", ratio_of_means)):
            one = pooled(y, x, _unit(found), LEVEL)
            row: dict[str, Any] = {"sigma": float(sigma.mean()), "quantity": quantity, "value": one.value}
            alpha = {} if alphas is None else {"alpha": float(alphas[i])}
            rows.append(alpha | row | {"low": one.low, "high": one.high})
    return pd.DataFrame(rows)


def smoothed_curvature(
    found: SmoothedCurvature | pd.DataFrame, ax: Axes | None = None, alphas: Sequence[float] | None = None
) -> Axes:
    """What is left of the quadratic term against α (or σ): slope and ratio, at 1 where the Hessian describes the noise.

    The band is 1 ± 10 %. A point without a finite interval is hollow and does not set the axes; points outside them are
    arrowheads.
    """
    data = found if isinstance(found, pd.DataFrame) else smoothed_curvature_frame(found, alphas)
    axis = "alpha" if "alpha" in data else "sigma"
    sure = data[data.low.map(math.isfinite) & data.high.map(math.isfinite)]
    limits = min(-0.1, sure.value.min() - 0.1), max(1.6, sure.value.max() + 0.2)
    with _axes(ax) as drawn:
        drawn.axhspan(0.9, 1.1, color=RULE, alpha=0.6, lw=0, zorder=0)
        for side, (quantity, (ink, label)) in zip((-1, 1), _SMOOTHED.items(), strict=True):
            line = data[data.quantity == quantity].sort_values(axis)
            at = line[axis] * 1.025**side  # next to each other, or the bars would hide one another
            known, marker = line.index.isin(sure.index), "o" if side < 0 else "D"
            drawn.plot(at, line.value, color=ink, lw=None if known.all() else 0.6, zorder=2)
            for x, p, whole in zip(at, line.to_dict("records"), known, strict=True):
                low, high = (p["low"], p["high"]) if whole else (math.nan, math.nan)
                look: dict[str, Any] = {
                    "marker": "o" if side < 0 else "D",
                    "markerfacecolor": ink if whole else "white",
                }
                cut(drawn, x, p["value"], low, high, limits, ink, arrows=False, **look)
            drawn.plot([], [], color=ink, marker=marker, label=label)
        if len(sure) < len(data):
            drawn.plot([], [], "D", color=FAINT, mfc="white", ls="none", label="no finite interval")
        drawn.set_ylim(*limits)
        drawn.set_ylabel("share of the quadratic term left (1)")
        _noise_axis(drawn, data, axis)
        drawn.legend(loc="lower left")
    return drawn


def _unit(found: SmoothedCurvature) -> Unit:
    """What intervals are over: examples, or draws where there is one example."""
    return "example" if found.sigmas.shape[1] > 1 else "draw"


def signal_to_noise_frame(found: SmoothedCurvature, alphas: Sequence[float] | None = None) -> pd.DataFrame:
    """A row for each σ and quantity: root mean squares over draws and examples of the parts of a draw's change in loss.

    cancelled is the odd part, first order its prediction σ‖∇ℓ‖; kept the even part, second order its prediction
    ½σ²zᵀHz (nats); ratio is cancelled ÷ kept. Intervals are over examples, or over draws where there is one example.
    """
    unit = _unit(found)
    slopes = (found.sigmas * found.gradient_square_norm.sqrt())[:, None].expand_as(found.pair)
    rows = []
    for i, sigma in enumerate(found.sigmas):
        one = torch.ones_like(found.pair[i])
        parts = {"cancelled": found.odd[i], "first order": slopes[i], "kept": found.pair[i]}
        parts["second order"] = found.second_order[i]
        sizes = {name: root_ratio(part, one, unit, LEVEL) for name, part in parts.items()}
        sizes["ratio"] = root_ratio(found.odd[i], found.pair[i], unit, LEVEL)
        alpha = {} if alphas is None else {"alpha": float(alphas[i])}
        for quantity, size in sizes.items():
            row: dict[str, Any] = {"sigma": float(sigma.mean()), "quantity": quantity, "value": size.value}
            rows.append(alpha | row | {"low": size.low, "high": size.high})
    return pd.DataFrame(rows)


def signal_to_noise(
    found: SmoothedCurvature | pd.DataFrame, ax: Axes | None = None, alphas: Sequence[float] | None = None
) -> Axes:
    """What a mirrored pair cancels of a draw's change in loss and what it keeps, root mean squares against α (or σ).

    Dashed: their leading orders, σ‖∇ℓ‖ and ½σ²zᵀHz. Where the solid lines meet, curvature is as large as the noise.
    """
    data = found if isinstance(found, pd.DataFrame) else signal_to_noise_frame(found, alphas)
    axis = "alpha" if "alpha" in data else "sigma"
    with _axes(ax) as drawn:
        shown = data[data["quantity"].isin(list(_PARTS)) & (data.value > 0)]
        within = float(shown.value.min()) / 10, float(shown[["value", "high"]].max().max()) * 3
        for side, (quantity, (ink, marker, label, order, predicted)) in zip((-1, 1), _PARTS.items(), strict=True):
            leading = data[data["quantity"] == order].sort_values(axis)
            drawn.plot(leading[axis], leading.value, color=ink, lw=0.7, ls=(0, (4, 2)), label=predicted)
            line = shown[shown["quantity"] == quantity].sort_values(axis)
            at = line[axis] * 1.025**side  # next to each other, or the bars would hide one another
            drawn.plot(at, line.value, color=ink, marker=marker, label=label)
            for x, p in zip(at, line.to_dict("records"), strict=True):
                cut(drawn, x, p["value"], p["low"], p["high"], within, ink, arrows=False, marker=marker)
        decades(drawn)
        drawn.set_ylim(*within)
        _noise_axis(drawn, data, axis)
        drawn.set_ylabel("change of the loss (nats)")
        drawn.legend(loc="upper left")
    return drawn


def _noise_axis(ax: Axes, data: pd.DataFrame, axis: str) -> None:
    """α below and the mean σ above; σ below where no α is known."""
    sizes = data.drop_duplicates(axis).sort_values(axis)
    if axis == "alpha":
        alpha_axis(ax, list(sizes.alpha), float((sizes.sigma / sizes.alpha).mean()))
    else:
        ax.set_xscale("log")
        ax.set_xlabel("σ (embedding units)")


def spectrum(found: Spectrum | pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Eigenvalues against their rank, a line for each example; bars are residuals: an eigenvalue lies within each."""
    data = found if isinstance(found, pd.DataFrame) else found.to_frame()
    with _axes(ax) as drawn:
        for example in sorted(set(data.example)):
            line = data[data.example == example]
            ink = f"C{example % 10}"
            drawn.errorbar(line["rank"] + 1, line.value, yerr=line.residual, marker="o", color=ink, capsize=1.6, lw=0.8)
            first, place = (1, line.value.iloc[0]), dict[str, Any](textcoords="offset points", va="center")
            drawn.annotate(f"{example}", first, (-9, 0), color=ink, **place)
        drawn.axhline(0, color=RULE, lw=0.6, zorder=0)
        drawn.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawn.margins(x=0.1)
        drawn.set_xlabel("rank (labels: example)")
        drawn.set_ylabel(f"eigenvalue ({UNIT})")
    return drawn


def spectral_density_frame(found: SpectralDensity, width: float | None = None, count: int = 201) -> pd.DataFrame:
    """The density of each example at `count` values of λ, widened to `width`, with intervals over probes.

    width: by default a fiftieth of the range of the nodes.
    """
    kept = found.nodes[found.weights > 0]
    low, high = float(kept.min()), float(kept.max())
    width = width or (high - low) / _WIDTHS or 1.0
    grid = torch.linspace(low - 3 * width, high + 3 * width, count, dtype=torch.float64)
    density = found.density(grid, width)
    tables = [
        pd.DataFrame({"example": b, "eigenvalue": grid.tolist(), **_with_interval(density[b])})
        for b in range(len(found.nodes))
    ]
    return pd.concat(tables, ignore_index=True)


def spectral_density(found: SpectralDensity | pd.DataFrame, ax: Axes | None = None, width: float | None = None) -> Axes:
    """Density of eigenvalues, a line for each example, bands over probes, on a logarithmic axis of five decades."""
    data = found if isinstance(found, pd.DataFrame) else spectral_density_frame(found, width)
    with _axes(ax) as drawn:
        top = float(data.value.max())
        for example in sorted(set(data.example)):
            line = data[data.example == example]
            (curve,) = drawn.plot(line.eigenvalue, line.value, label=f"example {example}")
            drawn.fill_between(line.eigenvalue, line.low, line.high, color=curve.get_color(), alpha=0.2, lw=0)
        decades(drawn)
        drawn.set_ylim(1e-5 * top, 3 * max(top, float(data.high.max()) if data.high.notna().any() else top))
        drawn.set_xlabel(f"eigenvalue λ ({UNIT})")
        drawn.set_ylabel("density (per unit of λ)")
        drawn.legend(loc="upper right")
    return drawn


def moments_frame(expected: Moments, found: SampledMoments) -> pd.DataFrame:
    """A row for each moment: predicted and measured (powers of embedding units); value is their ratio."""
    rows = []
    for name, symbol in _MOMENTS.items():
        estimate, predicted = getattr(found, name), getattr(expected, name)
        low, high = (float(end) for end in estimate.interval(LEVEL))
        row: dict[str, Any] = {"quantity": symbol, "predicted": predicted, "measured": float(estimate)}
        by = predicted or math.nan  # Rademacher's norm has no variance, so there is no ratio
        rows.append(row | {"value": row["measured"] / by, "low": low / by, "high": high / by})
    return pd.DataFrame(rows)


def moments(expected: Moments | pd.DataFrame, found: SampledMoments | None = None, ax: Axes | None = None) -> Axes:
    """Measured moments divided by their closed forms, with intervals over draws; a moment that is 0 is left out."""
    if isinstance(expected, pd.DataFrame):
        data = expected
    else:
        assert found is not None
        data = moments_frame(expected, found)
    data = data[data.predicted != 0]
    with _axes(ax) as drawn:
        for x, p in enumerate(data.to_dict("records")):
            interval(drawn, x, p["value"], p["low"], p["high"], INK)
        drawn.axhline(1, color=FAINT, lw=0.6, zorder=0)
        drawn.set_xticks(range(len(data)), list(data.quantity))
        drawn.margins(x=0.3)
        drawn.set_ylabel("measured / predicted (1)")
    return drawn


def layer_growth_frame(found: LayerGrowth) -> pd.DataFrame:
    """A row for each quantity (growth, displacement) and layer: means over examples, with intervals over draws."""
    tables = []
    for quantity in ("growth", "displacement"):
        estimate: Estimate = getattr(found, quantity)
        columns = [_with_interval(estimate[layer].mean()) for layer in range(len(estimate.value))]
        one = {name: [column[name][0] for column in columns] for name in columns[0]}
        tables.append(pd.DataFrame({"layer": range(len(columns)), "quantity": quantity, **one}))
    return pd.concat(tables, ignore_index=True)


def layer_growth(found: LayerGrowth | pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Growth of the squared norm and displacement of the hidden states against the layer, in percent of ‖h(X)‖²."""
    data = found if isinstance(found, pd.DataFrame) else layer_growth_frame(found)
    inks = {"growth": (INK, "o", "growth of ‖h‖²"), "displacement": ("#0072B2", "D", "displacement of h")}
    with _axes(ax) as drawn:
        for quantity, (ink, marker, label) in inks.items():
            line = data[data.quantity == quantity].sort_values("layer")
            drawn.plot(line.layer, 100 * line.value, color=ink, marker=marker, ms=2.5, label=label)
            drawn.fill_between(line.layer, 100 * line.low, 100 * line.high, color=ink, alpha=0.2, lw=0)
        drawn.axhline(0, color=FAINT, lw=0.6, zorder=0)
        drawn.xaxis.set_major_locator(MaxNLocator(integer=True))
        drawn.set_xlabel("layer (0: the embeddings)")
        drawn.set_ylabel("change, % of ‖h(X)‖²")
        drawn.legend(loc="best")
    return drawn


def variance_budget_frame(found: Iterable[VarianceBudget]) -> pd.DataFrame:
    """The budgets' own frames, with their α."""
    return pd.concat([one.to_frame().assign(alpha=one.alpha) for one in found], ignore_index=True)


def variance_budget(found: Sequence[VarianceBudget] | pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Variance of the gradient that is due to batches and to the odd and even part of noise, against α.

    Intervals are over batches; on the logarithmic axis one that reaches 0 goes to its foot.
    """
    data = found if isinstance(found, pd.DataFrame) else variance_budget_frame(found)
    with _axes(ax) as drawn:
        shown = data[data.quantity.isin(list(_BUDGET)) & (data.value > 0)]
        within = float(shown.value.min()) / 30, float(shown.high.max()) * 2
        for k, (quantity, (ink, marker, label)) in enumerate(_BUDGET.items()):
            line = shown[shown.quantity == quantity].sort_values("alpha")
            at = line.alpha * 1.02 ** (k - 1)
            drawn.plot(at, line.value, color=ink)
            for i, (x, p) in enumerate(zip(at, line.to_dict("records"), strict=True)):
                said = "" if i else label
                cut(drawn, x, p["value"], p["low"], p["high"], within, ink, arrows=False, marker=marker, label=said)
        decades(drawn)
        drawn.set_ylim(*within)
        alpha_axis(drawn, sorted(set(data.alpha)), math.nan)
        drawn.set_ylabel("variance of the gradient\n(nats² per squared weight unit)")
        drawn.legend(loc="best")
    return drawn
