"""Whether two folders hold the same results: the same files, byte for byte but for what a clock says."""

import re
from pathlib import Path

# In JSON: durations and speeds, memory, and how much of a result an earlier run had measured.
_KEYS = r"[\w/]*seconds(?:_this_time)?|\w*per_second|forwards_per_probe|peak_rss_mib|resumed_examples"
_NUMBER = r"-?[\d.]+(?:e[+-]?\d+)?"
_OF_A_CLOCK = re.compile(rf'"(?:{_KEYS})": (?P<number>{_NUMBER}|null)|"stages": \{{[^{{}}]*\}}'.encode())
_JSON = (".json", ".jsonl")


def different(one: Path, other: Path, but: str = "") -> list[str]:
    """The files that differ or are only in one of the folders; those whose path begins with `but` do not count."""
    found, wanted = (dict(files(folder)) for folder in (one, other))
    names = [name for name in sorted(found | wanted) if not (but and name.startswith(but))]
    return [name for name in names if _content(found.get(name)) != _content(wanted.get(name))]


def files(folder: Path) -> list[tuple[str, Path]]:
    """Every file and empty folder with its path below `folder`."""
    every = sorted(path for path in folder.rglob("*") if not path.is_dir() or not any(path.iterdir()))
    return [(str(path.relative_to(folder)), path) for path in every]


def _content(path: Path | None) -> bytes | None:
    if path is None:
        return None
    if path.is_dir():
        return b"(a folder)"
    content = path.read_bytes()
    return _OF_A_CLOCK.sub(b'"clock": 0', content) if path.suffix in _JSON else content


def seconds(folder: Path) -> list[float]:
    """Every duration in the results."""
    texts = [path.read_bytes() for _, path in files(folder) if path.suffix in _JSON]
    found = [match for text in texts for match in _OF_A_CLOCK.finditer(text) if b"seconds" in match[0].split(b":")[0]]
    return [float(match["number"]) for match in found if match["number"] not in (None, b"null")]
