"""python -m analysis.study results/micro      # ledger, tables, figures and study.html from the study's result files"""

import sys
from pathlib import Path

from analysis.study.report import write_study
from result_schema.bad_input import one_line_on_bad_input

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.stderr.write("symnoise: usage: python -m analysis.study results/STUDY\n")
        sys.exit(2)
    one_line_on_bad_input(lambda: print(write_study(Path(sys.argv[1]))))
