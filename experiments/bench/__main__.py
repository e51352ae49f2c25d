"""See `experiments.bench.run`."""

import typer

from experiments.bench.run import main
from result_schema.bad_input import one_line_on_bad_input

if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
