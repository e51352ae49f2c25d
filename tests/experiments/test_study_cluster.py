"""The study on a cluster: planned by snakemake for Slurm, trained by two processes with FSDP2."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from experiments.study.spec import Study, load_study
from experiments.study.train import parts, train
from result_schema.files import ROOT
from symnoise.core import InputError
from symnoise.finetune.dry_run import rows, tiny_model
from symnoise.models import load_model
from tests.experiments.study_processes import studies
from tests.processes import FSDP2, two

CONFIGS = ROOT / "experiments" / "configs"
STUDIES = sorted((CONFIGS / "studies").glob("*.yaml"))
PAPER = [path for path in STUDIES if path.stem.startswith("paper-")]
PLANNED = [path for path in STUDIES if path not in PAPER[1:]]  # those differ in names and sizes, tested below
FILE = "model.safetensors"
SLURM = importlib.util.find_spec("snakemake_executor_plugin_slurm") is not None


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """Exit code and output of every plan: of each study with one seed, of one on Slurm, and of two that cannot be."""
    folder = tmp_path_factory.mktemp("plans")
    snakemake = ["--snakefile", str(ROOT / "experiments" / "Snakefile"), "--directory", str(folder), "--dry-run"]
    plain = [*snakemake, "--cores", "2", "--quiet", "rules"]
    plans = {}
    for path in PLANNED:
        (folder / path.name).write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"seeds": 1}))
        plans[path.stem] = [*plain, "--config", f"study={path.name}"]
    plans["no study"] = plain
    plans["no data"] = [*plain, "--config", "study=micro.yaml", "data=nowhere.jsonl"]
    if SLURM:
        profiles = ["--profile", str(CONFIGS / "slurm"), "--workflow-profile", str(CONFIGS / "slurm" / "7b")]
        study = [f"study={PAPER[0].name}", "accelerate=fsdp2.yaml"]
        plans["slurm"] = [*snakemake, "--cores", "64", "--printshellcmds", *profiles, "--config", *study]
    (folder / "plans.json").write_text(json.dumps(list(plans.values())))
    done = subprocess.run(
        [sys.executable, "-m", "tests.experiments.study_plans", str(folder / "plans.json"), str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    codes = json.loads(done.stdout)
    return {name: (codes[i], (folder / f"{i}.txt").read_text()) for i, name in enumerate(plans)}


@pytest.mark.parametrize("path", PLANNED, ids=lambda path: path.stem)
def test_every_study_is_planned_without_loading_models_or_data(path, said) -> None:
    code, text = said[path.stem]
    assert code == 0, text
    study = yaml.safe_load(path.read_text())
    runs = len(study["controls"]) + len(study["arms"]) * len(study["alphas"])
    planned = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    assert [int(planned[rule]) for rule in ("base", "start", "connect", "page")] == [1, 1, 1, 1]
    assert [int(planned[rule]) for rule in ("train", "measure", "generate", "evaluate")] == [runs] * 4


def test_a_study_that_cannot_be_ends_with_a_line_that_says_what_to_do(said) -> None:
    for plan, line in (("no study", "--config study="), ("no data", "no data file nowhere.jsonl; give DATA=")):
        code, text = said[plan]
        assert code == 1 and line in text and "Traceback" not in text, text


@pytest.mark.skipif(not SLURM, reason="snakemake-executor-plugin-slurm is not installed")
def test_slurm_gets_the_resources_of_the_profile_and_training_goes_through_accelerate(said) -> None:
    code, text = said["slurm"]
    assert code == 0, text
    train = text[text.index("rule train:") :].split("\n\n")[0]
    for fact in ("threads: 16", "mem_mb=250000", "runtime=1440", "nodes=1", "gpu=4"):
        assert fact in train, train
    assert "accelerate.commands.launch --config_file fsdp2.yaml -m experiments.study.train" in train
    assert "accelerate" not in text[text.index("rule measure:") :].split("\n\n")[0]


def test_the_paper_tier_is_every_model_on_every_data_set_with_the_same_settings() -> None:
    recipes = [yaml.safe_load(path.read_text()) for path in (CONFIGS / "paper").glob("*.yaml")]
    models, data = ({recipe[key] for recipe in recipes if key in recipe} for key in ("model", "data"))
    given = [yaml.safe_load(path.read_text()) for path in PAPER]
    assert sorted((g["model"], g["data"]) for g in given) == sorted((m, d) for m in models for d in data)
    common = yaml.safe_load((CONFIGS / "paper" / "common.yaml").read_text())
    shared = set()
    for path in PAPER:
        study = load_study(path, "some/rows")
        assert study.name == path.stem
        assert study.training.steps * study.training.batch == common["epochs"] * study.training.rows
        same = replace(study.training, rows=0, pool=0, steps=0)
        shared.add(replace(study, name="", model="", training=same))
    (one,) = shared
    training, keys = one.training, ("max_length", "learning_rate", "schedule", "warmup", "gradient_checkpointing")
    assert [getattr(training, key) for key in keys] == [common[key] for key in keys]
    assert training.micro_batch == common["batch"] and training.batch == 4 * common["batch"] * common["accumulation"]


def test_what_a_process_takes_and_how_often() -> None:
    assert parts(128, 4, 4) == (4, 8) and parts(128, 0, 1) == (128, 1) and parts(8, 0, 2) == (4, 1)
    with pytest.raises(InputError, match="64 rows per step cannot be split over 3 processes with 4 at a time"):
        parts(64, 4, 3)


def test_a_batch_that_an_arm_cannot_split_is_refused(tmp_path) -> None:
    settings = yaml.safe_load(PAPER[0].read_text())
    settings["training"] |= {"micro_batch": 128}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(InputError, match="symnoise-half-batch takes 64 rows per step, not a multiple of"):
        load_study(tmp_path / "study.yaml")


def test_new_settings_leave_the_names_of_older_studies_alone() -> None:
    study = load_study(CONFIGS / "studies" / "micro-smoke.yaml")
    small = {"rows": 16, "pool": 64, "steps": 8, "batch": 4, "max_length": 192, "learning_rate": 1e-3}
    small |= {"evaluate_every": 4, "save_every": 4, "precision": "float32"}
    old = replace(study, name="old", data="x.jsonl", pretraining=None, training=type(study.training)(**small))
    assert replace(old, model="smollm2").key == "old-b6ca50b8"
    assert replace(old, training=replace(old.training, micro_batch=2)).key != old.key


def shrunk(path: Path, folder: Path, **training: object) -> Study:
    """The study in `path` on a tiny random model of its family and 24 rows; its other settings as they are."""
    settings = yaml.safe_load(path.read_text())
    family = "opt" if "opt" in settings["name"] else "llama"
    if not (folder / family).exists():
        tiny_model(family, folder / family, room=384)
        (folder / "rows.json").write_text(json.dumps(rows("Alpaca")))
    settings |= {"model": str(folder / family), "data": str(folder / "rows.json"), "alphas": [5], "seeds": 1}
    settings["training"] |= {"rows": 16, "pool": 16, "steps": 2, "batch": 8, "micro_batch": 2, "max_length": 384}
    settings["training"] |= {"evaluate_every": 1, "save_every": 2, **training}
    settings["measuring"] |= {"held_out": 4, "examples": 1, "probes": 2, "draws": 2}
    settings["generating"] |= {"prompts": 1, "max_new_tokens": 2}
    (folder / f"{settings['name']}.yaml").write_text(yaml.safe_dump(settings))
    return load_study(folder / f"{settings['name']}.yaml")


def test_two_processes_with_fsdp2_train_what_one_does(tmp_path) -> None:
    opt = shrunk(CONFIGS / "studies" / "paper-opt-6.7b-alpaca.yaml", tmp_path)
    llama = shrunk(CONFIGS / "studies" / "paper-llama-2-7b-alpaca.yaml", tmp_path, precision="float32")
    plain, pair = llama.run("none_a0_s0"), opt.run("symnoise_a5_s0")
    (tmp_path / "runs.json").write_text(
        json.dumps([(f"{opt.name}.yaml", pair.name), (f"{llama.name}.yaml", plain.name)])
    )
    assert two(studies, tmp_path, more=FSDP2) == [0, 0]

    def record(name: str, run: str) -> dict:
        return json.loads((tmp_path / name / run / "train.json").read_text())

    train(llama, plain, tmp_path / "alone")
    both, alone = record(llama.name, plain.name), record("alone", plain.name)
    assert (both["processes"], alone["processes"], both["status"]) == (2, 1, "done")
    assert both["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
    assert [p["step"] for p in both["curve"]] == [0, 1, 2]
    for point, same in zip(both["curve"], alone["curve"], strict=True):
        assert point == pytest.approx(same, rel=1e-5)
    assert record("diverging", plain.name)["status"] == "diverged"

    assert record(opt.name, pair.name)["curve"][-1] != record(opt.name, pair.name)["curve"][0]
    for when in ("middle", "best", "end"):
        assert load_model(tmp_path / opt.name / pair.name / "weights" / when).model.config.model_type == "opt"
        kept = [load_file(tmp_path / k / plain.name / "weights" / when / FILE) for k in (llama.name, "alone")]
        assert kept[0].keys() == kept[1].keys()
        for name, value in kept[0].items():
            torch.testing.assert_close(value, kept[1][name], rtol=1e-4, atol=1e-6)
