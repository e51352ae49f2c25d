"""Rows of hub data sets, and of folders of data files."""

import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from symnoise.core import InputError, reason, unknown
from symnoise.data.chitchat import CHITCHAT
from symnoise.data.files import SUFFIXES, is_data_file


class HubName(NamedTuple):
    """`DATA[:config][@split]`, taken apart; a folder too has splits."""

    data: str
    config: str | None
    split: str


def hub_name(name: str) -> HubName:
    """Take `name` apart. Raises `InputError` for what is meant as a path or as the bundled name."""
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


def hub_rows(name: HubName, *, streaming: bool) -> Iterator[tuple[int, Any]]:
    """The rows of one split; with `streaming` only what is asked for is fetched, and nothing is kept for next time."""
    try:
        yield from enumerate(_loaded(name, streaming), 1)
    except Exception as error:  # of a dozen kinds, from the network, the hub, the data set's own files
        raise InputError(
            f"cannot load {name.data}: it is no file here, and as a hub data set it says: {reason(error)}; give "
            f"{CHITCHAT}, a {', '.join(SUFFIXES)} file, or a hub id that is cached or can be reached, as "
            "ID:CONFIG@SPLIT where it has several"
        ) from error


def _loaded(name: HubName, streaming: bool) -> Iterable[Any]:
    import datasets

    options: dict[str, Any] = {"name": name.config, "split": name.split}
    if streaming:
        try:
            return datasets.load_dataset(name.data, **options, streaming=True)
        except Exception:  # what is in the cache but not within reach can only be loaded whole
            pass
    return datasets.load_dataset(name.data, **options)
