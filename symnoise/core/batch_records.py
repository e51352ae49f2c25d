"""Finished batches of an unfinished run, kept next to its result file so that a rerun resumes from them."""

import json
import math
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from symnoise.core import sha256_of, write_json

_DIGITS = 32


class BatchRecords:
    """FILE.parts/: one JSON record a batch, written whole or not at all, named by all that its numbers depend on.

    A record whose key is not asked for, which is of other settings or data, is left alone. Without a file nothing is
    kept.
    """

    def __init__(self, file: Path | None) -> None:
        self.folder = None if file is None else file.parent / f"{file.name}.parts"
        self._own: set[str] = set()

    def read(self, keys: Sequence[str]) -> dict[str, Any]:
        """The records kept under these keys; an unreadable one counts as missing."""
        found = {}
        self._own.update(keys)
        for key in keys:
            path = self._path(key)
            if path is None or not path.is_file():
                continue
            try:
                found[key] = with_nan(json.loads(path.read_text(encoding="utf-8")))
            except ValueError:
                continue
        return found

    def write(self, key: str, record: dict[str, Any]) -> None:
        self._own.add(key)
        if path := self._path(key):
            write_json(path, record)

    def others(self, keys: Sequence[str]) -> int:
        """How many records are kept under other keys: those of other settings or data."""
        names = {f"{key}.json" for key in keys}
        return sum(path.name not in names for path in self._files())

    def remove(self) -> None:
        """Delete the records that were asked for, and the folder where nothing else is in it."""
        if self.folder is None:
            return
        own = (path for path in self._files() if path.stem in self._own)
        for path in [*own, *self._files(".*")]:  # hidden: what a killed process was writing
            path.unlink(missing_ok=True)
        with suppress(OSError):  # other files are in it, or another process was faster
            self.folder.rmdir()

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{key}.json"

    def _files(self, stem: str = "?" * _DIGITS) -> list[Path]:
        """The files of this stem; none where another process of the run has removed the folder, even while it is
        read."""
        try:
            return [] if self.folder is None else sorted(self.folder.glob(f"{stem}.json"))
        except FileNotFoundError:
            return []


def key_of(*facts: Any) -> str:
    """A name for what `facts` (made of JSON's types) describe: 128 bits of their SHA-256."""
    return sha256_of(facts)[:_DIGITS]


def with_nan(value: Any) -> Any:
    """JSON has no NaN: `write_json` makes it null, and a record holds no other null."""
    if isinstance(value, dict):
        return {name: with_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [with_nan(item) for item in value]
    return math.nan if value is None else value


class Kept(MutableMapping[int, Any]):
    """Records by the number of their batch; each new one is written to `records` at once."""

    def __init__(self, records: BatchRecords, keys: Sequence[str]) -> None:
        self._records, self._keys, self._known = records, keys, records.read(keys)

    def __getitem__(self, number: int) -> Any:
        return self._known[self._keys[number]]

    def __setitem__(self, number: int, record: Any) -> None:
        self._known[self._keys[number]] = record
        self._records.write(self._keys[number], record)

    def __delitem__(self, number: int) -> None:
        del self._known[self._keys[number]]

    def __iter__(self) -> Iterator[int]:
        return (j for j, key in enumerate(self._keys) if key in self._known)

    def __len__(self) -> int:
        return len(self._known)
