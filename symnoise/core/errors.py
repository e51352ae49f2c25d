"""Errors that a user can fix: one line that says what to do."""

import difflib
from collections.abc import Iterable

_LONGEST = 400  # characters of a printed line: a value from a file may have any length


class InputError(ValueError):
    """Bad input: one line that says what to do. The command line prints it and exits with code 2."""


class Diverged(InputError):  # noqa: N818 - what happened; nobody made an error
    """The run diverged: a loss is no longer finite."""


def unknown(kind: str, word: object, known: Iterable[str]) -> InputError:
    """An error for a word, or what a config has in its place, that is not in `known`; suggests the nearest match."""
    known = list(known)
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


def reason(error: Exception) -> str:
    """The first line of an exception's message, or its type if the message is empty."""
    if isinstance(error, UnicodeDecodeError):  # its own message is for programmers
        return "it is not UTF-8 text"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
