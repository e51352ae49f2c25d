"""How noise of each law grows, or dies, through the layers."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.intervals import PERCENT, bounds
from analysis.style import colour, name, order
from symnoise.models import EmbeddingLoss
from symnoise.noise import Noise
from symnoise.norms import layer_growth
from symnoise.plot.style import DOUBLE, INK, RULE, figure, label_ends, styled

TITLE = "Noise through the layers"
TABLES, STAGES = ("layers",), ("norms",)
ALT = "Lines by law against layer: growth of the squared norm of hidden states, and how far they move."

_PANELS = (
    ("growth", "a  Growth of the squared norm", "E‖h(X+ε)‖² / ‖h(X)‖² − 1 (%)"),
    ("displacement", "b  Displacement", "E‖h(X+ε) − h(X)‖² / ‖h(X)‖² (%)"),
)


def frame(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Per law and layer, means over examples with intervals over draws."""
    data = tables["layers"]
    parts = []
    for quantity, *_ in _PANELS:
        low, high = bounds(data[quantity], data[f"{quantity}_stderr"], data.dof)
        parts.append(
            data[["law", "alpha", "layer", "clean"]].assign(quantity=quantity, value=data[quantity], low=low, high=high)
        )
    return pd.concat(parts, ignore_index=True)


def measured(loss: EmbeddingLoss, laws: Iterable[str], alpha: float, draws: int) -> dict[str, pd.DataFrame]:
    """The table of a batch: means over its rows with standard errors over draws."""
    table: list[dict[str, Any]] = []
    for law in laws:
        noise = Noise.named(law, alpha)
        assert noise is not None
        found = layer_growth(loss, noise, draws)
        for layer in range(len(found.clean)):
            row = {"law": law, "alpha": alpha, "layer": layer, "clean": float(found.clean[layer].mean())}
            for quantity, *_ in _PANELS:
                mean = getattr(found, quantity)[layer].mean()
                row |= {quantity: float(mean.value), f"{quantity}_stderr": float(mean.stderr), "dof": mean.dof}
            table.append(row)
    return {"layers": pd.DataFrame(table)}


@styled
def draw(data: pd.DataFrame) -> Figure:
    """A panel for growth and one for displacement; a band is an interval."""
    drawn, labels = figure(DOUBLE, 2.6), []
    for ax, (quantity, title, label) in zip(drawn.subplots(1, 2), _PANELS, strict=True):
        part, ends = data[data.quantity == quantity], []
        for law in order(part.law):
            line = part[part.law == law].sort_values("layer")
            ax.plot(line.layer, 100 * line.value, color=colour(law))
            ax.fill_between(line.layer, 100 * line.low, 100 * line.high, color=colour(law), alpha=0.18, lw=0)
            ends.append((line.layer.iloc[-1], 100 * line.value.iloc[-1], name(law), colour(law)))
        if quantity == "growth":
            ax.axhline(0, color=INK, lw=0.6)
        ax.set(xlabel="layer (0: the embeddings)", ylabel=label)
        ax.set_xlim(0, part.layer.max())
        ax.grid(color=RULE, lw=0.3)
        ax.set_title(title)
        labels.append((ax, ends))
    label_ends(drawn, labels)
    return drawn


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    moved = data[data.quantity == "displacement"].set_index(["law", "layer"]).value
    last = data.layer.max()
    ends = "; ".join(
        f"{name(law)} {100 * moved[law, 0]:.3g} % → {100 * moved[law, last]:.3g} %" for law in order(data.law)
    )
    return (
        f"Means over examples and draws at α = {data.alpha.iloc[0]:g}; bands are {PERCENT} intervals over draws. "
        "(a) Growth of the squared norm of the hidden states. (b) Squared displacement relative to the "
        f"squared norm without noise. From the embeddings to layer {last}: {ends}."
    )
