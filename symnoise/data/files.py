"""Rows of files, one at a time: .json, .jsonl, .csv, .txt, each also as .gz, and .parquet."""

import csv
import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from symnoise.core import InputError, reason
from symnoise.data.example import RowError

SUFFIXES = (".json", ".jsonl", ".csv", ".txt", ".parquet")
# A row number with the row, or with its `RowError`.
Rows = Iterator[tuple[int, Any]]
_CHUNK = 1 << 16
_DECODER = json.JSONDecoder()
# json reports a literal or an escape cut off by the end of the text at most this far before the end.
_MARGIN = 16


def is_data_file(name: str) -> bool:
    """Whether a file of that name can be read."""
    return name.lower().removesuffix(".gz").endswith(SUFFIXES)


def file_rows(path: Path) -> Rows:
    """The rows of a file, read lazily.

    A .json file is a list of rows, or JSON lines, which are numbered by line. A .csv file has its column names in the
    first line. Each non-blank line of a .txt file is a row with the key `text`.

    A line that is not JSON yields a `RowError` instead of a row. Raises `InputError` if the file cannot be read.
    """
    kind, packed = Path(path.name.lower().removesuffix(".gz")).suffix, path.suffix.lower() == ".gz"
    if not is_data_file(path.name):
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}: give a {', '.join(SUFFIXES)} file, or .gz of one")
    if kind == ".parquet" and packed:
        raise InputError(f"{path} is parquet in gzip, which is not read: unpack it first, as with gunzip")
    try:
        if kind == ".parquet":
            yield from enumerate(_parquet(path), 1)
            return
        with gzip.open(path) if packed else path.open("rb") as file:
            if encoding := _wide(file.read(4)):
                raise InputError(f"{path} is {encoding}: convert it to UTF-8, as with iconv -f {encoding} -t UTF-8")
        # Bytes that are not UTF-8 become lone surrogates, which are refused if they occur in a text that is used.
        how: dict[str, Any] = {"mode": "rt", "encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
        with gzip.open(path, **how) if packed else path.open(**how) as text:
            yield from _READERS[kind](text)
    except (
        OSError,
        EOFError,
        ValueError,
        zlib.error,
        csv.Error,
    ) as error:  # ValueError: not parquet; EOFError: cut off
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path}: {reason(error)}") from error


def _wide(start: bytes) -> str | None:
    """The multi-byte encoding of a file, by its byte-order mark or its zeros; None for others."""
    if start in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "UTF-32"
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    first, second = start[:1], start[1:2]
    if b"\0" in (first, second) and first != second:
        return "UTF-16LE" if second == b"\0" else "UTF-16BE"
    return None


def checked_rows(path: Path) -> Rows:
    """`file_rows`, with `InputError` at the first row that cannot be read."""
    for number, row in file_rows(path):
        if isinstance(row, RowError):
            raise InputError(f"{path}, {row}") from row
        yield number, row


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def _csv(file: TextIOWrapper) -> Rows:
    """Rows by column name. After a quote that is not closed nothing can be read; its `RowError` is the last row."""
    csv.field_size_limit(sys.maxsize)  # a conversation is longer than csv's 128 KiB
    reader, number = csv.DictReader(file, strict=True), 0
    names = [name for name in reader.fieldnames or () if name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"its first line has the column {twice!r} twice: rename one of them")
    while True:
        number += 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            fault = "its quotes are not as in CSV, so that no row after it can be read"
            yield number, RowError(number, fault, advice=f"double those within a text ({reason(error)})")
            return
        if row is None:
            return
        if None in row or None in row.values():
            fields = len(row) - (None in row)
            yield number, RowError(number, f"it has another number of fields than the {fields} of the first line")
        else:
            yield number, {key: text or None for key, text in row.items()}


def _txt(file: TextIOWrapper) -> Rows:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, {"text": line.rstrip("\r\n")}


def _json(file: TextIOWrapper) -> Rows:
    start = file.read(_CHUNK)
    while start and not start.strip():
        start = file.read(_CHUNK)
    file.seek(0)
    yield from _array(file) if start.lstrip().startswith("[") else _lines(file)


def _lines(file: TextIOWrapper) -> Rows:
    for number, line in enumerate(file, 1):
        if line.strip():
            yield number, _parsed(line, number)


def _parsed(line: str, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # a number or a nesting may be too large for Python
        return RowError(number, "its line is not JSON", advice=reason(error))


def _array(file: TextIOWrapper) -> Rows:
    """The items of a JSON list, decoded one by one.

    After an item that is not JSON, or that is cut off, nothing can be read; its `RowError` is the last row.
    """
    text, number, ended = file.read(_CHUNK).lstrip()[1:].lstrip(), 0, False
    while not text.startswith("]"):
        try:
            item, rest = _first_item(text)
        except (ValueError, RecursionError) as error:  # as above
            cut = isinstance(error, json.JSONDecodeError) and _is_cut(error, text, 0 if ended else _MARGIN)
            if cut and not ended:  # read twice as much each time, so that a long item is not parsed over and over
                more = file.read(max(_CHUNK, len(text)))
                text, ended = (text + more).lstrip(), not more
                continue
            fault = "the file is cut off in it" if cut else "it is not JSON, so that no row after it can be read"
            yield number + 1, RowError(number + 1, fault, advice=reason(error))
            return
        number += 1
        yield number, item
        text = rest
    if (text[1:] + file.read(_CHUNK)).strip():
        yield number + 1, RowError(number + 1, "it comes after the end of the list, where nothing is read")


def _first_item(text: str) -> tuple[Any, str]:
    """The first item of the rest of a list, and what follows its comma: more items, or the list's end."""
    item, end = _DECODER.raw_decode(text)
    rest = text[end:].lstrip()
    if rest[:1] not in (",", "]"):
        raise json.JSONDecodeError("Expecting ',' delimiter", text, end)
    return item, (rest[1:] if rest[0] == "," else rest).lstrip()


def _is_cut(error: json.JSONDecodeError, text: str, margin: int) -> bool:
    """Whether the error comes from the text being cut off."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip()) - margin


_READERS = {".json": _json, ".jsonl": _lines, ".csv": _csv, ".txt": _txt}
