"""Errors that a user can fix: one line that says what to do."""

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
# In messages of safetensors, tokenizers and PyTorch, whose exceptions have no number, and PyTorch's no reason either.
_RUST, _TORCH = "os error", ("PytorchStreamWriter", "inline_container")

_LONGEST = 400  # characters of a printed line: a value from a file may have any length


class InputError(ValueError):
    """Bad input: one line that says what to do. The command line prints it and exits with code 2."""


class Diverged(InputError):  # noqa: N818 - what happened; nobody made an error
    """The run diverged: a loss is no longer finite."""


def unknown(kind: str, word: object, known: Iterable[str]) -> InputError:
    """An error for a word, or what a config has in its place, that is not in `known`; suggests the nearest match."""
    known = [one for one in known if one]  # "" stands for none given
    near = difflib.get_close_matches(str(word), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(known)}"
    return InputError(f"unknown {kind} {word!r}: {hint}")


def one_line(message: object) -> str:
    """An error's message on one line, cut in the middle if it is very long.

    Examples:
        >>> from symnoise.core import one_line
        >>> one_line("no such\\n file"), len(one_line("x" * 10_000))
        ('no such file', 400)
    """
    line = " ".join(str(message).split())
    half = _LONGEST // 2
    return line if len(line) <= _LONGEST else f"{line[: half - 1]}…{line[-half:]}"


def unwritable(path: str | Path, error: OSError) -> InputError:
    """An error for what could not be written to `path`, a file or a folder."""
    advice = "make room there and run again" if error.errno in _FULL else "choose a folder you can write to"
    return InputError(f"cannot write {path}: {error.strerror or reason(error)}; {advice}")


def unwritten(error: Exception) -> str:
    """Why a library could not write, as far as it says; "" for an error that is about something else."""
    if isinstance(error, OSError):
        return error.strerror or ""
    if any(word in str(error) for word in _TORCH):
        return "PyTorch could not write all of it"
    return reason(error) if _RUST in str(error) else ""


@contextmanager
def saving(place: str | Path) -> Iterator[None]:
    """Within the block a library saves to `place`; what it cannot write is an `InputError`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or not (why := unwritten(error)):
            raise
        raise InputError(
            f"cannot save {place}: {why}; make room in a folder you can write to, then run again"
        ) from error


def reason(error: Exception) -> str:
    """The first line of an exception's message, or its type if the message is empty."""
    if isinstance(error, UnicodeDecodeError):  # its own message is for programmers
        return "it is not UTF-8 text"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
