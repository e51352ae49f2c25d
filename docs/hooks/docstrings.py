"""Griffe extension: the plain text of docstrings as Markdown.

Docstrings here are laid out for a terminal. A line `name: what it is` opens an entry, lines indented under it belong to
it, and so do options, `"word"` and two spaces or more. As they stand, Markdown would run them together.
"""

import re
from inspect import cleandoc
from typing import Any

from griffe import Extension, Object

_ENTRY = re.compile(r'^((?:[A-Za-z_][\w/]*|"\w+")(?:, [\w/]+)*):\s+(\S.*)$')
_OPTION = re.compile(r'^("[\w+-]+")\s{2,}(\S.*)$')


class PlainDocstrings(Extension):
    """Rewrites every docstring as it is collected."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Replace the text of `obj`'s docstring."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """Entries as a list, their options as a list below; all else as it is, with * and _ meant literally."""
    first, *lines = cleandoc(text).split("\n")
    made, inside, indent, before = [_literal(first)], False, 4, first
    for line in lines:
        entry = _ENTRY.match(line) if inside or not before else None
        if entry:
            names = ", ".join(f"`{name}`" for name in entry[1].split(", "))
            option = _OPTION.match(entry[2])
            made += [""] if indent == 8 else []  # or the list of options would take this entry in
            made.append(f"- **{names}**" + (":" if option else f": {_literal(entry[2])}"))
            inside, indent = True, 4
            if option:
                made, indent = [*made, "", _sub(option)], 8
        elif inside and line.startswith(" "):
            option = _OPTION.match(line.strip())
            made.append(_sub(option) if option else " " * indent + _literal(line.strip()))
            indent = 8 if option else indent
        else:
            made += [""] if inside and line else []
            inside = False
            made.append(line if line.startswith("    ") else _literal(line))
        before = line
    return "\n".join(made)


def _sub(option: re.Match[str]) -> str:
    return f"    - `{option[1]}` {_literal(option[2])}"


def _literal(text: str) -> str:
    """Markdown's marks of emphasis escaped, outside of code."""
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"([*_])", r"\\\1", piece) for piece in pieces[::2]]
    return "`".join(pieces)
