"""The sweep: every missing step of every run once, each run in a process of its own; what fails is named."""

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from experiments.study import sweep as module
from experiments.study.spec import AlpacaEval, Run, Study, load_study
from experiments.study.sweep import sweep
from result_schema.bad_input import one_line_on_bad_input
from symnoise.core import InputError, write_json

NAMES = ("train.json", "measure.json", "replies.json", "outcomes.json")


def step(name: str):
    def work(study: Study, run: Run, folder: Path) -> None:
        place = folder / run.name
        before = [other for other in NAMES if (place / other).exists()]
        if run.arm == "gaussian" and name == "replies.json" and not (folder / "mended").exists():
            raise RuntimeError("on purpose")
        (place / "weights").mkdir(parents=True, exist_ok=True)
        write_json(place / name, {"process": os.getpid(), "before": before})

    return work


def test_what_is_missing_is_made_once(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(module, "STEPS", {name: step(name) for name in NAMES})
    monkeypatch.setattr(module, "_import_what_steps_need", lambda: None)
    study = replace(load_study(Path("experiments/configs/studies/micro-smoke.yaml")), seeds=2)
    write_json(tmp_path / "base.json", {})
    first = study.runs[0].name
    write_json(tmp_path / first / "train.json", {"mine": True})

    with pytest.raises(InputError, match="2 runs failed, for the reasons above: gaussian_a10_s0, gaussian_a10_s1"):
        sweep(study, tmp_path, jobs=2)
    said = capfd.readouterr()
    assert "on purpose" in said.err and f"{len(study.runs) - 2} of {len(study.runs)}" in said.out
    (tmp_path / "mended").touch()
    sweep(study, tmp_path, jobs=2)

    assert json.loads((tmp_path / first / "train.json").read_text()) == {"mine": True}
    processes = set()
    for run in study.runs:
        made = [json.loads((tmp_path / run.name / name).read_text()) for name in NAMES]
        assert [len(record["before"]) for record in made[1:]] == [1, 2, 3]
        processes |= {record["process"] for record in made[1:]}
        assert not (tmp_path / run.name / "weights").exists()
    assert os.getpid() not in processes and len(processes) == len(study.runs) + 2  # two runs took two turns
    (tmp_path / first / "weights").mkdir()  # as if killed while it deleted them
    sweep(study, tmp_path, jobs=2)
    assert not (tmp_path / first / "weights").exists()
    capfd.readouterr()
    sweep(study, tmp_path, jobs=2)
    assert capfd.readouterr().out == f"{len(study.runs)} of {len(study.runs)} runs are done\n"


def test_no_run_outlives_a_sweep_that_is_told_to_end(tmp_path, monkeypatch) -> None:
    def long(study: Study, run: Run, folder: Path) -> None:
        (folder / f"{run.name}.pid").write_text(str(os.getpid()))
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(module, "finish", long)
    monkeypatch.setattr(module, "_import_what_steps_need", lambda: None)
    study = load_study(Path("experiments/configs/studies/micro-smoke.yaml"))
    write_json(tmp_path / "base.json", {})
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        one_line_on_bad_input(lambda: sweep(study, tmp_path, jobs=1))
    assert ended.value.code == 1 and signal.getsignal(signal.SIGTERM) is before
    (child,) = (int(path.read_text()) for path in tmp_path.glob("*.pid"))
    os.waitpid(child, 0)  # it has ended, long before its minute


def test_no_run_outlives_a_sweep_that_is_killed(tmp_path, monkeypatch) -> None:
    def long(study: Study, run: Run, folder: Path) -> None:
        (folder / f"{run.name}.pid").write_text(str(os.getpid()))
        time.sleep(60)

    monkeypatch.setattr(module, "finish", long)
    monkeypatch.setattr(module, "_import_what_steps_need", lambda: None)
    study = load_study(Path("experiments/configs/studies/micro-smoke.yaml"))
    write_json(tmp_path / "base.json", {})
    parent = get_context("fork").Process(target=sweep, args=(study, tmp_path, 2))
    parent.start()
    until(lambda: sum(path.read_text() != "" for path in tmp_path.glob("*.pid")) == 2)
    parent.kill()
    parent.join()
    until(lambda: not any(alive(int(path.read_text())) for path in tmp_path.glob("*.pid")))


def until(happened: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < 30
        time.sleep(0.05)


def alive(process: int) -> bool:
    """Neither gone nor waiting for its parent to be told."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_study_that_asks_benchmarks_is_left_to_make_study(tmp_path) -> None:
    """They need the weights that a sweep deletes."""
    study = load_study(Path("experiments/configs/studies/micro-smoke.yaml"))
    asking = replace(study, alpaca_eval=AlpacaEval("rows.json", 4, None))
    with pytest.raises(InputError, match="make study STUDY=micro-smoke"):
        sweep(asking, tmp_path, jobs=1)
    assert list(tmp_path.iterdir()) == []
