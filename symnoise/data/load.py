"""`load_data`: conversations from a hub id, a file or the bundled default, in one common form."""

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
    """Examples of one data source, with their provenance.

    Attributes:
        examples: The examples, in the source's order.
        name: Name of the source, as given to `load_data`.
        form: Form of the first example: "Alpaca", "ShareGPT", "messages", "prompt-completion" or "text".
        path: The file; None for a hub id or a folder.
        left_out: Number of skipped rows per reason.
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
        """SHA-256 of the file; for a hub id or a folder, of the examples themselves."""
        if self.path is not None:
            return sha256(self.path)
        lines = json.dumps([astuple(example) for example in self.examples], ensure_ascii=False)
        return hashlib.sha256(lines.encode()).hexdigest()

    def provenance(self) -> dict[str, Any]:
        """Name, form, SHA-256 and counts, for a result record; the SHA-256 is computed now (about 1 s per GB)."""
        facts: dict[str, Any] = {"name": self.name, "form": self.form, "sha256": self.sha256, "examples": len(self)}
        left_out = {"left_out": sum(self.left_out.values())}
        return facts | left_out | ({"left_out_because": self.left_out} if self.left_out else {})


class Source:
    """Examples of one data source, read lazily and once; unusable rows are skipped and counted in `left_out`.

    Args:
        name: As in `load_data`.
        strict: Whether the first unusable row is an error.
        whole: Whether every row will be read, so that a hub data set is downloaded and cached rather than streamed.

    Raises:
        InputError: At once if there is no such source, and while iterating if it cannot be read.
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
        """Count a skipped row; an error if the source is strict.

        Args:
            error: What is wrong with the row.
        """
        try:
            self.left_out.add(error)
        except RowError:
            raise InputError(f"{self.name}, {error}") from error

    def data(self, examples: Sequence[Example]) -> Data:
        """Collect `examples` of this source as `Data`, with a warning if rows were skipped.

        Args:
            examples: Those to keep.

        Raises:
            InputError: If there are none.
        """
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
    """Load conversations from a file, a folder, a hub id or the bundled data set.

    The form of each row is recognised by its keys: `messages` (role, content), ShareGPT's `conversations` (from,
    value), TRL's `prompt` and `completion` (texts, or lists of messages), Alpaca's instruction, input and output (with
    optional `system` and `history`), Dolly's instruction, context and response, or `text` alone. Columns that are null
    count as absent. A row with a prompt or a reply in a column that its form does not read is not used.

    Text is not changed. Replies before the first user message, everything from the first empty message, and messages
    after the last reply are dropped, since nothing in them would be scored. A reply with `weight: 0` or `train: false`
    is context and not scored.

    Rows that cannot be used are skipped and counted by reason, with one warning.

    Args:
        name: `chitchat` (bundled; see `chitchat_rows`); a .json, .jsonl, .csv or .txt file, also compressed as
            .json.gz and so on; a .parquet file; a folder of such files; or a hub id, with ID:CONFIG@SPLIT to select a
            configuration and a split (default: the only configuration and the train split).
        limit: Number of examples, from the start; None for all. Later rows are not read.
        strict: Whether the first unusable row is an error instead of being skipped.

    Returns:
        The examples, in the source's order.

    Raises:
        InputError: If no row can be used, or if the source does not exist or cannot be read.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from symnoise import load_data
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "rows.jsonl"
        ...     _ = file.write_text('{"instruction": "Add 1 to 2.", "output": "3"}')
        ...     data = load_data(file)
        >>> data.form, data[0].messages
        ('Alpaca', (('user', 'Add 1 to 2.'), ('assistant', '3')))
    """
    if limit is not None and limit < 1:
        raise InputError(f"{limit} examples were asked for: ask for at least 1")
    source = Source(name, strict=strict, whole=limit is None)
    return source.data(tuple(islice(source, limit)))
