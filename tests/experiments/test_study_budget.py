"""The variance budget along a run: of the run's own rows, resumable, and never of another run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import symnoise.training.budget as variance
from experiments.study import budget as module
from experiments.study.base import base, base_model
from experiments.study.budget import budget, points
from experiments.study.results import weights
from experiments.study.spec import Run, Study, load_study
from experiments.study.texts import training_rows
from experiments.study.train import train
from symnoise.core import InputError, generator
from symnoise.data import collate

SMOKE = Path("experiments/configs/studies/micro-smoke.yaml")
RUN = "none_a0_s0"


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    place = tmp_path_factory.mktemp("study")
    rows = [{"instruction": f"Say {i % 7} {i}.", "output": f"{i % 5} and {i % 3} {i}"} for i in range(160)]
    (place / "rows.json").write_text(json.dumps(rows))
    settings = yaml.safe_load(SMOKE.read_text())
    settings["pretraining"] |= {"rows": 64, "vocabulary": 300, "hidden": 16, "steps": 4}
    settings["training"] |= {"rows": 16, "pool": 24, "steps": 4, "evaluate_every": 2, "save_every": 4}
    settings["measuring"] |= {"held_out": 4}
    (place / "study.yaml").write_text(yaml.safe_dump(settings))
    return load_study(place / "study.yaml", str(place / "rows.json"))


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / study.key
    base(study, folder)
    train(study, study.run(RUN), folder)
    return folder


@pytest.fixture
def few(monkeypatch) -> None:
    monkeypatch.setattr(module, "BATCHES", 3)
    monkeypatch.setattr(module, "ALPHAS", (0.001, 0.01))


def test_points_of_a_run(study: Study, folder: Path, tmp_path, few, monkeypatch) -> None:
    output = tmp_path / "budget.json"
    budget(study, study.run(RUN), folder, ("start",), output)
    first = json.loads(output.read_text(encoding="utf-8"))["points"]
    started = {(p["alpha"], p["quantity"]): p for p in first}
    assert {p["when"] for p in first} == {"start"}
    # The odd part is first order in ε: its square grows as α² while the noise is small.
    assert started[0.01, "odd"]["value"] == pytest.approx(100 * started[0.001, "odd"]["value"], rel=0.1)
    assert started[0.01, "batch"] == {**started[0.001, "batch"], "alpha": 0.01}  # without noise
    low, high = started[0.001, "rho"]["low"], started[0.001, "rho"]["high"]
    assert low < started[0.001, "rho"]["value"] < high
    budget(study, study.run(RUN), folder, ("start", "end"), output)
    both = json.loads(output.read_text(encoding="utf-8"))["points"]
    assert both[: len(first)] == first
    ended = {(p["alpha"], p["quantity"]): p["value"] for p in both if p["when"] == "end"}
    assert ended[0.001, "batch"] != started[0.001, "batch"]["value"]  # of the trained weights
    monkeypatch.setattr(module, "points", None)  # nothing is left to measure
    budget(study, study.run(RUN), folder, ("start", "end"), output)


def test_an_interrupted_point_goes_on_from_its_finished_batches(
    study: Study, folder: Path, tmp_path, few, monkeypatch
) -> None:
    budget(study, study.run(RUN), folder, ("start",), tmp_path / "whole.json")
    measured = variance.__dict__["_noised"]
    batches: list[int] = []

    def interrupted(*arguments: Any) -> Any:
        batches.append(arguments[-1])
        if len(batches) == 2 * len(module.ALPHAS) + 1:  # the third batch of three
            raise KeyboardInterrupt
        return measured(*arguments)

    monkeypatch.setattr(variance, "_noised", interrupted)
    with pytest.raises(KeyboardInterrupt):
        budget(study, study.run(RUN), folder, ("start",), tmp_path / "budget.json")
    assert not (tmp_path / "budget.json").is_file()
    batches.clear()
    budget(study, study.run(RUN), folder, ("start",), tmp_path / "budget.json")
    assert set(batches) == {2}  # the first two were kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["budget.json", "whole.json"]
    first, second = (json.loads((tmp_path / name).read_text())["points"] for name in ("whole.json", "budget.json"))
    assert first == second


def test_the_batches_are_disjoint_and_of_the_run_s_own_rows_in_random_order(study, folder, few, monkeypatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(module, "Kept", lambda records, keys: keys)
    monkeypatch.setattr(module, "variance_budget", lambda *given: asked.append(given) or [])
    source = base_model(study, folder)
    keys = []
    for run, draws, alphas in ((0, 2, (1.0,)), (0, 3, (1.0,)), (0, 2, (2.0,)), (1, 2, (1.0,))):
        monkeypatch.setattr(module, "DRAWS", draws)
        monkeypatch.setattr(module, "ALPHAS", alphas)
        points(study, Run("none", 0, run), source, None)
        rows = training_rows(study, run, source.tokenizer, source.model)
        order = torch.randperm(16, generator=generator(run, "budget rows")).tolist()
        model, batches, *given, made = asked[-1]
        assert model is source.model and given == [alphas, None, draws, run]
        for at, batch in enumerate(batches):
            wanted = collate([rows[i] for i in order[4 * at : 4 * at + 4]], source.tokenizer)
            assert all(torch.equal(batch[name], wanted[name]) for name in wanted)
        keys.append(tuple(made))
    trained = weights(folder / RUN, "end")
    points(study, Run("none", 0, 0), trained, None)
    keys.append(tuple(asked[-1][-1]))
    assert all(len(made) == 3 for made in keys) and len(set(sum(keys, ()))) == 15  # nothing of one serves another


def test_a_budget_of_other_draws_or_rows_is_not_gone_on_with(study, folder, tmp_path, few) -> None:
    output = tmp_path / "budget.json"
    budget(study, study.run(RUN), folder, ("start",), output)
    made = json.loads(output.read_text())
    for change in ({"draws": 3}, {"batches": 4}, {"batch": 8}, {"data_sha256": "0" * 64}, {"processor": "another"}):
        output.write_text(json.dumps(made | change))
        with pytest.raises(InputError, match=r"budget\.json is the budget of another run"):
            budget(study, study.run(RUN), folder, ("start", "end"), output)


def test_one_line_for_what_cannot_be(study: Study, folder: Path, tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match="trains on 16 rows; 12 disjoint batches need 48"):
        budget(study, study.run(RUN), folder, ("start",), tmp_path / "budget.json")
    with pytest.raises(InputError, match="is missing; make study makes it"):
        budget(study, study.run("uniform_a10_s0"), folder, ("start",), tmp_path / "budget.json")
    monkeypatch.setattr(module, "BATCHES", 3)
    (tmp_path / "other.json").write_text('{"study": "another", "points": []}')
    with pytest.raises(InputError, match=r"other\.json is the budget of another run"):
        budget(study, study.run(RUN), folder, ("start",), tmp_path / "other.json")
    assert (tmp_path / "other.json").read_text() == '{"study": "another", "points": []}'
