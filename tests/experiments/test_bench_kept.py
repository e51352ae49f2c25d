"""Rows of the bench are kept as they are measured: a run that was interrupted goes on, and nothing is mixed."""

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from experiments.bench import changes, process
from experiments.bench import run as bench
from experiments.bench.process import Kept
from symnoise.core import InputError


def here(part: str, row: dict) -> dict:
    """As in a process of its own."""
    return json.loads(json.dumps(importlib.import_module(f"experiments.bench.{part}").measure(row)))


class Interrupted:
    """Measures up to `limit` rows before Ctrl-C comes."""

    def __init__(self, measure: Callable[..., object], limit: int) -> None:
        self.measure, self.limit, self.rows = measure, limit, []

    def __call__(self, *arguments: object) -> object:
        if len(self.rows) == self.limit:
            raise KeyboardInterrupt
        self.rows.append(arguments)
        return self.measure(*arguments)


@pytest.mark.parametrize(("part", "file"), [("ratios", "bench"), ("peers", "peers"), ("growth", "growth")])
@pytest.mark.usefixtures("small_batches")
def test_finished_rows_are_not_measured_again(part, file, tmp_path, monkeypatch, capsys) -> None:
    median = process.Clock.median
    monkeypatch.setattr(process.Clock, "median", lambda clock, work, _: median(clock, work, 1))  # what a clock says
    monkeypatch.setattr("experiments.bench.growth.SMOKE", {"probes": (1, 2), "tokens": (64, 128), "rows": (1, 2)})
    monkeypatch.setattr("experiments.bench.growth._ENOUGH_S", 0.0)  # does not matter here: the fewest repetitions
    monkeypatch.setattr("experiments.bench.ratios.startup", lambda: [{"key": "import", "work": "it", "seconds": 1.0}])
    rows, limits = [], (2, 3, 1000)
    for limit in limits:
        measure = Interrupted(here, limit)
        monkeypatch.setattr(process, "in_process", measure)
        try:
            bench.main([part], tmp_path, smoke=True)
        except KeyboardInterrupt:
            assert not (tmp_path / "smoke" / f"{file}.csv").exists()
        rows += [json.dumps(row) for row in measure.rows]
    assert len(rows) == len(set(rows)) > sum(limits[:2])
    made = (tmp_path / "smoke" / f"{file}.csv").read_bytes()
    monkeypatch.setattr(process, "in_process", Interrupted(here, 0))
    bench.main([part], tmp_path, smoke=True)
    assert (tmp_path / "smoke" / f"{file}.csv").read_bytes() == made
    said = " ".join(capsys.readouterr().out.split())
    assert "2 of its rows were kept by an earlier run; to measure again, delete" in said and f"{file}.rows.json" in said


def test_changes_are_those_of_an_undisturbed_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(changes, "STEPS", 4)
    monkeypatch.setattr(changes, "PROBES", 7)
    changes.main(smoke=True, output=tmp_path / "whole.csv")
    taken = Interrupted(changes.DynamicTrace.measure, 2)
    with monkeypatch.context() as patch:
        patch.setattr(changes.DynamicTrace, "measure", lambda *arguments: taken(*arguments))
        with pytest.raises(KeyboardInterrupt):
            changes.main(smoke=True, output=tmp_path / "twice.csv")
    changes.main(smoke=True, output=tmp_path / "twice.csv")
    one, other = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("whole", "twice"))
    pd.testing.assert_frame_equal(one, other, rtol=1e-6)  # the order of threads may change a sum


def test_rows_of_another_state_are_neither_mixed_nor_lost(tmp_path: Path, monkeypatch) -> None:
    table = tmp_path / "peers.csv"
    assert Kept(table).row(lambda: {"a": 1.5}, row=1) == {"a": 1.5}
    assert Kept(table).row(lambda: pytest.fail("again"), row=1) == {"a": 1.5}
    before = (tmp_path / "peers.rows.json").read_bytes()
    usual = process.facts()
    monkeypatch.setattr(process, "facts", lambda: usual | {"torch": "9.9"})
    with pytest.raises(
        InputError, match=rf"torch {re.escape(usual['torch'])}, now 9.9: delete it to measure all rows again"
    ):
        Kept(table)
    assert (tmp_path / "peers.rows.json").read_bytes() == before

    monkeypatch.setattr(process, "facts", lambda: usual)
    Kept(table).table([{"a": 1.5}])
    monkeypatch.setattr(process, "facts", lambda: usual | {"torch": "9.9"})
    assert Kept(table).row(lambda: {"a": 2.5}, row=1) == {"a": 2.5}  # the finished table is there until the next one
    assert table.read_text() == "a\n1.5\n"
