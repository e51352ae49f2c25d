"""`symnoise` in processes of their own, among them a process 1 to which something happens. Used by test_shards.py."""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from symnoise.cli import curvature, main
from symnoise.core import InputError


def symnoise(*arguments: str) -> None:
    """`symnoise ARGUMENTS`, in which {rank} stands for the number of the process."""
    sys.argv = ["symnoise", *(argument.replace("{rank}", os.environ["RANK"]) for argument in arguments)]
    main()


def second_batch(happens: Callable[[bool], None]) -> None:
    """At its second batch each process calls `happens`, with whether it is process 1."""
    usual, done = curvature._measure, []

    def measure(*arguments: Any) -> dict[str, Any]:
        if done:
            happens(os.environ["RANK"] == "1")
        done.append(True)
        return usual(*arguments)

    curvature._measure = measure


def bad_input(*arguments: str) -> None:
    """Process 1 finds bad input at its second batch."""

    def happens(here: bool) -> None:
        if here:
            raise InputError("the loss is nan")

    second_batch(happens)
    symnoise(*arguments)


def killed(*arguments: str) -> None:
    """Process 1 is killed at its second batch."""

    def happens(here: bool) -> None:
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(1)  # process 0 must not be done with everything by then

    second_batch(happens)
    symnoise(*arguments)


if __name__ == "__main__":  # under torchrun
    killed(*sys.argv[1:])
