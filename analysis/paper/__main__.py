"""See `analysis.paper`."""

import sys
from pathlib import Path

from analysis.paper.generated import write_paper
from analysis.paper.log import complaints
from symnoise.core import InputError

if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.stderr.write("symnoise: usage: python -m analysis.paper [FILE.log]\n")
        sys.exit(2)
    try:
        if len(sys.argv) == 1:
            print(write_paper())
        else:
            found = complaints(Path(sys.argv[1]))
            sys.stderr.write("".join(f"symnoise: {line}\n" for line in found))
            sys.exit(1 if found else 0)
    except InputError as error:
        sys.stderr.write(f"symnoise: {error}\n")
        sys.exit(2)
