"""Progress bars: silent in a library, shown when a program asks for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
_shown: ContextVar[Progress | None] = ContextVar("symnoise-progress", default=None)


@contextmanager
def progress_shown() -> Iterator[Console]:
    """Within the block, every `track` draws a bar on standard error if that is a terminal; yields the console, for
    lines above the bars."""
    console = Console(stderr=True)
    if not console.is_interactive:  # a file or a pipe, to which rich would write an empty line at the end
        yield console
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        token = _shown.set(progress)
        try:
            yield console
        finally:
            _shown.reset(token)


@runtime_checkable
class Counted(Protocol[Item_co]):
    """Items whose number is known: a sequence, or a tensor along its first axis."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Item_co]: ...


def track(items: Counted[Item], what: str) -> Iterator[Item]:
    """The items one by one, with a bar named `what` inside `progress_shown`."""
    progress = _shown.get()
    if progress is None:
        yield from items
        return
    task = progress.add_task(what, total=len(items))
    try:
        for item in items:
            yield item
            progress.advance(task)
    finally:
        progress.remove_task(task)
