"""See `analysis.paper`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from analysis.paper.generated import write_paper
from analysis.paper.log import complaints
from result_schema.bad_input import one_line_on_bad_input


def main(
    log: Annotated[
        Path | None, typer.Argument(help="Log of a build of the paper, to be looked through instead.")
    ] = None,
) -> None:
    """Write the paper's generated parts, paper/generated; or name what a log has against the paper."""
    if log is None:
        print(write_paper())
        return
    found = complaints(log)
    sys.stderr.write("".join(f"symnoise: {line}\n" for line in found))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
