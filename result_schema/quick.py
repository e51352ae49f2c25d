"""The records of the quick run's stages: names of the fine-tuning ones (the model before training, then one for each
arm), the columns of their tables."""

from dataclasses import fields
from typing import Any

from symnoise.noise import noise_names
from symnoise.theory import Row

START = "start"


def training_stage(part: str) -> str:
    """The stage of an arm, or of `START`."""
    return f"training-{part}"


TRAINING_STAGES = tuple(training_stage(part) for part in (START, *noise_names()))

# The columns of each table in the stages' records.
TABLES = {
    "arms": ("arm", "training_loss", "training_seconds"),
    "curvature": ("dof", "example", "method", "quantity", "scored_tokens", "stderr", "tokens", "value"),
    "curvature by arm": ("arm", "dof", "example", "quantity", "stderr", "value", "when"),
    "curves": ("all_row_norm", "arm", "held_out_loss", "step", "used_row_norm"),
    "layers": (
        "alpha",
        "clean",
        "displacement",
        "displacement_stderr",
        "dof",
        "growth",
        "growth_stderr",
        "law",
        "layer",
    ),
    "mixing": ("half", "law", "measured", "predicted", "width"),
    "moments": ("half", "law", "measured", "predicted", "quantity"),
    "norms": ("clean", "example", "law", "measured", "predicted", "stderr"),
    "slopes": ("first", "high", "low", "second", "sigma", "value", "where"),
    "square_norms": ("law", "square_norm"),
    "validity": ("R", "R_high", "R_low", "T", "T_high", "T_low", "alpha", "sigma", "subject", "where"),
    "validity by example": ("T_without", "alpha", "example", "excess", "second_order", "sigma", "subject", "where"),
    "variances": ("high", "low", "measured", "predicted", "scheme", "sigma", "where"),
    "variances on text": ("alpha", "high", "low", "measured", "predicted", "ratio", "scheme", "where"),
}


def fault(record: Any) -> str:
    """What is wrong with a stage's record, in words; "" if it has rows and tables that can be read."""
    result = record.get("result") if isinstance(record, dict) else None
    if not isinstance(result, dict):
        return "it has no result"
    rows, tables = result.get("rows", []), result.get("tables", {})
    if not (_records(rows) and isinstance(tables, dict) and all(map(_records, tables.values()))):
        return "its rows or tables are no lists of records"
    kinds = {field.name: field.type for field in fields(Row)}
    for row in rows:
        if wrong := [name for name, kind in kinds.items() if not _is(row.get(name), kind)]:
            return f"a row of its ledger has no {wrong[0]}"
    for name, columns in TABLES.items():
        for column in columns:
            if any(column not in line for line in tables.get(name, ())):
                return f"its table {name} has no column {column}"
    return ""


def _records(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(line, dict) and all(map(_cell, line.values())) for line in found)


def _cell(value: Any) -> bool:
    return not isinstance(value, list | dict) and not (isinstance(value, int) and abs(value) >= 2**63)


def _is(value: Any, kind: Any) -> bool:
    return value is None or isinstance(value, int | float) if kind in (int, float) else isinstance(value, str)
