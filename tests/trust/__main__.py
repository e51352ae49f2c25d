"""Measures what is promised of symnoise's reliability: an hour on two cores.

    python -m tests.trust                        # every part; fails if a promise is not kept
    python -m tests.trust inputs coverage        # some of them

Each part's rows replace its own in docs/trust.csv, from which docs/trust.md is made, as soon as the part has ended.
"""

import importlib
import sys
from typing import Annotated

import typer

from tests.trust.table import PARTS, save, show


def main(parts: Annotated[list[str] | None, typer.Argument(help=f"Some of: {', '.join(PARTS)}.")] = None) -> None:
    """Measure the parts, save and show their figures."""
    if wrong := [name for name in parts or () if name not in PARTS]:
        raise typer.BadParameter(f"no part {wrong[0]!r}; choose of: {', '.join(PARTS)}")
    kept = True
    for name in parts or PARTS:
        figures = importlib.import_module(f"tests.trust.{name}").measure()
        save(name, figures)
        show(name, figures)
        kept &= all(figure.kept for figure in figures)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    typer.run(main)
