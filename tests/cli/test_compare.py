"""`symnoise compare`: the numbers of its tables from the runs' files, pairing by seed, and every refusal."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml

from symnoise.cli.compare import name
from symnoise.core import Estimate
from symnoise.finetune.compare import compare
from symnoise.finetune.dry_run import rows, tiny_model
from tests.command import call


def run(folder: Path, held_out: float, training: float = 2.0, before: float = 3.0, **settings) -> Path:
    """What a finished run leaves that a comparison reads."""
    folder.mkdir(parents=True)
    (folder / "train.yaml").write_text(yaml.safe_dump({"noise": "symnoise", "seed": 0, **settings}))
    lines = [{"step": 0, "eval_loss": before}, {"step": 2, "loss": training}, {"step": 2, "eval_loss": held_out}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "README.md").touch()
    return folder


@pytest.fixture
def study(tmp_path) -> list[Path]:
    """Three seeds of three arms; the plain one is not the first. Its α does nothing and so does not count."""
    found = []
    for noise, shift in (("uniform", (0.1, 0.2, 0.6)), ("none", (0, 0, 0)), ("symnoise", (-0.3, 0, 0.1))):
        for seed, d in enumerate(shift):
            alpha = 5.0 + seed if noise == "none" else 10.0
            arm = {"noise": noise, "noise_alpha": alpha, "seed": seed}
            found.append(run(tmp_path / f"{noise}-{seed}", 2.0 + seed + d, **arm))
    return found


def test_differences_are_paired_by_seed_with_a_t_interval(study, tmp_path, monkeypatch, capsys) -> None:
    """Seeds shift the loss by far more than arms do, and drop out. By hand: t₀.₉₇₅(2) = 4.3027."""
    monkeypatch.setenv("COLUMNS", "160")
    assert call(monkeypatch, "compare", *study, "--json", tmp_path / "out.json") == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["reference"] == {"noise": "none", "noise_alpha": None} and found["differing"][-1] == "seed"
    uniform, _ = (one["measured"]["eval_loss"] for one in found["differences"])
    half = 4.302652729911275 * torch.tensor([0.1, 0.2, 0.6]).std().item() / math.sqrt(3)
    assert uniform["value"] == pytest.approx(0.3) and (uniform["dof"], uniform["pairs"]) == (2, 3)
    assert (uniform["low"], uniform["high"]) == pytest.approx((0.3 - half, 0.3 + half))
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "Minus none, paired by seed" in said and "uniform, α = 10" in said and "dof 2" in said and "symnoise-2" in said
    )


def test_the_page_has_the_tables_and_escapes_what_is_the_users(study, tmp_path, monkeypatch) -> None:
    other = run(tmp_path / "<b>bold", 1.0, noise="none", seed=3, model="<script>")
    assert call(monkeypatch, "compare", *study, other, "--any", "--html", tmp_path / "page.html") == 0
    page = (tmp_path / "page.html").read_text()
    assert "&lt;b&gt;bold" in page and "&lt;script&gt;" in page and "<script" not in page and "<b>" not in page
    assert "symnoise-2" in page and "dof 2" in page and "http" not in page
    assert call(monkeypatch, "compare", *study, "--html", "/proc/none/page.html") == 2
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}")
    for option in ("--html", "--json"):
        assert call(monkeypatch, "compare", *study, option, rows) == 2
        assert rows.read_text() == "{}"


def test_only_seeds_that_both_arms_have_are_paired(study, monkeypatch, capsys) -> None:
    found = compare([path for path in study if path.name not in ("uniform-1", "none-0")])
    uniform, symnoise = found.differences
    assert (uniform.seeds, symnoise.seeds) == ([2], [1, 2])
    assert float(uniform.measured["eval_loss"]) == pytest.approx(0.6)
    assert math.isnan(float(uniform.measured["eval_loss"].stderr))
    other = Estimate.from_draws(torch.tensor([0.0, 0.1], dtype=torch.float64))
    assert float(symnoise.measured["eval_loss"].stderr) == pytest.approx(float(other.stderr))
    apart = compare([path for path in study if path.name in ("uniform-1", "none-0")])
    assert apart.differences[0].seeds == [] and apart.differences[0].measured == {}
    assert call(monkeypatch, "compare", *(path for path in study if path.name in ("uniform-1", "none-0"))) == 0
    assert "none in common" in " ".join(capsys.readouterr().out.split())


def test_without_a_plain_arm_the_first_is_the_reference(study) -> None:
    assert name(compare(study[-3:] + study[:3]).reference) == "symnoise"
    seeds = compare(study[:3])
    assert (seeds.differing, seeds.differences, name(seeds.reference)) == (["seed"], [], "the same settings")


def test_other_settings_are_compared_with_any(study, tmp_path, monkeypatch) -> None:
    other = run(tmp_path / "other", 1.5, learning_rate=0.1, noise_alpha=10.0)
    assert call(monkeypatch, "compare", study[0], other) == 2
    assert call(monkeypatch, "compare", study[0], other, "--any", "--json", tmp_path / "out.json") == 0
    (one,) = json.loads((tmp_path / "out.json").read_text())["differences"]
    assert one["arm"] == {"noise": "symnoise", "learning_rate": 0.1}


def measured(folder: Path, lines: list[dict], **settings) -> Path:
    """A run with these lines in its log, besides those of every run."""
    run(folder, 1.0, **settings)
    with (folder / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return folder


@pytest.mark.parametrize("key", ["curvature/trace", "embedding_norm/used_mean", "noise/clean_loss"])
def test_measures_of_different_steps_are_not_subtracted(tmp_path, monkeypatch, capsys, key) -> None:
    """tr H falls along training: that of a run whose budget ended it early is larger for this alone."""
    name = {"curvature/trace": "trace", "embedding_norm/used_mean": "used_norm", "noise/clean_loss": "clean_loss"}[key]
    lines = [{"step": step, key: 10.0 - step} for step in (1, 2)]
    plain = measured(tmp_path / "plain", lines, noise="none")
    same, early = measured(tmp_path / "same", lines), measured(tmp_path / "early", lines[:1], seed=1)
    other = measured(tmp_path / "other", lines, noise="none", seed=1)
    (one,) = compare([plain, same]).differences
    assert (float(one.measured[name]), one.apart) == (0, [])
    assert call(monkeypatch, "compare", plain, other, same, early, "--json", tmp_path / "out.json") == 0
    (one,) = json.loads((tmp_path / "out.json").read_text())["differences"]
    assert one["measured_at_different_steps"] == [name] and name not in one["measured"] and "loss" in one["measured"]
    assert "measured it at different steps" in " ".join(capsys.readouterr().out.split())


def test_dials_mean_over_all_steps_is_not_compared_with_a_sample(tmp_path) -> None:
    sampled = measured(tmp_path / "pair", [{"step": 2, "noise/clean_loss": 1.0}])
    every = measured(tmp_path / "dials", [{"step": 2, "noise/clean_loss": 1.0}, {"step": 2, "clean_loss": 1.1}], even=2)
    assert compare([sampled, every]).differences[0].apart == ["clean_loss"]


def test_the_training_loss_of_a_run_without_noise_is_one_without_noise(tmp_path, monkeypatch) -> None:
    """So that arms whose steps compute it have something to be compared with; no column where none has."""
    plain = measured(tmp_path / "plain", [], noise="none")
    dials = measured(tmp_path / "dials", [{"step": 2, "clean_loss": 1.5}], even=2)
    assert float(compare([plain, dials]).differences[0].measured["clean_loss"]) == pytest.approx(1.5 - 2.0)
    sampled = measured(tmp_path / "pair", [{"step": 1, "noise/clean_loss": 1.0}])
    assert compare([plain, sampled]).differences[0].apart == ["clean_loss"]
    every = measured(tmp_path / "every", [{"step": step, "noise/clean_loss": 1.0} for step in (1, 2)], noise_alpha=9)
    assert float(compare([plain, every]).differences[0].measured["clean_loss"]) == pytest.approx(1.0 - 2.0)
    assert "clean_loss" not in compare([plain, measured(tmp_path / "other", [])]).measures


def test_what_changes_no_number_is_no_difference(study, tmp_path) -> None:
    other = run(tmp_path / "other", 1.5, noise_alpha=10.0, seed=7, keep=9, log_every=3, output="elsewhere")
    assert compare([study[-1], other]).differing == ["seed"]


def spoil(folder: Path, file: str, text: str | None) -> Path:
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    return folder


REFUSED = [
    (lambda at: [run(at / "a", 1.0)], "give two runs or more"),
    (lambda at: [run(at / "a", 1.0), at / "none"], "none holds no run of symnoise train: it has no train.yaml"),
    (lambda at: [run(at / "a", 1.0), spoil(run(at / "b", 1.0), "README.md", None)], "b has not finished"),
    (lambda at: [run(at / "a", 1.0), spoil(run(at / "b", 1.0), "log.jsonl", None)], "cannot read the log of the run"),
    (lambda at: [run(at / "a", 1.0), spoil(run(at / "b", 1.0), "log.jsonl", "{")], "cannot read the log of the run"),
    (lambda at: [run(at / "a", 1.0), spoil(run(at / "b", 1.0), "train.yaml", "seed: null")], "seed must be a whole"),
    (lambda at: [run(at / "a", 1.0), spoil(run(at / "b", 1.0), "log.jsonl", "null")], "line 1 is no step with its"),
    (lambda at: [run(at / "a", 1.0), spoil(run(at / "b", 1.0), "log.jsonl", '{"step": null}')], "line 1 is no step"),
    (lambda at: [run(at / "a", 1.0), spoil(run(at / "b", 1.0), "log.jsonl", '{"loss": 1}')], "line 1 is no step"),
    (lambda at: [run(at / "a", 1.0), spoil(run(at / "b", 1.0), "train.yaml", "- x")], "must be lines of `key: value`"),
    (lambda at: [run(at / "a", 1.0), spoil(run(at / "b", 1.0), "train.yaml", "[")], "it is not YAML"),
    (lambda at: [run(at / "a", 1.0), run(at / "b", 1.0)], "have the same settings and seed"),
    (lambda at: [run(at / "a", 1.0), run(at / "b", 1.0, steps=7)], "steps is 0 in"),
    (lambda at: [run(at / "a", 1.0), run(at / "b", 1.0, noise_where="prompt")], "noise_where is 'all' in"),
    (lambda at: [run(at / "a", 1.0), run(at / "b", 1.0, before=3.1, seed=1)], "other weights or rows"),
    (
        lambda at: [
            spoil(run(at / "a", 1.0), "sources.json", '{"processes": 1, "training rows": "x"}'),
            spoil(run(at / "b", 1.0, seed=1), "sources.json", '{"processes": 8, "training rows": "y"}'),
        ],
        "were made of other content: processes, training rows",
    ),
    (lambda at: [run(at / "a", 1.0), spoil(run(at / "b", 1.0), "sources.json", "[")], "sources.json is damaged"),
    (
        lambda at: [run(at / "a", 1.0), spoil(run(at / "b", 1.0, seed=1), "log.jsonl", "")],
        "the runs have nothing in common",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refusals_are_one_line_and_exit_code_2(monkeypatch, tmp_path, capsys, make, message) -> None:
    assert call(monkeypatch, "compare", *make(tmp_path), "--json", tmp_path / "out.json") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("symnoise: ") and message in line
    assert not (tmp_path / "out.json").exists()


def test_it_reads_what_train_leaves(monkeypatch, tmp_path) -> None:
    """Held-out loss, both training losses, tr H and norms of real runs, equal to those in the JSON of train."""
    tiny_model("llama", tmp_path / "model", room=256)
    (tmp_path / "rows.json").write_text(json.dumps(rows("Alpaca")))
    options = ["--model", tmp_path / "model", "--data", tmp_path / "rows.json", "--steps", 2, "--batch", 2]
    options += ["--max-length", 240, "--eval-rows", 2, "--track-every", 1, "--log-every", 1, "--curvature-every", 2]
    for seed in (0, 1):
        out = ["--seed", seed, "--output", tmp_path / f"{seed}", "--json", tmp_path / f"{seed}.json"]
        assert call(monkeypatch, "train", *options, *out) == 0
    found = compare([tmp_path / "0", tmp_path / "1"])
    assert found.measures == ["eval_loss_before", "eval_loss", "loss", "clean_loss", "trace", "used_norm"]
    for one in found.runs:
        trained = json.loads((tmp_path / f"{one.seed}.json").read_text())["measured"]
        assert {key: one.measured[key] for key in trained} == trained


def test_an_arm_without_noise_is_called_without_an_alpha(study) -> None:
    assert name(compare(study).reference) == "none"
