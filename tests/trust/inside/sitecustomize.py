"""Loaded by every Python process that tests/trust/victims.py starts: counts what it does to files, and acts on a count.

TRUST_CONTROL is a folder with the processes (pids), a byte for each operation (operations) and the process that acted
(acted). An operation is anything that Python is about to do to a file or folder below TRUST_FOLDER but read it.
TRUST_AT: the operation, over all processes, at which the signal TRUST_SIGNAL is sent: SIGKILL to all processes, any
other to the first process's group, as a terminal does. TRUST_CLOCK: seconds by which every second look at the clock is
late.
"""

import itertools
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

_TO_FILES = {"os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}


def signal_all(control: Path, number: int) -> None:
    """Send a signal to all processes, and what they have forked; to oneself last."""
    groups = set()
    for process in _processes(control):
        try:
            groups.add(os.getpgid(process))
        except ProcessLookupError:
            groups.add(process)  # those that it has forked may live
    for group in sorted(groups, key=lambda group: group == os.getpgrp()):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            continue


def interrupt(control: Path, number: int) -> None:
    """Send a signal to the first process and all others of its group."""
    os.killpg(os.getpgid(_processes(control)[0]), number)


def _processes(control: Path) -> list[int]:
    return [int(line) for line in (control / "pids").read_text().split()]


def _watch(control: Path, folder: str, at: int, number: int) -> None:
    operations = os.open(control / "operations", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in _TO_FILES:
            return
        if isinstance(args[0], int) or not os.path.abspath(os.fsdecode(args[0])).startswith(folder):
            return
        os.write(operations, b".")
        if at and os.fstat(operations).st_size >= at:
            _act_once(control, number)

    sys.addaudithook(hook)


def _act_once(control: Path, number: int) -> None:
    try:
        os.mkdir(control / "acted")
    except FileExistsError:
        return
    if number == signal.SIGKILL:
        signal_all(control, number)
    else:
        interrupt(control, number)


def _shift_clock(seconds: float) -> None:
    real, real_ns, late = time.time, time.time_ns, itertools.cycle((0.0, seconds))
    time.time = lambda: real() - next(late)
    time.time_ns = lambda: real_ns() - int(1e9 * next(late))


if "TRUST_CONTROL" in os.environ:
    _control = Path(os.environ["TRUST_CONTROL"])
    with (_control / "pids").open("a") as _pids:
        _pids.write(f"{os.getpid()}\n")
    _at, _number = int(os.environ["TRUST_AT"]), int(os.environ["TRUST_SIGNAL"])
    _watch(_control, os.environ["TRUST_FOLDER"], _at, _number)
    if shift := float(os.environ["TRUST_CLOCK"]):
        _shift_clock(shift)
