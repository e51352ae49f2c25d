"""The commands and the Python of the README, by section."""

import re
import shlex
from pathlib import Path

from result_schema.files import ROOT

README = ROOT / "README.md"


def section(title: str, path: Path = README) -> str:
    """The text under the heading `title`."""
    (text,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", path.read_text(encoding="utf-8"), re.M | re.S)
    return text


def commands(text: str) -> list[list[str]]:
    """The words of every indented command, and of every line of code in backticks that is one, without comments."""
    indented = re.findall(r"^    (?=(?:symnoise|python|make|pip|git) )(.*)$", text, re.M)
    inline = re.findall(r"`((?:symnoise|python|make|pip) [^`]+)`", text)
    return [shlex.split(line, comments=True) for line in (*indented, *inline)]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
