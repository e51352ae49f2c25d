"""The command line: parses, calls, prints, writes JSON. `symnoise --help` answers without loading PyTorch.

Exit codes: 0 done; 2 bad input; 1 stopped by SIGTERM or by the loss of a process, or a bug; 130 interrupted, by Ctrl-C
or by a SIGTERM for which `train` has saved a checkpoint. Errors other than bugs are one line on standard error.
torchrun itself always exits with 1 if one of its processes fails.
"""

import difflib
import os
import signal
import sys
from typing import Any

from typer import Abort, BadParameter

from symnoise.cli.app import app

# Typer's error for a wrong option or command, which has no public name.
_UsageError: Any = BadParameter.__base__


class _Terminated(BaseException):
    """SIGTERM: what is open is closed, and temporary files are removed."""


def main() -> None:
    """Run the command; bad input ends with one line on standard error and exit code 2."""
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        _main()
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(*_: Any) -> None:
    raise _Terminated


def _main() -> None:
    try:
        if (code := app(standalone_mode=False)) == 130:  # what Typer makes of it
            raise KeyboardInterrupt
        sys.exit(code)
    except (Abort, KeyboardInterrupt):
        _end("stopped; run the same command again", 130)
    except _Terminated:
        _end("stopped, since the run was ended from outside; run the same command again", 1)
    except _UsageError as error:
        if hasattr(error, "option_name"):
            near = near_options(error.option_name, error.ctx.command)
            error.possibilities = []  # Typer's also compare the dashes, which makes --lr similar to --form
            error.message += f": did you mean {' or '.join(near)}?" if near else ""
        message = error.format_message()  # empty for a command without arguments: its help was printed
        _end(message and f"{message.rstrip('.')} (try {error.ctx.command_path} --help)", 2)
    except Exception as error:
        from symnoise.cli.processes import Stopped
        from symnoise.core import InputError, one_line, out_of_memory
        from symnoise.curvature.taylor import UnsupportedOperation

        if isinstance(error, Stopped):
            _end(str(error), error.code)
        if isinstance(error, InputError | UnsupportedOperation):
            _end(one_line(error), 2)
        if out_of_memory(error):
            _end("memory ran out; try fewer rows at a time, a smaller --max-length, or --dtype bfloat16", 2)
        raise


def near_options(given: str, command: Any) -> list[str]:
    """The option of `command` that was probably meant: the nearest in spelling, or one with these initials.

    Leading dashes are ignored, since all options share them.
    """
    names = {name.lstrip("-"): name for parameter in command.params for name in parameter.opts}
    word = given.lstrip("-")
    initials = [name for name in names if len(word) > 1 and word == "".join(part[0] for part in name.split("-"))]
    return [names[name] for name in (initials or difflib.get_close_matches(word, names, n=1, cutoff=0.7))]


def _end(message: str, code: int) -> None:
    """Exit; if several processes fail alike, only the first prints the message."""
    if "RANK" in os.environ:
        from symnoise.cli.processes import first_to_end

        message = message if first_to_end() else ""
    if message:
        print("symnoise:", " ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(code)
