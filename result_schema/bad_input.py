"""How every program of `experiments` and `analysis` ends on bad input, Ctrl-C and SIGTERM."""

import signal
import sys
from collections.abc import Callable
from typing import Any

from symnoise.core import InputError, one_line


def one_line_on_bad_input(program: Callable[[], Any]) -> None:
    """Run the program; an `InputError` ends it with its line on standard error and exit code 2.

    Ctrl-C and SIGTERM end it with a line, too, and exit codes 130 and 1; what is open is closed first.
    """
    before = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        program()
    except InputError as error:
        print("symnoise:", one_line(error), file=sys.stderr)
        sys.exit(2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: Any) -> None:
    print("symnoise: stopped; run the same command again", file=sys.stderr)
    sys.exit(130 if number == signal.SIGINT else 1)
