"""The page of models of several families: curvature, and the size of the noise next to their embeddings.

python -m analysis.families results/families                    # from the records of experiments.families
python -m analysis.families --ledger runs/gemma-3-270m          # and the ledger of a quick run on one of these models
"""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from analysis.family_ledgers import COMMAND, publish, records, section
from result_schema.bad_input import one_line_on_bad_input
from result_schema.files import ROOT
from symnoise.core import InputError, plus_minus, write_atomically
from symnoise.plot.numbers import number
from symnoise.plot.page import write_csv

TRACES = ("tr H", "tr G", "tr R")
SAID = 5.0  # the α of the sentence below the table
SHARED = ("rows", "tokens", "probes", "data_sha256")
_HEAD = """# Model families

The first {rows} rows of the same text ({data}) that fit in {tokens} tokens, in models of several families. Measured by
`python -m experiments.families`, made by `python -m analysis.families`; the data are in [families.csv](families.csv).

- **tr H, tr G, tr R**: traces of the loss's Hessian in the embeddings, of its Gauss-Newton part and of the rest; means
  over the rows, ± standard error over {probes} probes. In nats per squared unit of each model's own embeddings, so not
  to be compared between models.
- **r**: the norm of a token's noise over that of its embedding, median over tokens.
"""


def read(folder: Path) -> pd.DataFrame:
    """Every point of every record, smaller models first. Raises `InputError` if there is none, or rows differ."""
    found = records(folder)
    if not found:
        raise InputError(f"{folder} has no models; {COMMAND} first")
    for one in found:
        if any(one[key] != found[0][key] for key in SHARED):
            raise InputError(
                f"{one['model']} and {found[0]['model']} were not measured on the same rows: {COMMAND} first"
            )
    kept = ("model", "class", "parameters", *SHARED)
    return pd.concat(
        [pd.DataFrame(one["points"]).assign(**{key: one[key] for key in kept}) for one in found], ignore_index=True
    )


def page(points: pd.DataFrame, data: str) -> str:
    """The page in Markdown; `data` names the text."""
    shared = {key: points.iloc[0][key] for key in SHARED}
    alphas = sorted(points.alpha.dropna().unique())
    head = ["model", "parameters", *TRACES, *(f"r, α = {alpha:g}" for alpha in alphas)]
    lines = [head, ["---"] * len(head)]
    for model, own in points.groupby("model", sort=False):
        first, traces = own.iloc[0], [_point(own, name) for name in TRACES]
        cells = [plus_minus(one.value, one.stderr).replace("-", "−") for one in traces]
        cells += [number(_point(own, "r", alpha).value, 2) for alpha in alphas]
        lines.append([f"{model}, {first['class']}", f"{first.parameters / 1e6:.0f} M", *cells])
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    sizes = points[(points.quantity == "r") & (points.alpha == SAID)].value
    range_ = f"At α = {SAID:g} the noise is {number(sizes.min(), 2)} to {number(sizes.max(), 2)} of a token, by model."
    return f"{_HEAD.format(data=data, **shared)}\n{rows}\n\n{range_}\n"


def _point(own: pd.DataFrame, quantity: str, alpha: float | None = None) -> Any:
    at = own.alpha.isna() if alpha is None else own.alpha == alpha
    return own[(own.quantity == quantity) & at].iloc[0]


def write(folder: Path, docs: Path, data: str) -> Path:
    """Write families.md and families.csv into `docs`; the path of the former."""
    points = read(folder)
    said = "\n".join(filter(None, (page(points, data), section(folder))))
    write_csv(docs / "families.csv", points)
    write_atomically(docs / "families.md", lambda part: part.write_text(said, encoding="utf-8"))
    return docs / "families.md"


def main(
    folder: Annotated[Path, typer.Argument(help="A folder of records.")] = ROOT / "results" / "families",
    docs: Annotated[Path, typer.Option(help="Where the page goes.")] = ROOT / "docs",
    data: Annotated[str, typer.Option(help="The text's name on the page.")] = "tatsu-lab/alpaca",
    ledger: Annotated[Path | None, typer.Option(help="A quick run on one of the models, whose rows join it.")] = None,
) -> None:
    """The page of several models."""
    if ledger is not None:
        publish(ledger, folder)
    print(f"symnoise: the page is {write(folder, docs, data)}")


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
