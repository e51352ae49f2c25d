"""The command line: parses, calls, prints, writes JSON. `symnoise --help` answers without loading PyTorch."""

import sys

from symnoise.cli.app import app


def main() -> None:
    """Run the command; bad input ends with one line on standard error and exit code 2."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        from symnoise.core import InputError
        from symnoise.curvature.taylor import UnsupportedOperation

        if not isinstance(error, InputError | UnsupportedOperation):
            raise
        print(f"symnoise: {error}", file=sys.stderr)
        sys.exit(2)
