"""Figures of a folder of tables outside the quick run, written next to their tables.

python -m analysis.figures results/bench        # growth, from growth.csv
python -m analysis.figures results/spectra      # density, from density.csv and eigenvalues.csv
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from analysis.figures import density, growth
from result_schema.bad_input import one_line_on_bad_input
from symnoise.core import InputError
from symnoise.plot.style import save

DRAWN = {"growth": growth, "density": density}


def draw(folder: Path) -> Iterator[str]:
    """Draw every figure whose tables are in `folder`, as PDF and PNG, and print its caption."""
    found = [name for name, module in DRAWN.items() if all((folder / f"{t}.csv").is_file() for t in module.TABLES)]
    if not found:
        tables = "; ".join(" and ".join(f"{table}.csv" for table in module.TABLES) for module in DRAWN.values())
        raise InputError(
            f"{folder} has no tables to draw ({tables}); run `make bench` or `python -m experiments.spectra`"
        )
    for name in found:
        module = DRAWN[name]
        data = module.frame({table: pd.read_csv(folder / f"{table}.csv") for table in module.TABLES})
        save(module.draw(data), folder, name)
        yield module.caption(data)
        if module is growth:
            yield growth.fits(data).to_string(index=False)
        yield str(folder / f"{name}.pdf")


def main(folder: Annotated[Path, typer.Argument(help="The tables, such as results/bench.")]) -> None:
    """Draw every figure whose tables are in a folder, as PDF and PNG, and print its caption."""
    print(*draw(folder), sep="\n")


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
