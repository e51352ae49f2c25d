"""Batches of examples dealt to the processes of a run, finished ones kept so that a rerun resumes from them."""

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from symnoise.cli.batch_records import Parts, key_of
from symnoise.cli.processes import Interrupted, Lost, Process
from symnoise.cli.shared import PLAIN, Text
from symnoise.core import InputError, out_of_memory, track

Record = dict[str, Any]


def measured(
    text: Text,
    runs: Sequence[range],
    measure: Callable[[range], Record],
    *,
    settings: dict[str, Any],
    us: Process,
    parts: Parts,
    console: Console,
) -> tuple[list[Record], int]:
    """`measure(ids)` for each run of row numbers, in order, on every process; and how many rows an earlier run did.

    settings: all that the records depend on besides the rows themselves. A kept record is used where settings, row
    numbers and token ids are its own, whatever the number of processes was.
    """
    keys = [key_of(settings, list(ids), [text.rows[i] for i in ids]) for ids in runs]
    if len(set(us.gathered(key_of(keys)))) > 1:
        raise InputError("the processes have read different models or data: give each machine the same files")
    known: dict[str, Record] = {}
    for found in us.gathered(parts.read(keys)):
        known |= found
    resumed = sum(len(ids) for ids, key in zip(runs, keys, strict=True) if key in known)
    if others := parts.others(keys):
        console.print(f"symnoise: ignoring {others} batches of other settings or data in {parts.folder}", **PLAIN)
    if resumed:
        console.print(
            f"symnoise: {resumed} of {len(text)} examples are done, by an earlier run ({parts.folder})", **PLAIN
        )
    missing = [(key, ids) for key, ids in zip(keys, runs, strict=True) if key not in known]
    mine: dict[str, Record] = {}

    def work() -> None:
        for number in track(us.deal(len(missing)), "batches"):
            if number is not None:
                key, ids = missing[number]
                mine[key] = _within_memory(measure, ids)
                parts.write(key, mine[key])

    def kept() -> str:
        done = parts.read(keys).keys()
        count = sum(len(ids) for ids, key in zip(runs, keys, strict=True) if key in done)
        return f"the {count} examples that are done, kept in {parts.folder}" if count else ""

    try:
        us.agreed(work)
        for found in us.gathered(mine):
            known |= found
    except InputError as error:
        raise InputError(f"{error}; a rerun resumes from {kept()}" if kept() else str(error)) from error
    except Lost as error:
        raise Lost(_again(str(error), kept())) from error
    except KeyboardInterrupt as error:
        raise Interrupted(_again("stopped", kept())) from error
    return [known[key] for key in keys], resumed


def _again(what: str, kept: str) -> str:
    return f"{what}; run the same command again" + (f": it resumes from {kept}" if kept else "")


def _within_memory(measure: Callable[[range], Record], ids: range) -> Record:
    try:
        return measure(ids)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    raise InputError(f"out of memory at examples {ids[0]} to {ids[-1]}: lower --batch or --max-length")
