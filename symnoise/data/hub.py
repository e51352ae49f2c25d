"""Rows of Hugging Face hub data sets and of folders of data files."""

import difflib
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from symnoise.core import InputError, reason, unknown
from symnoise.data.chitchat import CHITCHAT
from symnoise.data.example import RowError
from symnoise.data.files import SUFFIXES, Rows, file_rows, is_data_file


class HubName(NamedTuple):
    """The parts of `DATA[:config][@split]`; a folder has splits, too."""

    data: str
    config: str | None
    split: str


def hub_name(name: str) -> HubName:
    """Parse `name`. Raises `InputError` for a mistyped path or bundled name."""
    data, _, split = name.partition("@")
    data, _, config = data.partition(":")
    if not data.strip():
        raise InputError(f"the data has no name: give {CHITCHAT}, a {', '.join(SUFFIXES)} file or a hub id")
    if not Path(data).expanduser().is_dir():
        if data.count("/") > 1 or data.startswith((".", "/", "~")) or is_data_file(data):
            raise InputError(f"there is no data file {data}")
        if difflib.get_close_matches(data.lower(), [CHITCHAT], cutoff=0.75):
            raise unknown("data", data.lower(), [CHITCHAT])
    return HubName(str(Path(data).expanduser()), config or None, split or "train")


def hub_rows(name: HubName, *, streaming: bool) -> Rows:
    """The rows of one split; with `streaming`, rows are fetched as needed and not cached.

    A folder's files are read here one after the other, so that a bad row does not stop the rest. Row numbers continue
    from file to file.
    """
    there = Path(name.data).is_dir()
    try:
        files = _folder_files(name) if there else []
        yield from _rows_of(files) if files else enumerate(_loaded(name, streaming), 1)
    except InputError:
        raise
    except Exception as error:  # the network, the hub and the data set's files raise a dozen kinds
        kind = "it is a folder, and of that `datasets`" if there else "it is no file here, and as a hub data set it"
        raise InputError(
            f"cannot load {name.data}: {kind} says: {reason(error)}; give {CHITCHAT}, a {', '.join(SUFFIXES)} file, a "
            "folder of them, or a hub id that is cached or can be reached, as ID:CONFIG@SPLIT where it has several"
        ) from error


def _folder_files(name: HubName) -> list[Path]:
    """The data files of a folder's split, as `datasets` finds them; none if some are of a kind not read here.

    `datasets` takes the files of the most frequent kind; warns about those that it ignores.
    """
    import datasets

    splits = datasets.load_dataset_builder(name.data, name.config).config.data_files
    found = {split: [Path(file) for file in files] for split, files in splits.items()}
    files = found.get(name.split, [])
    if not all(is_data_file(file.name) and file.is_file() for file in files):
        return []
    known = {file for some in found.values() for file in some}
    beside = sorted({other for file in files for other in file.parent.iterdir()} - known)
    if passed := [other.name for other in beside if is_data_file(other.name)]:
        few = ", ".join(passed[:3]) + (" …" if len(passed) > 3 else "")
        warnings.warn(f"{name.data}: not read, since most files are {files[0].suffix}: {few}", stacklevel=2)
    return files


def _rows_of(files: list[Path]) -> Rows:
    before = 0
    for file in files:
        number = 0
        for number, row in file_rows(file):
            at = before + number
            yield at, RowError(at, row.reason, advice=row.advice) if isinstance(row, RowError) else row
        before += number


def _loaded(name: HubName, streaming: bool) -> Iterable[Any]:
    import datasets

    options: dict[str, Any] = {"name": name.config, "split": name.split}
    if streaming:
        try:
            return datasets.load_dataset(name.data, **options, streaming=True)
        except Exception:  # a cached data set whose hub cannot be reached can only be loaded whole
            pass
    return datasets.load_dataset(name.data, **options)
