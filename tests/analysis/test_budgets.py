"""Variance budgets: verdicts follow what is planted, and the figure has every point with its interval."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis import budgets
from symnoise.core import InputError


def planted(folder: Path, rho: dict[str, float], stderr: float = 0.02) -> Path:
    """A budget in `folder` with ρ by the point of training, at every α."""
    points = [
        {"when": when, "alpha": alpha, "quantity": quantity, "value": value, "stderr": stderr}
        | {"low": value - 2 * stderr, "high": value + 2 * stderr}
        for when, size in rho.items()
        for alpha in (1.0, 5.0, 10.0, 15.0)
        for quantity, value in (("rho", size), ("shrinkage", -size / 10))
    ]
    folder.mkdir(exist_ok=True)
    record = {"study": "made-up", "run": "none_a0_s0", "batch": 8, "batches": 12, "draws": 2, "points": points}
    (folder / "made-up.json").write_text(json.dumps(record))
    return folder


def test_verdicts_follow_what_is_planted(tmp_path) -> None:
    rows = budgets.ledger(budgets.read(planted(tmp_path, {"start": 0.2, "middle": 1.02, "end": 3.0})))
    found = {when: {row.verdict for row in rows if when in row.quantity} for when in ("start", "middle", "end")}
    assert found == {"start": {"holds"}, "middle": {"undecided"}, "end": {"fails"}}
    assert len(rows) == 9 and {row.n for row in rows} == {12}
    wide = budgets.ledger(budgets.read(planted(tmp_path, {"start": 0.2}, stderr=0.3)))
    assert {row.verdict for row in wide} == {"undecided"}  # ± 4.4 standard errors, of 11 degrees of freedom


def test_all_is_written_and_read_back(tmp_path) -> None:
    planted(tmp_path, {"end": 0.9, "start": 0.2})  # as measured, the end first
    assert list(budgets.read(tmp_path).when.unique()) == ["start", "end"]
    budgets.write(tmp_path)
    assert len(json.loads((tmp_path / "ledger.json").read_text(encoding="utf-8"))) == 6
    table = pd.read_csv(tmp_path / "tables" / "budgets.csv")
    pd.testing.assert_frame_equal(table, budgets.read(tmp_path), check_dtype=False)  # the ledger is no budget
    drawn = budgets.draw(table)
    above, below = drawn.axes
    assert len(above.collections) == len(below.collections) == 3  # intervals; of the middle there are none
    assert "0.90, 0.90, 0.90 at the end of made-up’s training" in budgets.caption(table)


def test_a_folder_without_budgets(tmp_path) -> None:
    with pytest.raises(InputError, match="has no variance budget; run `python -m experiments"):
        budgets.read(tmp_path)
