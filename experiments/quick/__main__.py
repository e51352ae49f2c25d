"""See `experiments.quick.run`."""

import typer

from experiments.quick.run import main
from result_schema.bad_input import one_line_on_bad_input

if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
