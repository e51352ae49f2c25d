"""Batches of examples shared by the processes of a run, finished ones kept so that a rerun resumes from them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from accelerate import PartialState
from rich.console import Console

from symnoise.cli.processes import Stopped, agreed, gathered, ignore_signals
from symnoise.cli.shared import PLAIN, Text, batches
from symnoise.core import InputError, out_of_memory, track
from symnoise.core.batch_records import BatchRecords, key_of

Record = dict[str, Any]
_Batch = tuple[str, range]  # its key and its row numbers


def measured(
    text: Text,
    runs: Sequence[range],
    measure: Callable[[range], Record],
    *,
    settings: dict[str, Any],
    us: PartialState,
    records: BatchRecords,
    console: Console,
) -> tuple[list[Record], int]:
    """`measure(ids)` for each run of row numbers, in order, on every process; and how many rows an earlier run did.

    In a turn each process measures one batch, then all exchange their records: bad input ends the run after its turn.

    settings: all that the records depend on besides the rows themselves. A kept record is used where settings, row
    numbers and token ids are its own, whatever the number of processes was.
    """
    keys = [key_of(settings, list(ids), [text.rows[i] for i in ids]) for ids in runs]
    if len(set(gathered(key_of(keys)))) > 1:
        raise InputError("the processes have read different models or data: give each machine the same files")
    known = _of_all(records.read(keys))
    pairs = list(zip(keys, runs, strict=True))
    resumed = _examples(pairs, known)
    if others := records.others(keys):
        console.print(f"symnoise: {others} batches of other settings or data stay in {records.folder}", **PLAIN)
    if resumed:
        console.print(
            f"symnoise: {resumed} of {len(text)} examples are done, by an earlier run ({records.folder})", **PLAIN
        )
    missing = [pair for pair in pairs if pair[0] not in known]
    with _resumable(pairs, records):
        for turn in track(batches(len(missing), us.num_processes), "batches"):
            with us.split_between_processes([missing[i] for i in turn]) as mine:
                known |= _of_all(agreed(partial(_kept, mine, measure, records)))
    return [known[key] for key in keys], resumed


def _kept(mine: Sequence[_Batch], measure: Callable[[range], Record], records: BatchRecords) -> dict[str, Record]:
    """The records of this process's batches by their keys, on disk as well."""
    made = {}
    for key, ids in mine:
        made[key] = _within_memory(measure, ids)
        records.write(key, made[key])
    return made


def _of_all(found: dict[str, Record]) -> dict[str, Record]:
    """The records of all processes."""
    return {key: record for one in gathered(found) for key, record in one.items()}


def _examples(pairs: Sequence[_Batch], known: dict[str, Record]) -> int:
    return sum(len(ids) for key, ids in pairs if key in known)


@contextmanager
def _resumable(pairs: Sequence[_Batch], records: BatchRecords) -> Iterator[None]:
    """What ends the run early says how many examples are kept for a rerun."""

    def kept() -> str:
        count = _examples(pairs, records.read([key for key, _ in pairs]))
        return f"resumes from the {count} examples that are done, kept in {records.folder}" if count else ""

    def again(what: str) -> str:
        return f"{what}; run the same command again" + (f": it {kept()}" if kept() else "")

    try:
        yield
    except InputError as error:
        raise InputError(f"{error}; a rerun {kept()}" if kept() else str(error)) from error
    except Stopped as error:
        raise Stopped(again(str(error)), error.code) from error
    except KeyboardInterrupt as error:
        ignore_signals()
        raise Stopped(again("stopped"), 130) from error


def _within_memory(measure: Callable[[range], Record], ids: range) -> Record:
    try:
        return measure(ids)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    raise InputError(f"out of memory at examples {ids[0]} to {ids[-1]}: lower --batch or --max-length")
