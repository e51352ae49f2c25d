"""How every program of `experiments` and `analysis` ends on bad input."""

import sys
from collections.abc import Callable
from typing import Any

from symnoise.core import InputError, one_line


def one_line_on_bad_input(program: Callable[[], Any]) -> None:
    """Run the program; an `InputError` ends it with its line on standard error and exit code 2."""
    try:
        program()
    except InputError as error:
        print("symnoise:", one_line(error), file=sys.stderr)
        sys.exit(2)
