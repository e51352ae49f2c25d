"""Shared by the tests of experiments: a study in miniature, and a bench that measures little."""

import json
from pathlib import Path

import pytest
import yaml

from experiments.bench import process
from experiments.study.base import base
from experiments.study.spec import Study, load_study

WORDS = ("red", "blue", "green", "seven", "river", "stone", "quiet", "bright")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("study")
    rows = [
        {"instruction": f"Say {WORDS[i % 8]} {i}.", "output": f"{WORDS[i % 8]} and {WORDS[(i // 8) % 8]} {i}"}
        for i in range(160)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    settings = yaml.safe_load(Path("experiments/configs/studies/micro-smoke.yaml").read_text())
    settings |= {"seeds": 1, "arms": ["symnoise"], "controls": ["none"], "equivalence": None}
    settings["primary"]["contrasts"] = [["symnoise", "none"]]
    settings["pretraining"] |= {"rows": 64, "vocabulary": 300, "hidden": 16, "steps": 4}
    settings["training"] |= {"rows": 8, "pool": 12, "steps": 4, "evaluate_every": 1, "save_every": 1}
    settings["measuring"] |= {"held_out": 4}
    settings["generating"] |= {"prompts": 2, "max_new_tokens": 4}
    (folder / "study.yaml").write_text(yaml.safe_dump(settings))
    return load_study(folder / "study.yaml", str(folder / "rows.json"))


@pytest.fixture(scope="module")
def folder(study: Study, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / study.key
    base(study, folder)
    return folder


@pytest.fixture
def small_batches(monkeypatch) -> None:
    """Two rows of 64 tokens stand in for the bench's batches, whose sizes matter to clocks alone."""
    monkeypatch.setattr(process.batch, "__defaults__", (2, 64, process.SCORED))
