"""python -m analysis.study results/micro      # ledger, tables, figures and study.html from the study's result files"""

from pathlib import Path
from typing import Annotated

import typer

from analysis.study.report import write_study
from result_schema.bad_input import one_line_on_bad_input


def main(folder: Annotated[Path, typer.Argument(help="A study's result files, such as results/micro.")]) -> None:
    """Make a study's ledger, tables, figures and study.html of its result files."""
    print(write_study(folder))


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
