"""What LaTeX's log holds against a build: references that are not there, boxes that stick out."""

import re
from pathlib import Path

from symnoise.core import InputError

LARGEST = 5.0  # points that a line may stick out by: less than a letter, and nobody sees it


def complaints(path: Path) -> list[str]:
    """One line for each undefined reference or citation, double label, missing character, and too wide a box."""
    if not path.is_file():
        raise InputError(f"{path} is not there; run `make paper`")
    # TeX breaks lines at 79 characters: join those, so that a name cut in two is still found.
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
