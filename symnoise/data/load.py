"""`load_data`: conversations from a hub id, a file, or the bundled default, in one form whatever they came in."""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from symnoise.core import InputError, sha256
from symnoise.data.chitchat import CHITCHAT, chitchat_file, chitchat_rows
from symnoise.data.example import Example, LeftOut, RowError
from symnoise.data.files import Rows, file_rows
from symnoise.data.formats import example_of
from symnoise.data.hub import hub_name, hub_rows


@dataclass(frozen=True)
class Data:
    """The examples of one source, and which source it was.

    form:     "Alpaca", "ShareGPT", "messages", "prompt-completion" or "text", as the first example has it.
    path:     the file; None for a hub id or a folder.
    left_out: rows that cannot be used, for each reason.
    """

    examples: tuple[Example, ...] = field(repr=False)
    name: str
    form: str
    path: Path | None = field(default=None, repr=False)
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[Example]:
        return iter(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]

    def __repr__(self) -> str:
        left = f", {sum(self.left_out.values())} rows left out" if self.left_out else ""
        return f"Data({self.name!r}, {self.form} form: {len(self)} examples{left})"

    @cached_property
    def sha256(self) -> str:
        """Of the file; for a hub id or a folder, of the examples themselves."""
        if self.path is not None:
            return sha256(self.path)
        lines = json.dumps([astuple(example) for example in self.examples], ensure_ascii=False)
        return hashlib.sha256(lines.encode()).hexdigest()

    def provenance(self) -> dict[str, Any]:
        """What was loaded, for a result record; the SHA-256 is computed now (about 1 s per GB)."""
        facts: dict[str, Any] = {"name": self.name, "form": self.form, "sha256": self.sha256, "examples": len(self)}
        left_out = {"left_out": sum(self.left_out.values())}
        return facts | left_out | ({"left_out_because": self.left_out} if self.left_out else {})


class Source:
    """The examples of one source, read once, as they are asked for; rows that cannot be used count in `left_out`.

    name:   as for `load_data`.
    strict: the first row that cannot be used is an error.
    whole:  every row will be asked for, so a hub data set is downloaded and kept rather than streamed.

    Raises `InputError` at once where there is no such source, and while reading where it cannot be read.
    """

    def __init__(self, name: str | Path, *, strict: bool = False, whole: bool = False) -> None:
        self.name, self.form = str(name), ""
        self.left_out = LeftOut(strict)
        found = chitchat_file() if self.name == CHITCHAT else Path(name).expanduser()
        self.path = found if found.is_file() else None
        self._rows = self._open(whole)

    def _open(self, whole: bool) -> Rows:
        if self.path is None:
            return hub_rows(hub_name(self.name), streaming=not whole)
        return chitchat_rows(self.path) if self.name == CHITCHAT else file_rows(self.path)

    def __iter__(self) -> Iterator[Example]:
        for number, row in self._rows:
            try:
                if isinstance(row, RowError):
                    raise row
                form, example = example_of(row, number)
            except RowError as error:
                self.leave_out(error)
            else:
                self.form = self.form or form
                yield example

    def leave_out(self, error: RowError) -> None:
        """Count a row that cannot be used; an error where the source is strict."""
        try:
            self.left_out.add(error)
        except RowError:
            raise InputError(f"{self.name}, {error}") from error

    def data(self, examples: Sequence[Example]) -> Data:
        """`examples` of this source, with a warning where rows were left out; `InputError` where there are none."""
        if not examples and self.left_out:
            count = len(self.left_out)
            raise InputError(f"{self.name}: none of its {count} rows can be used: {self.left_out.why()}")
        if not examples:
            raise InputError(f"{self.name} has no rows")
        if self.left_out:
            rows = "1 row is" if len(self.left_out) == 1 else f"{len(self.left_out)} rows are"
            warnings.warn(f"{self.name}: {rows} left out: {self.left_out}", stacklevel=3)
        return Data(tuple(examples), self.name, self.form, self.path, dict(self.left_out.counts))


def load_data(name: str | Path, *, limit: int | None = None, strict: bool = False) -> Data:
    """The first `limit` examples (None: all) of the data called `name`, in their order there.

    name:   `chitchat` (bundled; `chitchat_rows` says what is kept); a .json, .jsonl, .csv, .txt or .parquet file, also
            as .json.gz and the like; a folder of such files; or a hub id, as ID:CONFIG@SPLIT where it has several
            (without: the only configuration and the train split).
    limit:  rows after these are not looked at.
    strict: the first row that cannot be used is an error, instead of being left out and counted.

    A row's form is recognised by its keys, each row for itself: `messages` (role, content), ShareGPT's `conversations`
    (from, value), TRL's `prompt` and `completion` (texts, or lists of messages), Alpaca's instruction, input and
    output, with `system` and `history` where it has them, Dolly's instruction, context and response, and `text` alone.
    Columns that are null count as absent.

    Text is taken as it is. Of a conversation, what the model says before the first user message, everything from the
    first empty message on, and messages after the last reply are dropped, since nothing in them would be scored. A
    reply with `weight: 0` or `train: false` is context and not scored.

    Rows that cannot be used are left out and counted by reason, with one warning. Raises `InputError` where none can
    be used, and for a source that is not there or cannot be read.
    """
    if limit is not None and limit < 1:
        raise InputError(f"{limit} examples were asked for: ask for at least 1")
    source = Source(name, strict=strict, whole=limit is None)
    return source.data(tuple(islice(source, limit)))
