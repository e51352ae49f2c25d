"""N1: growth of the squared embedding norm, measured over predicted, per law and example."""

from dataclasses import asdict

import pandas as pd
from matplotlib.figure import Figure

from analysis.intervals import PERCENT, bounds
from analysis.style import colour, name, order
from symnoise.models import EmbeddingLoss
from symnoise.plot.style import INK, RULE, SINGLE, figure, interval, styled
from symnoise.theory import check_norms

TITLE = "Growth of the embedding norm and its closed form"
TABLES, STAGES = ("norms",), ("norms",)
ALT = "For each law and example, the measured growth of the squared embedding norm over its prediction."


def frame(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """ratio = (measured − clean)/(predicted − clean) per law and example, with its interval."""
    data = tables["norms"]
    predicted = data.predicted - data.clean
    ratio = (data.measured - data.clean) / predicted
    low, high = bounds(ratio, data.stderr / predicted, float("inf"))
    return data.assign(ratio=ratio, low=low, high=high)


def measured(loss: EmbeddingLoss, alpha: float, draws: int) -> dict[str, pd.DataFrame]:
    """The tables of a batch; and, as "claims", the rows of the ledger."""
    found = check_norms(loss, alpha, draws, where="these rows")
    rows = pd.DataFrame(asdict(made) for made in found.rows)
    claims = rows[["id", "quantity", "prediction", "measured", "low", "high", "verdict"]]
    return {"norms": pd.DataFrame(found.tables["norms"]), "claims": claims}


@styled
def draw(data: pd.DataFrame) -> Figure:
    """Examples next to each other within each law."""
    drawn = figure(SINGLE, 2.3)
    ax = drawn.subplots()
    laws, examples = order(data.law), sorted(data.example.unique())
    ax.axhline(1, color=INK, lw=0.7, ls=(0, (4, 3)))
    for k, law in enumerate(laws):
        for p in data[data.law == law].to_dict("records"):
            at = k + 0.7 * ((examples.index(p["example"]) + 0.5) / len(examples) - 0.5)
            interval(ax, at, p["ratio"], p["low"], p["high"], colour(law), markersize=2.6)
    ax.set_xticks(range(len(laws)), [name(law).replace(", ", ",\n").replace("/", "\n/") for law in laws])
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel("(E‖X+ε‖² − ‖X‖²) / E‖ε‖²")
    ax.grid(axis="y", color=RULE, lw=0.3)
    return drawn


def caption(data: pd.DataFrame) -> str:
    """What to see."""
    inside = int(((data.low <= 1) & (data.high >= 1)).sum())
    return (
        "What each law adds to ‖X‖², over the E‖ε‖² that N1 predicts (dashed); one point per example; bars are "
        f"{PERCENT} intervals over draws. {inside} of {len(data)} contain 1."
    )
