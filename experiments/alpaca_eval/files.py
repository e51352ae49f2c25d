"""Rows in AlpacaEval's formats, and records appended line by line, which survive an interrupt."""

import json
from pathlib import Path
from typing import Any

from symnoise.core import InputError, reason, unwritable, write_atomically
from symnoise.data import checked_rows

Row = dict[str, Any]


def read_rows(name: str | Path, *needed: str) -> list[Row]:
    """Rows of a .json, .jsonl or .parquet file, or of alpaca_eval.json in the Hub's data set of this id.

    `InputError` naming a row that lacks a text of `needed`, or repeats an instruction.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        path = _from_hub(str(name))
    found, seen = [], set()
    for number, row in checked_rows(path):
        for key in ("instruction", *needed):
            if not isinstance(row, dict) or not isinstance(row.get(key), str):
                raise InputError(f"{name}, row {number}: it has no text {key!r}")
        if row["instruction"] in seen:
            raise InputError(f"{name}, row {number}: the instruction {row['instruction'][:60]!r} appears twice")
        seen.add(row["instruction"])
        found.append(row)
    if not found:
        raise InputError(f"{name} has no rows")
    return found


def _from_hub(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "alpaca_eval.json", repo_type="dataset"))
    except Exception as error:  # many kinds, from the network and the Hub
        raise InputError(f"{name} is not a file, nor a readable data set on the Hub: {reason(error)}") from error


def matched(rows: list[Row], others: list[Row], what: str, other: str) -> list[Row]:
    """`others` in the order of `rows`, by instruction; `InputError` if one of either has no partner."""
    by_instruction = {row["instruction"]: row for row in others}
    own = {row["instruction"] for row in rows}
    alone = [row["instruction"] for row in rows if row["instruction"] not in by_instruction]
    strange = [instruction for instruction in by_instruction if instruction not in own]
    if alone or strange:
        example = (alone or strange)[0][:60]
        raise InputError(
            f"{what} and {other} are about different instructions: {len(alone)} are only in the first, {len(strange)} "
            f"only in the second, such as {example!r}"
        )
    return [by_instruction[row["instruction"]] for row in rows]


def kept(path: Path) -> list[Row]:
    """The rows that `add` has written. A line cut off by an interrupt is removed from the file."""
    if not path.is_file():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    text = whole + "\n" if whole else ""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    try:
        return [json.loads(line) for line in text.splitlines()]
    except ValueError as error:
        raise InputError(f"cannot read {path} ({error}); delete it and run again") from error


def add(path: Path, rows: list[Row]) -> None:
    """Append the rows."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
    except OSError as error:
        raise unwritable(path, error) from error
