"""The processes of a run: one, or those of torchrun, which agree on errors and end together, with one line."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import distributed as dist

from symnoise.core import InputError
from symnoise.curvature.taylor import UnsupportedOperation

T = TypeVar("T")

# How long a process waits for another, which may be downloading a model or measuring a longer batch. torchrun and gloo
# notice at once when a process dies; this is for a machine that vanishes.
_PATIENCE = timedelta(hours=6)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818
    """Ctrl-C, SIGTERM, or a process of the run was lost: a line to say, and the exit code."""

    def __init__(self, line: str, code: int = 1) -> None:
        super().__init__(line)
        self.code = code


def several() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


@contextmanager
def processes() -> Iterator[PartialState]:
    """accelerate's state of the processes; gloo connects them, since what they exchange is small and on the CPU.

    Within the block SIGTERM, with which torchrun ends the others when one process dies, raises `Stopped`.
    """
    before = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        state = PartialState(cpu=True, timeout=_PATIENCE)
        yield state
        state.destroy_process_group()
    finally:
        if not several():  # else the process is about to end, and is still to say why
            for number, handler in before.items():
                signal.signal(number, handler)


def gathered(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks."""
    try:
        return gather_object([value])
    except RuntimeError as error:
        ignore_signals()
        raise Stopped("another process of this run was lost") from error


def agreed(work: Callable[[], T]) -> T:
    """`work()` on every process; bad input on one of them is raised on all, so that all end alike."""
    error = value = None
    try:
        value = work()
    except (InputError, UnsupportedOperation) as bad:
        error = str(bad)
    if errors := [text for text in gathered(error) if text is not None]:
        raise InputError(errors[0])
    return value  # type: ignore[return-value]


def first_on_its_machine(state: PartialState, work: Callable[[], T]) -> T:
    """`work()` on one process of each machine, then on the others: what the first downloads, they find."""
    first = state.is_local_main_process
    value = agreed(lambda: work() if first else None)
    return agreed(lambda: value if first else work())  # type: ignore[return-value]


def own_device(state: PartialState, device: str) -> str:
    """The device of this process: where a machine has several processes, cuda means a GPU for each."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if here == 1 or not device.startswith("cuda"):
        return device
    if device != "cuda":
        raise InputError(f"--device {device} is one GPU for {here} processes: --device cuda gives each its own")
    if (gpus := torch.cuda.device_count()) < here:
        raise InputError(f"--device cuda needs a GPU for each of the {here} processes of a machine; here are {gpus}")
    torch.cuda.set_device(state.local_process_index)
    return f"cuda:{state.local_process_index}"


def first_to_end() -> bool:
    """Whether no other process has asked this before: all end for one reason, and one process says it.

    The store that counts is torchrun's, which outlives any process; where a launcher keeps none, rank 0 says it.
    """
    ignore_signals()
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=30))
        return store.add("symnoise/ended", 1) == 1
    except (KeyError, RuntimeError):
        return os.environ["RANK"] == "0"


def ignore_signals() -> None:
    """For a process of several that is ending: torchrun's signals must not cut short what it has to say."""
    if several():
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _stop(number: int, _: Any) -> None:
    ignore_signals()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    lost = "another process of this run was lost or " if several() else ""
    raise Stopped(f"stopped, since {lost}the run was ended from outside")
