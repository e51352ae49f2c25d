"""Rows of data sources, as (number, row) pairs: files and the hub."""

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from symnoise.core import InputError, reason, unknown
from symnoise.data.chitchat import CHITCHAT

_SUFFIXES = (".json", ".jsonl", ".parquet")
Rows = Iterator[tuple[int, Any]]


def file_rows(path: Path) -> Rows:
    """Rows of a .json (a list, or JSON lines), .jsonl or .parquet file; JSON lines are numbered by their line."""
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}: give a {', '.join(_SUFFIXES)} file")
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            yield from enumerate(pyarrow.parquet.read_table(path).to_pylist(), 1)
            return
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not parquet
        raise InputError(f"cannot read {path}: {reason(error)}") from error
    if path.suffix == ".json" and text.lstrip().startswith("["):
        yield from enumerate(_parsed(path, text, 1), 1)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _parsed(path, line, number)


def _parsed(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {line + error.lineno - 1}: not JSON ({error.msg})") from error


def hub_rows(name: str) -> Rows:
    """Rows of the train split of a hub data set, or of a folder of data files."""
    _check_hub_id(name)
    import datasets

    try:
        split = datasets.load_dataset(name, split="train")
    except Exception as error:  # of a dozen kinds, from the network, the hub, the data set's own files
        raise InputError(
            f"cannot load {name}: it is no file here, and as a hub data set it says: {reason(error)}; give "
            f"{CHITCHAT}, a {', '.join(_SUFFIXES)} file, or a hub id that is cached or can be reached"
        ) from error
    yield from enumerate(split, 1)


def _check_hub_id(name: str) -> None:
    """Refuse what is meant as a path or as the bundled name, before asking the network for it."""
    if not name.strip():
        raise InputError(f"the data has no name: give {CHITCHAT}, a {', '.join(_SUFFIXES)} file or a hub id")
    if Path(name).expanduser().is_dir():
        return
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or name.endswith((*_SUFFIXES, ".csv", ".txt")):
        raise InputError(f"there is no data file {name}")
    if difflib.get_close_matches(name.lower(), [CHITCHAT], cutoff=0.75):
        raise unknown("data", name.lower(), [CHITCHAT])
