"""Errors that a user can mend: one clear line that says what to do."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """The input is at fault, not the program. The command line prints the message and exits with code 2."""


class Diverged(InputError):  # noqa: N818 - what happened; nobody made an error
    """A loss is not a finite number any more: the run diverged."""


def unknown(kind: str, word: str, known: Iterable[str]) -> InputError:
    """An error for a word that is not one of `known`, with the nearest match suggested."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(known)}"
    return InputError(f"unknown {kind} {word!r}: {hint}")


def reason(error: Exception) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    if isinstance(error, UnicodeDecodeError):  # what it says is for programmers
        return "it is not UTF-8 text"
    return (str(error).strip() or type(error).__name__).splitlines()[0]
