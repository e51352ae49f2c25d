"""See `analysis.paper`."""

import sys
from pathlib import Path

from analysis.paper.generated import write_paper
from analysis.paper.log import complaints
from result_schema.bad_input import one_line_on_bad_input


def main() -> None:
    """Write paper/generated, or name what a log has against the paper."""
    if len(sys.argv) == 1:
        print(write_paper())
    else:
        found = complaints(Path(sys.argv[1]))
        sys.stderr.write("".join(f"symnoise: {line}\n" for line in found))
        sys.exit(1 if found else 0)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.stderr.write("symnoise: usage: python -m analysis.paper [FILE.log]\n")
        sys.exit(2)
    one_line_on_bad_input(main)
