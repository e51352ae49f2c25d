"""Shared by the measuring commands: loading, progress, tables, JSON."""

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from itertools import chain, islice
from json import loads
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text as RichText

from symnoise import __version__
from symnoise.core import (
    Estimate,
    InputError,
    folder_for,
    one_run_at_a_time,
    progress_shown,
    provenance,
    retained_heap,
    sha256_of,
    temporary,
    unknown,
    unwritable,
    write_atomically,
    write_json,
)
from symnoise.data import Data, Source, collate, fitting, set_chat_template
from symnoise.models import EmbeddingLoss, LoadedModel, load_model

_FIGURES = (".pdf", ".png", ".svg")
_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Text:
    """A model, and rows of data as at most `max_length` of its token ids each; the layer at which losses are taken,
    how many rows were asked for, and the other options by which model and rows were read."""

    model: LoadedModel
    data: Data
    rows: list[dict[str, list[int]]]
    max_length: int
    layer: int
    asked: int
    options: dict[str, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def facts(self) -> dict[str, Any]:
        """The source in a result."""
        facts = source_facts(self.model, self.data.name, self.rows, self.data.left_out, **self.options)
        return facts | {"max_length": self.max_length}

    def notes(self) -> str:
        """What a reader of the numbers should know of the rows: that there are fewer than asked for, or that some are
        as long as `max_length`. Empty, or sentences that each follow a space."""
        few = f" The data have {len(self)} rows that can be used, not {self.asked}."
        full = filling(self.rows, self.max_length)
        cut = f" {full} of {len(self)} rows fill --max-length {self.max_length}, and tokens beyond it are left out."
        return few * (len(self) < self.asked) + cut * (full > 0)

    def loss(self, ids: range) -> EmbeddingLoss:
        """The loss of some rows; probes are keyed by row number."""
        batch = collate([self.rows[i] for i in ids], self.model.tokenizer)
        return EmbeddingLoss(self.model.model, batch, ids, layer=self.layer)


def load(
    *,
    model: str,
    data: str,
    examples: int,
    max_length: int,
    dtype: str,
    device: str,
    chat_template: Path | None,
    strict: bool,
    layer: int = 0,
    stream: bool = False,
) -> Text:
    """The model and the first `examples` usable rows; skipped rows are counted."""
    positive("--examples", examples)
    kind, source = dtype_named(dtype), Source(data, strict=strict)
    given = iter(source)
    first = tuple(islice(given, 1))
    if not first:  # said before a model is loaded
        source.data(first)
    loaded = load_with_template(model, kind, device, chat_template, stream=stream)
    fits = fitting(chain(first, given), source.leave_out, loaded.tokenizer, max_length=max_length, model=loaded.model)
    chosen = list(islice(fits, examples))
    found = source.data([example for example, _ in chosen])
    options = {"chat_template": chat_template, "strict": strict, "stream": stream}
    return Text(loaded, found, [row for _, row in chosen], max_length, layer, examples, options)


def load_with_template(
    model: str, dtype: torch.dtype, device: str, chat_template: Path | None, *, stream: bool = False
) -> LoadedModel:
    """The model; its tokenizer with the template in that file, if one is given."""
    loaded = load_model(model, dtype=dtype, device=device, stream=stream)
    if chat_template is not None:
        set_chat_template(loaded.tokenizer, chat_template)
    return loaded


def kept_facts(model: LoadedModel, json: Path | None) -> dict[str, Any]:
    """What every batch that is kept for a rerun depends on, besides its rows and the options of its command."""
    # Reading the weights again for their SHA-256 is needed only if results are kept.
    source = model.provenance() if json else model.name
    return {"symnoise": __version__, "torch": torch.__version__, "model": source}


def source_facts(
    model: LoadedModel,
    data: str,
    rows: Sequence[dict[str, list[int]]],
    skipped: Mapping[str, int],
    *,
    chat_template: Path | None,
    strict: bool,
    stream: bool = False,
) -> dict[str, Any]:
    """Model, data and rows in a result: names, how they were read, the SHA-256 of the rows' token ids and labels, and
    counts by reason of the rows skipped before the last."""
    return {
        "model": model.name,
        "data": data,
        "rows_sha256": sha256_of(rows),
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "device": str(model.model.device),
        "chat_template": chat_template and str(chat_template),
        "strict": strict,
        "stream": stream,
        **left_out(skipped),
    }


def filling(rows: Sequence[dict[str, list[int]]], max_length: int) -> int:
    """How many rows are as long as `max_length`, so that tokens of theirs may be left out."""
    return sum(len(row["input_ids"]) == max_length for row in rows)


def left_out(counts: Mapping[str, int]) -> dict[str, Any]:
    return {"left_out": sum(counts.values()), "left_out_because": dict(counts)}


def dtype_named(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise unknown("dtype", name, _DTYPES)
    return _DTYPES[name]


def positive(option: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{option} must be 1 or more; got {value}")


def numbers(option: str, text: str) -> list[float]:
    """The numbers above 0 that `text` lists, no two of which are equal."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(math.isfinite(n) and n > 0 for n in found) or len(set(found)) < len(found):
        raise InputError(f"{option} takes different numbers above 0, separated by commas; got {text!r}")
    return found


def batches(count: int, size: int) -> list[range]:
    """0 … count − 1 in runs of `size`."""
    return [range(i, min(i + size, count)) for i in range(0, count, size)]


@contextmanager
def long_work(
    json: Path | None, figure: Path | None = None, *, page: Path | None = None, alone: bool = True
) -> Iterator[Console]:
    """Progress bar, retained memory, and a check before the work that the output files can be written.

    A second run with the same JSON file or page is refused: each would remove the other's finished batches.

    Yields the console of the bar, for lines above it; warnings go there, too. Only the first of several processes shows
    a bar; a command that works `alone` refuses to run in several.
    """
    if alone and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError("only curvature and train run in several processes: start this command without torchrun")
    if figure is not None and figure.suffix.lower() not in _FIGURES:
        raise InputError(f"cannot draw {figure}: --figure takes a file whose name ends in {', '.join(_FIGURES)}")
    first = os.environ.get("RANK", "0") == "0"
    shown = progress_shown() if first else nullcontext(Console(stderr=True, quiet=True))
    kept = json or page
    with (
        writable(json, figure, page),
        one_run(kept) if first and kept is not None else nullcontext(),
        shown as console,
        retained_heap(),
        warnings.catch_warnings(),
    ):
        # A warning is one line for the user, to whom its place in the library means nothing.
        warnings.showwarning = lambda message, *_, **__: console.print(f"symnoise: {message}", **PLAIN)
        yield console


@contextmanager
def writable(json: Path | None, *others: Path | None) -> Iterator[None]:
    """A check before the block that the files can be written; within it their folders are there.

    `json` replaces an earlier result alone: another file, such as the rows that are measured, would be lost. Folders
    that were made for the files and are empty after the block, as where the work failed, are removed.
    """
    files = [file for file in (json, *others) if file is not None]
    if len({file.resolve() for file in files}) < len(files):
        raise InputError(f"{files[0]} cannot hold two results: give each a file of its own")
    with ExitStack() as folders:
        for file in files:
            if os.path.isdir(file):
                said = "'.' (or an empty name)" if file == Path() else file
                raise InputError(f"{said} is a folder: give a file, such as out.json")
            if file is json and file.exists() and not _is_result(file):
                raise InputError(f"{file} is there and is no result of symnoise: give --json a name that is free")
            _try_to_write(file, folders)
        yield


def _try_to_write(file: Path, folders: ExitStack) -> None:
    """Make the file's folder, for as long as `folders` stays open, and a file in it for a moment."""
    try:
        folders.enter_context(folder_for(file))
        with temporary(file):
            pass
    except OSError as error:
        raise unwritable(file, error) from error


def _is_result(file: Path) -> bool:
    """Whether it is what `write` writes, or empty."""
    try:
        text = file.read_text(encoding="utf-8") if file.is_file() else "a device"
        return not text or "symnoise" in loads(text)["versions"]
    except (ValueError, KeyError, TypeError):
        return False


def one_run(json: Path) -> AbstractContextManager[None]:
    """Within the block no other run that writes this file is accepted."""
    return one_run_at_a_time(json, json.with_name(f".{json.name}.lock"), "choose another file")


# For text from users or libraries, which is not markup.
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}


def write(path: Path | None, result: dict[str, Any], model: LoadedModel | None = None) -> None:
    """The result as JSON, with the versions it was made by and the SHA-256 of the model's weights."""
    if path is not None:
        weights = {} if model is None else {"weights": model.provenance()}
        write_json(path, result | weights | provenance())


def draw(path: Path | None, name: str, *found: Any) -> None:
    """`symnoise.plot.NAME` of what was found, to a file that the user is told of; imported only when it is used."""
    if path is not None:
        ax = getattr(import_module("symnoise.plot"), name)(*found)
        write_atomically(path, ax.figure.savefig)
        Console().print(f"figure: {path}", **PLAIN)


def value_and_error(estimate: Estimate) -> dict[str, float]:
    return {"value": float(estimate), "stderr": float(estimate.stderr)}


def value_and_interval(estimate: Estimate) -> dict[str, float]:
    """The value, standard error and 95 % interval of a single number."""
    low, high = estimate.interval()
    return value_and_error(estimate) | {"low": float(low), "high": float(high)}


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None) -> None:
    """A table under its title: as a line of its own, since in a table it would wrap in the midst of paths."""
    console = Console()
    console.print(title, style="italic", **PLAIN)
    table = Table(caption=caption)
    for column, *cells in zip(columns, *rows, strict=True):
        words = " ".join([column, *cells]).split()
        table.add_column(column, justify="right", min_width=max(map(len, words)))  # wraps, but is never cut
    for row in rows:
        table.add_row(*map(RichText, row))  # a run may be called [bold]
    needed = console.measure(table, options=console.options.update(max_width=1)).minimum
    console.print(table, width=max(needed, console.width), crop=False)
