"""Problems in LaTeX's log: undefined references, overfull boxes."""

import re
from pathlib import Path

from symnoise.core import InputError

LARGEST = 5.0  # points that a line may stick out: less than a letter, invisible in print


def complaints(path: Path) -> list[str]:
    """One line per undefined reference or citation, duplicate label, missing character and overfull box."""
    if not path.is_file():
        raise InputError(f"{path} is not there; run `make paper`")
    # TeX breaks lines at 79 characters: join them, so that a split name is still found.
    text = re.sub(r"(?<=^.{79})\n", "", path.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE)
    found = re.findall(
        r"^(LaTeX Warning: (?:Reference|Citation|Hyper reference|Label) .*|.*undefined references.*|"
        r"Missing character: .*|.*multiply.defined.*)$",
        text,
        flags=re.MULTILINE,
    )
    for whole, points in re.findall(r"^(Overfull \\[hv]box \((\d+\.?\d*)pt too .*)$", text, flags=re.MULTILINE):
        if float(points) > LARGEST:
            found.append(f"{whole} (more than {LARGEST:g} pt)")
    return list(dict.fromkeys(found))
