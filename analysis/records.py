"""Reading a run's folder: stage records, ledger rows, tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from result_schema.files import read_json
from result_schema.quick import START, TRAINING_STAGES, fault, training_stage
from symnoise.core import InputError
from symnoise.theory import CLAIMS

# The stages of the quick run in order; "training" stands for those of fine-tuning.
STAGES = (
    "sources",
    "moments",
    "mixing",
    "analytic",
    "tiny",
    "curvature",
    "laws",
    "norms",
    "validity",
    "training",
)


@dataclass(frozen=True)
class QuickRun:
    """stages: name -> record, in running order.  settings: the run's, {} without run.json.
    run: run.json, {} likewise.  missing: stages without a record.  command: runs the missing stages."""

    stages: dict[str, dict[str, Any]]
    run: dict[str, Any]
    missing: list[str]
    command: str

    @property
    def settings(self) -> dict[str, Any]:
        """The settings the run was started with."""
        return self.run.get("settings", {})

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every ledger row, by claim in the order of the theory, then in running order."""
        known = list(CLAIMS)
        rows = [row for record in self.stages.values() for row in record["result"].get("rows", [])]
        return sorted(rows, key=lambda row: known.index(row["id"]) if row["id"] in known else len(known))

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Every table; tables of the same name from several stages (analytic and tiny, the arms) are concatenated."""
        merged: dict[str, list[dict[str, Any]]] = {}
        for record in self.stages.values():
            for name, records in record["result"].get("tables", {}).items():
                merged.setdefault(name, []).extend(records)
        return {name: frame(records) for name, records in merged.items()}


def frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Records as a frame, with null numbers as NaN instead of objects."""
    table = pd.DataFrame(records)
    # An all-null column has no type of its own.
    return table.astype({column: float for column in table if table[column].isna().all()})


def read_run(folder: Path) -> QuickRun:
    """The run in `folder`. Stages without a record are listed as missing; `InputError` if there are none at all."""
    command = "python -m experiments.quick"
    if folder.resolve().parts[-2:] != ("results", "quick"):
        command += f" --output {folder.name}"
    found = {path.stem: read_json(path, f"run `{command}`") for path in sorted((folder / "stages").glob("*.json"))}
    if not found:
        raise InputError(f"{folder}: no stage records; run `{command}` first")
    for name, record in found.items():
        if wrong := fault(record):
            raise InputError(f"cannot read {folder / 'stages' / name}.json: {wrong}; delete it and run `{command}`")
    run = read_json(folder / "run.json", f"run `{command}`") if (folder / "run.json").is_file() else {}
    arms = run.get("settings", {}).get("training", {}).get("arms", [])
    trained = [name for name in found if name in TRAINING_STAGES]
    expected: list[str] = []
    for stage in STAGES:
        if stage == "training":
            expected += [training_stage(part) for part in (START, *arms)] if arms else trained or [stage]
        else:
            expected.append(stage)
    names = [name for name in expected if name in found] + [name for name in found if name not in expected]
    missing = [name for name in expected if name not in found]
    return QuickRun({name: found[name] for name in names}, run, missing, command)
