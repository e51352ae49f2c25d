"""One process, or the processes that torchrun started: dealing work, agreeing on errors, noticing a lost one."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed as dist

from symnoise.core import InputError
from symnoise.curvature.taylor import UnsupportedOperation

T = TypeVar("T")

_BEAT = 5.0  # seconds between signs of life
# A process that has not responded for so long counts as lost. Death on the same machine is seen at once, by torchrun;
# this is for machines that vanish. Its length allows for calls that keep Python's lock, such as a tokenizer's.
_SILENCE = 120.0
_POLL = 0.05


class Lost(Exception):  # noqa: N818
    """A process of the run is gone, so the run cannot end well. One line; empty where another process says it."""


class Interrupted(Exception):  # noqa: N818
    """Ctrl-C, with a line to say."""


class Process:
    """A process that works alone."""

    rank, count, device = 0, 1, "cpu"

    def agreed(self, work: Callable[[], T]) -> T:
        """`work()` on every process; bad input on one of them is raised on all, so that all end alike."""
        return work()

    def first_on_its_machine(self, work: Callable[[], T]) -> T:
        """`work()` on one process of each machine, then on the others: what the first downloads, they find."""
        return self.agreed(work)

    def gathered(self, value: T) -> list[T]:
        """The values of all processes."""
        return [value]

    def deal(self, count: int) -> "Deal":
        """The numbers 0 … count − 1, each for one process: whoever is free takes the next. To be called once."""
        return Deal(count, iter(range(count)))


class Deal:
    """What `Process.deal` deals: len() is the count; yields a number to work on, or None as another finishes one."""

    def __init__(self, count: int, numbers: Iterator[int | None]) -> None:
        self._count, self._numbers = count, numbers

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int | None]:
        return self._numbers


class Member(Process):
    """A process of several. They meet through a key-value store, which also carries their signs of life.

    Before each collective call every process says in the store that it is there, and waits for the others in small
    steps: gloo and NCCL themselves wait for a lost process until their time is over, or for ever.
    """

    def __init__(self, store: Any, rank: int, count: int, *, local_rank: int = 0, silence: float = _SILENCE) -> None:
        self.rank, self.count, self._local_rank = rank, count, local_rank
        self._store, self._silence, self._meetings = store, silence, 0
        self._group: Any = None
        self._beats = {r: (-1, time.monotonic()) for r in range(count)}
        threading.Thread(target=self._live, args=(min(_BEAT, silence / 4),), daemon=True).start()

    def agreed(self, work: Callable[[], T]) -> T:
        error = value = None
        try:
            value = work()
        except (InputError, UnsupportedOperation) as bad:
            error = str(bad)
            self._add("failed", 1)
        for text in self.gathered(error):
            if text is not None:
                raise InputError(text)
        return value  # type: ignore[return-value]

    def first_on_its_machine(self, work: Callable[[], T]) -> T:
        first = self._local_rank == 0
        value = self.agreed(lambda: work() if first else None)
        return self.agreed(lambda: value if first else work())  # type: ignore[return-value]

    def gathered(self, value: T) -> list[T]:
        self._meet()
        values: list[Any] = [None] * self.count
        try:
            dist.all_gather_object(values, value, group=self._group)
        except RuntimeError as error:
            raise Lost("another process of this run was lost") from error
        return values

    def deal(self, count: int) -> Deal:
        return Deal(count, self._dealt(count))

    def _dealt(self, count: int) -> Iterator[int | None]:
        seen = 0
        while not self._add("failed", 0) and (number := self._add("dealt", 1) - 1) < count:
            yield number
            seen, done = seen + 1, self._add("done", 1)
            yield from [None] * (done - seen)
            seen = done
        for _ in self._until(lambda: self._add("done", 0) == count or self._add("failed", 0) > 0):
            done = self._add("done", 0)
            yield from [None] * (done - seen)
            seen = done
        yield from [None] * (self._add("done", 0) - seen)

    def join(self, device: str) -> None:
        """Form the group: gloo between CPUs; NCCL between GPUs, of which each process of a machine takes its own."""
        self._meet()
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.count,
            timeout=timedelta(seconds=self._silence),
        )
        self.device = self.agreed(lambda: own_device(device, self._local_rank))
        if self.device.startswith("cuda"):
            torch.cuda.set_device(self.device)
            self._group = dist.new_group(backend="nccl", timeout=timedelta(seconds=self._silence))

    def leave(self) -> None:
        dist.destroy_process_group()

    def first_to_say(self) -> bool:
        """Whether no other process has asked this before."""
        try:
            return self._add("said", 1) == 1
        except Lost:  # the store is gone, and the process that kept it
            return True

    def _live(self, pause: float) -> None:
        try:
            while True:
                self._store.add(f"life-{self.rank}", 1)
                time.sleep(pause)
        except RuntimeError:
            pass  # the store is gone: the main thread will notice

    def _meet(self) -> None:
        """Return when every process is here."""
        self._meetings += 1
        place = f"meeting-{self._meetings}"
        self._add(place, 1)
        for _ in self._until(lambda: self._add(place, 0) == self.count):
            pass

    def _until(self, over: Callable[[], bool]) -> Iterator[None]:
        """Tick until `over()`; raises `Lost` where another process stopped responding meanwhile."""
        looked = time.monotonic()
        while not over():
            yield
            time.sleep(_POLL)
            if time.monotonic() - looked > self._silence / 4:
                looked = time.monotonic()
                self._look_after_the_others(looked)

    def _look_after_the_others(self, now: float) -> None:
        for rank, (beats, since) in self._beats.items():
            if (new := self._add(f"life-{rank}", 0)) != beats:
                self._beats[rank] = (new, now)
            elif now - since > self._silence:
                raise Lost(f"process {rank} of {self.count} stopped responding")

    def _add(self, key: str, amount: int) -> int:
        try:
            return int(self._store.add(key, amount))
        except RuntimeError as error:
            raise Lost("the first process of this run was lost") from error


def own_device(device: str, local_rank: int) -> str:
    """The device of one process of several: cuda means a GPU for each."""
    if not device.startswith("cuda"):
        return device
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device != "cuda" and here > 1:
        raise InputError(
            f"--device {device} is one GPU for {here} processes: use --device cuda, and each takes its own"
        )
    if gpus < here:
        raise InputError(f"--device cuda needs a GPU for each of the {here} processes of a machine; here are {gpus}")
    return f"cuda:{local_rank}" if device == "cuda" else device


def several() -> bool:
    """Whether torchrun, or what speaks like it, started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


@contextmanager
def processes(device: str) -> Iterator[Process]:
    """The processes of this run, which the environment tells: one, or those of torchrun.

    torchrun ends the others with SIGTERM when it sees one die; here that becomes `Lost`, and one of them says it.
    """
    if not several():
        alone = Process()
        alone.device = device
        yield alone
        return
    store, rank, count = next(dist.rendezvous("env://"))
    member = Member(store, rank, count, local_rank=int(os.environ.get("LOCAL_RANK", "0")))
    before = signal.signal(signal.SIGTERM, _stopped)
    try:
        member.join(device)
        yield member
        member.leave()
    except InputError:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun may see another end before this one has said why
        member.leave()
        raise
    except Lost as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Lost(str(error) if member.first_to_say() else "") from error
    finally:
        if signal.getsignal(signal.SIGTERM) is _stopped:
            signal.signal(signal.SIGTERM, before)


def _stopped(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Lost("stopped, since another process of this run was lost or the run was ended from outside")
