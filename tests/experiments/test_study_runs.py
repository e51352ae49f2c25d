"""The study: its file is checked first, arms are paired, and every step leaves what the next one reads."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from experiments.study import base as module
from experiments.study.base import base, base_model, borrowed_table, pretrain
from experiments.study.connect import connect
from experiments.study.evaluate import calibration_error, end_mark, evaluate, scores
from experiments.study.generate import first_turn, generate
from experiments.study.measure import measure
from experiments.study.measure_base import start
from experiments.study.precision import precision
from experiments.study.spec import Run, load_study
from experiments.study.texts import flipped, held_out, split, training_rows
from experiments.study.train import Curve, train
from result_schema.study import ARMS, Arm
from symnoise.core import InputError, sha256, write_json
from symnoise.data import Example
from symnoise.models import load_model
from symnoise.training import Dials, SymNoiseTrainer
from tests.tiny import tiny, tiny_tokenizer

STUDIES = Path("experiments/configs/studies")
TRAINING = yaml.safe_load((STUDIES / "micro-smoke.yaml").read_text())["training"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": ["symnoize"]}, "unknown arm 'symnoize': did you mean 'symnoise'"),
        ({"sedes": 3}, "unknown setting 'sedes': did you mean 'seeds'"),
        ({"seeds": 0}, "at least 1 seed"),
        ({"data": "nowhere.jsonl"}, "there is no data file nowhere.jsonl"),
        ({"controls": ["symnoise"]}, "an arm is named twice"),
        ({"pretraining": None}, "needs the section pretraining"),
        ({"training": {"rows": 3}}, "training: missing pool"),
        ({"name": "../../elsewhere"}, "must be letters, digits, dots"),
        ({"name": "x; touch here"}, "must be letters, digits, dots"),
        ({"name": ""}, "must be letters, digits, dots"),
        ({"seeds": "three"}, "seeds: input should be a valid integer; got 'three'"),
        ({"seeds": True}, "seeds: input should be a valid integer; got True"),
        ({"alphas": [5, {"a": 1}]}, "alphas, 1: input should be a valid number"),
        ({"arms": ["x" * 1_000, 3]}, "arms, 1: input should be a valid string; got"),
        ({"arms": ["uniform", "rademacher-batch-1.125"]}, "takes 1.125 × training.batch rows, not a whole number"),
        (
            {"arms": ["uniform", "symnoise-rate-2"], "training": TRAINING | {"steps": 9}},
            r"training.steps / 2 steps, not",
        ),
        ({"training": TRAINING | {"rows": 65}}, "drawn from training.pool; make that 65 or more"),
        ({"alphas": [5]}, "alpha, 10, is where arms are compared; name it among alphas"),
        ({"arms": ["uniform", "none"], "controls": []}, "none has no α; name it among controls"),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_anything_runs(change, message, tmp_path) -> None:
    settings = yaml.safe_load((STUDIES / "micro-smoke.yaml").read_text()) | change
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(InputError, match=message):
        load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_that_come_with_the_project_are_whole(path) -> None:
    study = load_study(path, "some/rows")  # one of them is for a file that everybody makes for themselves
    assert len({run.name for run in study.runs}) == len(study.runs) > 0
    assert study.run(study.runs[-1].name) == study.runs[-1]


def test_adding_seeds_arms_or_measurements_keeps_the_runs_there_are(study) -> None:
    more = replace(study, seeds=9, arms=("uniform",), measuring=replace(study.measuring, probes=99))
    assert more.key == study.key
    assert replace(study, training=replace(study.training, steps=5)).key != study.key


def test_every_arm_of_a_seed_sees_the_same_rows_and_none_that_is_held_out(study, folder) -> None:
    source = base_model(study, folder)
    held = {e.messages for e in held_out(study, source.tokenizer, source.model)}
    parts = split(study)
    pool, rest = ({e.messages for e in rows} for rows in (parts.pool, parts.rest))
    assert not held & pool and not held & rest and not pool & rest
    first, second = (training_rows(study, seed, source.tokenizer, source.model) for seed in (0, 1))
    assert len(first) == 8 and first != second
    assert first == training_rows(study, 0, source.tokenizer, source.model)


def test_from_training_to_tables(study, folder, tmp_path) -> None:
    start(study, folder)
    for run in study.runs:
        for step in (train, measure, generate, evaluate):
            step(study, run, folder)
    connect(study, folder, tmp_path)
    place = tmp_path / study.name
    runs = pd.read_parquet(place / "runs.parquet")
    assert sorted(runs.arm) == ["none", "symnoise"] and set(runs.status) == {"done"}
    curves = pd.read_parquet(place / "curves.parquet")
    losses = curves[curves.quantity == "held-out loss"].pivot(index="step", columns="run", values="value")
    assert list(losses.index) == [0, 1, 2, 3, 4]
    assert losses.loc[0].nunique() == 1 and losses.loc[4].nunique() == 2  # one start, two ends
    curvature = pd.read_parquet(place / "curvature.parquet")
    assert set(curvature.step) == {0, 2, 4}
    sizes = {"E|zᵀHz|", "‖H‖_F", "two-sided KL", "⟨X, ∇ℓ⟩", "σ² tr H", "gradient norm", "top eigenvalue"}
    assert set(curvature.quantity) == {"tr H", "tr G", "tr R", "C", *sizes}
    outcomes = pd.read_parquet(place / "outcomes.parquet")
    assert set(outcomes.decoding) == {"", "greedy", "repetition penalty 1.2"}
    end = outcomes[(outcomes.when == "end") & (outcomes.measure == "held-out loss")].set_index("run").value
    torch.testing.assert_close(  # the same number by two ways
        torch.tensor(end.loc[losses.columns].to_numpy()), torch.tensor(losses.loc[4].to_numpy()), rtol=1e-5, atol=0
    )
    facts = json.loads((place / "study.json").read_text())
    assert facts["schema"] == 1 and facts["unfinished"] == []
    assert facts["data_sha256"] == sha256(Path(study.data))

    with pytest.raises(InputError, match=r"start\.json was made with other settings \(alpha: 10\); restore them"):
        connect(replace(study, alpha=5), folder, tmp_path)
    made = folder / study.runs[0].name / "measure.json"
    record = json.loads(made.read_text())
    record["measured_by"]["measuring"]["probes"] = 99
    made.write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"measure\.json was made with other settings \(measuring: .*'probes': 99"):
        connect(study, folder, tmp_path)
    trained = folder / study.runs[0].name / "train.json"
    record = json.loads(trained.read_text())
    trained.write_text(json.dumps(record | {"arm": record["arm"] | {"rate": 2}}))
    with pytest.raises(InputError, match=rf"train\.json is of another {study.runs[0].arm} than today's: delete"):
        connect(study, folder, tmp_path)

    shutil.rmtree(folder / study.runs[0].name)
    connect(study, folder, tmp_path)
    assert json.loads((place / "study.json").read_text())["unfinished"] == [study.runs[0].name]
    record = json.loads((folder / "start.json").read_text())
    (folder / "start.json").write_text(json.dumps(record | {"data_sha256": "0" * 64}))
    with pytest.raises(InputError, match="changed between runs; run micro-smoke again"):
        connect(study, folder, tmp_path)


@pytest.mark.parametrize(("losses", "same"), [((3, 2, 1), True), ((3, 1, 2), False), ((3, 1, 1), False)])
def test_a_best_model_that_is_the_last_one_is_read_once(study, folder, losses, same, monkeypatch, tmp_path) -> None:
    """As the curve says, where an equal loss before the end counts as lower; what is told of both is then one."""
    run, read = study.run("none_a0_s0"), []
    place = tmp_path / run.name
    curve = [{"step": step, "held-out loss": loss} for step, loss in enumerate(losses)]
    write_json(place / "train.json", {"status": "done", "curve": curve})
    source = base_model(study, folder)
    for name in ("generate", "evaluate"):
        monkeypatch.setattr(f"experiments.study.{name}.weights", lambda place, when: read.append(when) or source)
    generate(study, run, tmp_path)
    evaluate(study, run, tmp_path)
    assert read == ["best"] * 2 if same else read == ["best", "end"] * 2
    for file, key in (("replies.json", "replies"), ("outcomes.json", "outcomes")):
        found = json.loads((place / file).read_text())[key]
        parts = [[{**x, "when": ""} for x in found if x["when"] == when] for when in ("best", "end")]
        assert parts[0] == parts[1] != []


def test_a_run_killed_in_the_middle_ends_like_one_that_was_not(study, folder, monkeypatch) -> None:
    run = study.run("symnoise_a10_s0")
    train(study, run, folder)
    whole = json.loads((folder / run.name / "train.json").read_text())
    weights = (folder / run.name / "weights" / "end" / "model.safetensors").read_bytes()
    shutil.rmtree(folder / run.name)

    real = Curve.step

    def killed(self: Curve, step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt
        real(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Curve, "step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(study, run, folder)
    assert not (folder / run.name / "train.json").exists() and not (folder / run.name / "weights").exists()
    kept = folder / run.name / "curve.json"
    points = json.loads(kept.read_text())
    kept.write_text(json.dumps([point | {"seconds": point["seconds"] + 1000} for point in points]))
    train(study, run, folder)
    again = json.loads((folder / run.name / "train.json").read_text())
    assert again["curve"] == whole["curve"]
    assert again["train_loss"] == whole["train_loss"]
    assert again["seconds"] > 1000  # what came before the kill counts
    assert (folder / run.name / "weights" / "end" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("name", ["symnoise_a10_s0", "symnoise-half-batch_a10_s0"])
def test_a_run_killed_when_all_steps_are_done_takes_no_more(study, folder, tmp_path, monkeypatch, name) -> None:
    """A half batch leaves its epoch unfinished, in which the Trainer would take one step too many."""
    study = replace(study, controls=("none", "symnoise-half-batch"), training=replace(study.training, steps=3))
    run = study.run(name)
    place = tmp_path / "runs"
    place.mkdir()
    shutil.copytree(folder.parent / study.base, tmp_path / study.base)
    train(study, run, place)
    whole = json.loads((place / run.name / "train.json").read_text())
    weights = (place / run.name / "weights" / "end" / "model.safetensors").read_bytes()
    shutil.rmtree(place / run.name)

    real = SymNoiseTrainer.train

    def killed(self: SymNoiseTrainer, *args: object) -> None:
        real(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SymNoiseTrainer, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            train(study, run, place)
    train(study, run, place)
    again = json.loads((place / run.name / "train.json").read_text())
    assert (again["curve"], again["train_loss"]) == (whole["curve"], whole["train_loss"])
    assert (place / run.name / "weights" / "end" / "model.safetensors").read_bytes() == weights


def test_a_diverged_run_is_a_result_whatever_its_message_says(study, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(SymNoiseTrainer, "_not_finite", lambda *_: "said otherwise")
    wild = replace(study, training=replace(study.training, learning_rate=1e30))
    place = tmp_path / wild.key
    shutil.copytree(folder.parent / study.base, tmp_path / wild.base)
    base(wild, place)
    start(wild, place)
    for run in wild.runs:
        for step in (train, measure, generate, evaluate):
            step(wild, run, place)
    connect(wild, place, tmp_path / "results")
    runs = pd.read_parquet(tmp_path / "results" / wild.name / "runs.parquet")
    assert set(runs.status) == {"diverged"}


def test_half_written_results_are_never_read(study, folder) -> None:
    run = study.runs[0]
    (folder / run.name).mkdir(exist_ok=True)
    (folder / run.name / "train.json").write_text('{"status": "do')
    with pytest.raises(InputError, match="delete it and run again"):
        measure(study, run, folder)
    shutil.rmtree(folder / run.name)


def test_calibration_error_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.95, 0.15, 0.15])
    right = torch.tensor([True, False, False, False])
    assert calibration_error(confidence, right) == pytest.approx(0.5 * 0.45 + 0.5 * 0.15)


def test_the_mark_that_ends_a_reply_is_found_among_replies_that_are_cut_off() -> None:
    labels = torch.tensor([[-100, 5, 2, -100], [-100, 6, 7, 8], [3, 4, 5, 2]])
    assert end_mark([{"labels": labels[:2]}, {"labels": labels[2:]}]) == 2


def test_scores_by_hand() -> None:
    replies = [
        {"reply": "a b a b", "reference": "a b a b", "tokens": 4},
        {"reply": "", "reference": "c d", "tokens": 0},
    ]
    found = scores(replies)
    assert found["ROUGE-L"] == pytest.approx(0.5) and found["length"] == 2
    assert found["distinct-1"] == pytest.approx(2 / 4)
    assert found["repeated-2"] == pytest.approx((1 / 3 + 0) / 2)


def test_a_reply_is_held_against_the_one_to_the_same_prompt() -> None:
    turns = (("system", "s"), ("user", "hi"), ("assistant", "first"), ("user", "more"), ("assistant", "second"))
    assert first_turn(Example(turns, "", 1)) == {"prompt": "hi", "reference": "first"}
    plain = (("prompt", "hi"), ("completion", " first"))
    assert first_turn(Example(plain)) == {"prompt": "hi", "reference": " first"}
    assert first_turn(Example(plain[1:])) == {"prompt": "", "reference": " first"}


def test_arms_are_the_controls_of_a_fair_test() -> None:
    assert ARMS["none-double-batch"] == Arm("none", batch=2)
    assert ARMS["symnoise-half-batch"] == Arm("symnoise", batch=0.5)
    assert ARMS["penalty"].dials == (100, 0) and ARMS["penalty"].share == 0.1
    assert Run("dials-2-1", 10, 0).dials == Dials(even=2, odd=1) and Run("symnoise", 10, 0).dials is None


def test_a_rate_keeps_learning_rate_times_steps(study) -> None:
    assert study.steps("symnoise-rate-2") * 2 == study.steps("symnoise-rate-0.5") / 2 == study.steps("symnoise")


def test_studies_with_the_same_rows_share_one_pretrained_model(study, folder, monkeypatch) -> None:
    other = replace(study, name="other", seeds=3, training=replace(study.training, steps=9))
    assert other.base == study.base and other.key != study.key
    assert replace(study, measuring=replace(study.measuring, set_apart=60)).base != study.base
    monkeypatch.setattr(module, "pretrain", lambda *_: pytest.fail("made a second time"))
    base(other, folder.parent / other.key)
    read = [json.loads((folder.parent / s.key / "base.json").read_text())["pretraining_loss"] for s in (study, other)]
    assert read[0] == read[1]


def test_a_model_pretrained_on_other_rows_of_the_same_name_is_refused(study, folder, tmp_path) -> None:
    rows = tmp_path / "rows.json"
    shutil.copy(study.data, rows)
    here = replace(study, data=str(rows))
    made = shutil.copytree(folder.parent / study.base, tmp_path / here.base)
    base(here, tmp_path / here.key)
    rows.write_text(rows.read_text().replace("river", "lake"))
    split.cache_clear()
    with pytest.raises(InputError, match=f"{made.name} was not pretrained on .*rows.json as it is now; remove it"):
        base(here, tmp_path / here.key)


def test_a_model_pretrained_on_other_data_is_shared_by_studies_of_any_data(study, tmp_path, monkeypatch) -> None:
    (tmp_path / "talk.jsonl").write_text('{"instruction": "Hello", "output": "Good day"}\n' * 3)
    options = replace(study.pretraining, data=str(tmp_path / "talk.jsonl"))
    here, there = replace(study, pretraining=options), replace(study, pretraining=options, data="others.jsonl")
    assert here.base == there.base != study.base and here.key != there.key
    read: list[Any] = []
    monkeypatch.setattr(module, "pretrain", lambda _, text, folder: read.extend(text) or {"pretraining_loss": [1, 1]})
    monkeypatch.setattr(module, "base_model", lambda *_: SimpleNamespace(provenance=dict))
    base(here, tmp_path / here.key)
    assert [row.messages for row in read] == [(("user", "Hello"), ("assistant", "Good day"))] * 3


def test_rows_set_apart_are_measured_by_one_study_or_the_other(study) -> None:
    first = replace(study, measuring=replace(study.measuring, held_out=4, skip=0, set_apart=8))
    second = replace(first, measuring=replace(first.measuring, skip=4))
    assert split(first).pool == split(second).pool and split(first).rest == split(second).rest


def test_autocast_is_held_against_float32_seed_by_seed(study, tmp_path) -> None:
    with pytest.raises(InputError, match=r"trains in float32; set training\.precision: bf16"):
        precision(study, tmp_path)
    half = replace(study, training=replace(study.training, precision="bf16"))
    folder, kept = tmp_path / half.key, tmp_path / study.key / "none_a0_s0" / "train.json"
    base(half, folder)
    with pytest.raises(InputError, match=r"train\.json is missing; make study makes it"):
        precision(half, folder, tmp_path)
    train(half, half.run("none_a0_s0"), folder)
    precision(half, folder, tmp_path)

    table = pd.read_csv(tmp_path / half.name / "precision.csv")
    assert table.seed.eq(0).all() and table.step.tolist() == [0, 1, 2, 3, 4]
    assert table.difference[0] == 0 and (table.difference[1:].abs() > 0).all()  # a loss is measured in float32 in both
    assert table.difference.abs().max() < 1e-3
    assert table.difference.tolist() == pytest.approx((table.bf16 - table.float32).tolist(), rel=1e-9)
    losses = [point["held-out loss"] for point in json.loads(kept.read_text())["curve"]]
    assert table.float32.tolist() == pytest.approx(losses, rel=1e-12)
    assert not (kept.parent / "weights").exists()
    written = kept.stat().st_mtime_ns
    precision(half, folder, tmp_path)
    assert kept.stat().st_mtime_ns == written
    record = json.loads(kept.read_text())
    for change, said in (({"data_sha256": "0" * 64}, "had other contents"), ({"processor": "z"}, "another processor")):
        write_json(kept, record | change)
        with pytest.raises(InputError, match=said):
            precision(half, folder, tmp_path)


def test_the_penalty_is_the_second_difference_of_a_tenth_of_the_draw() -> None:
    run = Run("penalty", 10.0, 0)
    assert run.dials is not None and run.noise is not None
    assert (run.noise.alpha, run.dials.even, run.dials.odd) == (1.0, 100.0, 0.0)
    assert Run("symnoise", 10.0, 0).dials is None


def test_flips_change_that_share_of_the_scored_labels_and_nothing_else(study, folder) -> None:
    rows = [{"input_ids": list(range(100)), "labels": [-100] * 20 + list(range(20, 100))} for _ in range(50)]
    found = flipped(rows, 0.2, 1000, seed=0)
    assert [row["input_ids"] for row in found] == [row["input_ids"] for row in rows]
    assert all(row["labels"][:20] == [-100] * 20 for row in found)
    changed = [a != b for old, new in zip(rows, found, strict=True) for a, b in zip(old["labels"], new["labels"])]  # noqa: B905
    assert sum(changed) / 4000 == pytest.approx(0.2 * 0.999, abs=4 * (0.2 * 0.8 / 4000) ** 0.5)
    assert flipped(rows, 0.2, 1000, seed=0) == found != flipped(rows, 0.2, 1000, seed=1)
    source = base_model(study, folder)
    noisy = replace(study, training=replace(study.training, flips=0.5))
    plain, other = (training_rows(s, 0, source.tokenizer, source.model) for s in (study, noisy))
    assert [row["input_ids"] for row in plain] == [row["input_ids"] for row in other] and plain != other
    assert noisy.key != study.key


def test_rows_that_are_skipped_are_those_that_another_study_reports_on(study, folder) -> None:
    source = base_model(study, folder)
    choosing = replace(study, measuring=replace(study.measuring, skip=4, held_out=3))
    reported = {e.messages for e in held_out(study, source.tokenizer, source.model)}
    chosen_on = {e.messages for e in held_out(choosing, source.tokenizer, source.model)}
    assert len(chosen_on) == 3 and not chosen_on & reported


def test_a_borrowed_table_has_the_norms_and_the_geometry_of_its_source(study, folder, tmp_path) -> None:
    """At full width all inner products are those of the source, whose tokens are characters; below, norms still are."""
    source, tokenizer = tiny("llama"), tiny_tokenizer(chat=True)
    source.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ours = base_model(study, folder).tokenizer
    table = source.get_input_embeddings().weight.detach()
    texts = {i: ours.decode([i]) for i in range(len(ours)) if i not in ours.all_special_ids}
    wanted = {i: table[tokenizer(t, add_special_tokens=False)["input_ids"]].mean(0) for i, t in texts.items() if t}
    numbers = [i for i, row in wanted.items() if row.norm() > 0]
    rows = torch.stack([wanted[i] for i in numbers])
    for width in (32, 8):
        found = borrowed_table(ours, str(tmp_path), width)
        assert found.shape == (len(ours), width)
        assert torch.allclose(found[numbers].norm(dim=1), rows.norm(dim=1), rtol=1e-5)
        same = torch.allclose(found[numbers] @ found[numbers].T, rows @ rows.T, atol=1e-4)
        assert same == (width == 32)


def test_a_base_in_the_form_of_fine_tuning_from_borrowed_embeddings(study, tmp_path) -> None:
    tiny("llama").save_pretrained(tmp_path / "source")
    tiny_tokenizer(chat=True).save_pretrained(tmp_path / "source")
    assert study.pretraining is not None
    options = replace(study.pretraining, embeddings=str(tmp_path / "source"), chat=True, steps=1, max_length=192)
    options = replace(options, learning_rate=0.0)
    pretrain(options, split(study).rest, tmp_path / "base")
    source = load_model(str(tmp_path / "base"))
    table = borrowed_table(source.tokenizer, str(tmp_path / "source"), options.hidden)
    assert torch.allclose(source.model.get_input_embeddings().weight, table)
    assert replace(study, pretraining=options).key != study.key
    with pytest.raises(InputError, match="only 0 conversations fit"):
        pretrain(replace(options, max_length=2), split(study).rest, tmp_path / "base")
