"""Locks that end with their process: one run at a time in a place, and temporary files that nobody writes any more."""

import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from symnoise.core.errors import InputError, unwritable

# What a file system without locks answers; NFS refuses an exclusive lock on a file that is open for reading only.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


@contextmanager
def one_run_at_a_time(place: Path, lock: Path, advice: str) -> Iterator[None]:
    """Within the block another process that asks for the same lock, to write to `place`, is refused.

    `lock` is a file that is removed at the end of the block, with its folder if that was made for it and is empty. The
    kernel releases it when the process ends, however that happens, so what a killed run leaves refuses nobody. A forked
    child has it, too. On a file system without locks nobody is refused.

    Raises:
        InputError: If another process has the lock, with `advice`; if `place` cannot be written to.
    """
    with ExitStack() as folder:
        try:
            folder.enter_context(folder_for(lock))
            taken = _take(lock, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise unwritable(place, error) from error
            yield
            return
        if taken is None:
            raise InputError(f"{place} is in use by another run{_owner(lock)}: wait until it has ended, or {advice}")
        try:
            with suppress(OSError):  # a full disk is said where something is lost
                os.truncate(taken, 0)
                os.write(taken, str(os.getpid()).encode())
            yield
        finally:
            lock.unlink(missing_ok=True)  # while it is locked: whoever has opened it by now looks again
            os.close(taken)


@contextmanager
def folder_for(file: Path) -> Iterator[None]:
    """Within the block the folder of `file` is there; the folders made for it that are empty afterwards are removed."""
    made = [folder for folder in file.parents if not folder.exists()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        with suppress(OSError):  # the first that is not empty ends it: those above it are not, either
            for folder in made:
                folder.rmdir()


def _owner(lock: Path) -> str:
    with suppress(OSError):
        if process := lock.read_text(encoding="utf-8"):
            return f" (process {process})"
    return ""


@contextmanager
def temporary(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A temporary file (or folder) next to `path`, which is removed at the end of the block if it is still there.

    What a killed process left behind for the same path is removed first: nobody has its lock any more.
    """
    start, end = f".{path.stem}-", f".partial{path.suffix}"
    for left in path.parent.glob(f"{glob.escape(start)}*{glob.escape(end)}"):
        with suppress(OSError):  # another process was faster, or there are no locks that tell
            if (taken := _take(left, os.O_RDONLY)) is not None:
                _remove(left)
                os.close(taken)
    made, taken = _made(path.parent, start, end, folder=folder)
    try:
        yield made
    finally:
        _remove(made)
        if taken is not None:
            os.close(taken)


def _made(parent: Path, start: str, end: str, *, folder: bool) -> tuple[Path, int | None]:
    """A new file or folder and the descriptor that has its lock; None where there are no locks."""
    while True:
        if folder:
            name = tempfile.mkdtemp(dir=parent, prefix=start, suffix=end)
        else:
            handle, name = tempfile.mkstemp(dir=parent, prefix=start, suffix=end)
            os.close(handle)
        try:
            taken = _take(Path(name), os.O_RDONLY)
        except FileNotFoundError:  # taken for a left one before it was locked
            continue
        except OSError:
            return Path(name), None
        if taken is not None:
            return Path(name), taken


def _take(path: Path, flags: int) -> int | None:
    """A descriptor that has the lock of the file or folder; None if another process has it."""
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise
        if _is(path, descriptor):
            return descriptor
        os.close(descriptor)  # its owner has just removed it


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
