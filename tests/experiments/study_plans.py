"""Run by test_study_cluster.py: `snakemake ARGUMENTS` for each line of a JSON file, as children of one process.

python -m tests.experiments.study_plans PLANS.json FOLDER, which leaves FOLDER/0.txt … and prints the exit codes.
"""

import json
import os
import sys
from pathlib import Path

from snakemake.cli import get_argument_parser, main

import experiments.study.spec  # noqa: F401 - imported once, before the children are made


def plan(arguments: list[str], said: Path) -> int:
    """The exit code of snakemake; what it says goes to the file `said`."""
    child = os.fork()
    if child == 0:
        file = os.open(said, os.O_CREAT | os.O_WRONLY)
        os.dup2(file, 1)
        os.dup2(file, 2)
        code = 1
        try:
            main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    get_argument_parser()  # which imports all plugins, once as well
    plans, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    print(json.dumps([plan(arguments, folder / f"{i}.txt") for i, arguments in enumerate(plans)]))
