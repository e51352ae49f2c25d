"""The whole quick run on a tiny model: every stage, the ledger and the report; interrupted and started again."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.report import write_report
from experiments.quick import run as quick
from experiments.quick.settings import CONFIG, read_settings
from symnoise.core import InputError
from symnoise.theory import CLAIMS
from symnoise.theory.checks import tiny as tiny_checks
from tests.tiny import tiny, tiny_tokenizer

SMALL = {
    "theory": {"tiny_draws": 64},
    "text": {
        "examples": 2,
        "max_length": 64,
        "probes": 8,
        "diagonal_probes": 3,
        "law_examples": 2,
        "coupled_draws": 2,
        "split_draws": 2,
        "layer_draws": 2,
        "radial_tokens": 64,
        "radial_examples": 1,
        "radial_probes": 2,
    },
    "range": {"examples": 3, "max_length": 64, "draws": 4, "batch": 2},
    "training": {
        "arms": ["none", "symnoise"],
        "alpha": 5,
        "steps": 2,
        "batch": 2,
        "rows": 4,
        "max_length": 64,
        "learning_rate": 1e-3,
        "held_out": 2,
        "evaluate_every": 1,
        "probes": 4,
        "curvature_examples": 2,
    },
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quick")
    tiny("llama").save_pretrained(folder / "model")
    tiny_tokenizer(chat=True).save_pretrained(folder / "model")
    rows = [{"instruction": f"say {i}", "output": f"{i} and {i + 1}"} for i in range(12)]
    (folder / "rows.json").write_text(json.dumps(rows))
    places = {"model": str(folder / "model"), "data": str(folder / "rows.json")}
    path = folder / "quick.yaml"
    places["second_data"] = places["data"]
    path.write_text(yaml.safe_dump({"seed": 0, **places, "alphas": [0.5, 5]} | SMALL))
    return path


def results(folder: Path) -> dict[str, object]:
    records = {path.stem: json.loads(path.read_text()) for path in sorted((folder / "stages").glob("*.json"))}
    found = {name: record["result"] for name, record in records.items()}
    for result in found.values():  # what a clock says differs from run to run
        for row in result.get("rows", []):
            row.pop("seconds")
        for table in result.get("tables", {}).values():
            for record in table:
                for key in ("seconds", "training_seconds"):
                    record.pop(key, None)
    return found


def _with_draws(check: Callable[..., Any], draws: int) -> Callable[..., Any]:
    return lambda *arguments, **given: check(*arguments, **given | {"draws": draws})


def test_an_interrupted_run_ends_like_one_that_was_not(config, tmp_path, monkeypatch) -> None:
    for check, draws in (("smoothed_curvature", 16), ("check_variances", 64)):  # in full in tests/theory
        monkeypatch.setattr(tiny_checks, check, _with_draws(getattr(tiny_checks, check), draws))
    quick.main(config, tmp_path / "whole")
    assert not (tmp_path / "whole" / "report.html").exists()  # records alone: analysis reports
    write_report(tmp_path / "whole")
    ledger = json.loads((tmp_path / "whole" / "ledger.json").read_text())
    assert {row["id"] for row in ledger} == set(CLAIMS)
    assert len({(row["key"], row["subject"]) for row in ledger}) == len(ledger)
    assert {row["subject"] for row in ledger} == {
        "sampled",
        "analytic",
        "tiny",
        "model",
    }  # no row on one seed's training
    on_text = {row["key"] for row in ledger if row["subject"] == "model"}
    for key in ("V1.slope", "V1.slope.these", "V1.ratio-of-means", "V1.ratio-of-means.these"):
        assert {f"{key}.alpha=5", f"{key}.second-text.alpha=5"} <= on_text
    assert {"S2.linear.alpha=5", "P2.variance.one-draw.alpha=5", "P3.diagonal"} <= on_text
    assert {row["verdict"] for row in ledger} <= {"holds", "fails", "undecided"}
    assert (tmp_path / "whole" / "report.html").stat().st_size > 100_000
    assert list((tmp_path / "whole" / "figures").glob("*.pdf"))

    real = quick.fine_tune_arm

    def interrupted(arm: str, settings: dict) -> dict:
        if arm == "symnoise":
            raise KeyboardInterrupt
        return real(arm, settings)

    (tmp_path / "twice" / "stages").mkdir(parents=True)
    for stage in ("moments", "mixing", "analytic", "tiny"):  # long, and done before the interrupt comes
        shutil.copy(tmp_path / "whole" / "stages" / f"{stage}.json", tmp_path / "twice" / "stages")
    monkeypatch.setattr(quick, "fine_tune_arm", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quick.main(config, tmp_path / "twice")
    assert not (tmp_path / "twice" / "run.json").exists()
    monkeypatch.setattr(quick, "fine_tune_arm", real)
    monkeypatch.setattr(quick, "check_moments", lambda **_: pytest.fail("a finished stage was done again"))
    quick.main(config, tmp_path / "twice")
    assert results(tmp_path / "twice") == results(tmp_path / "whole")


def test_a_run_is_not_finished_on_another_text_of_the_same_name(config, tmp_path, monkeypatch) -> None:
    settings = yaml.safe_load(config.read_text())
    rows = Path(shutil.copy(settings["data"], tmp_path))
    places = {"data": str(rows), "second_data": None}
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(settings | places))
    begun: list[str] = []

    def interrupted(*_: Any) -> None:
        begun.append("theory")
        raise RuntimeError("stopped")

    monkeypatch.setattr(quick, "theory", interrupted)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="stopped"):
            quick.main(mine, tmp_path / "out")
    rows.write_text(rows.read_text().replace("say", "tell"))
    with pytest.raises(InputError, match=r"a text is not what .*out was begun with; choose another --output"):
        quick.main(mine, tmp_path / "out")
    assert begun == ["theory"] * 2


def test_the_config_of_families_changes_only_how_much_is_measured() -> None:
    default, families = read_settings(), read_settings(CONFIG.with_name("families.yaml"))
    assert families["text"] == default["text"] and families["data"] == default["data"]
    assert families["alphas"] == default["alphas"] and families["training"]["steps"] == 1
    assert families["range"] == default["range"] | {"examples": default["range"]["examples"] // 2}


def test_a_broken_record_is_named(config, tmp_path) -> None:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "moments.json").write_text("{half")
    with pytest.raises(InputError, match=r"moments\.json"):
        quick.main(config, tmp_path)


BAD = [
    ("alfas: [5]", "unknown setting 'alfas': did you mean 'alphas'"),
    ("text: {probe: 8}", "text: unknown setting 'probe': did you mean 'probes'"),
    ("text: 8", "text is a section with examples"),
    ("- 1", "is not a list of settings"),
    ("a: [", "cannot read the config"),
    ("model: 3", "model is a name or a path"),
    ("alphas: []", "alphas is a list of numbers above 0"),
    ("alphas: [.nan]", "alphas is a list of numbers above 0"),
    ("alphas: [5, 1]", "alphas must rise"),
    ("range: {draws: 1}", "range: draws must be a whole number, 4 or larger; got 1"),
    ("range: {examples: many}", "range: examples must be a whole number"),
    ("text: {probes: 12}", "probes must be a multiple of 8"),
    ("training: {arms: [none, symnoize]}", "training, arms: unknown noise 'symnoize': did you mean 'symnoise'"),
    ("training: {arms: [[none]]}", "training, arms: unknown noise"),
    ("training: {learning_rate: 0}", "learning_rate must be a number above 0"),
    ("training: {curvature_examples: 99}", "raise held_out"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[text for text, _ in BAD])
def test_a_config_that_cannot_be_run_with_is_refused_in_a_line(text, message, tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        quick.main(path, tmp_path / "out")
    assert message in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_config_has_what_differs_and_flags_go_before_it(tmp_path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: rows.jsonl\ntext: {probes: 8}\n")
    settings, default = read_settings(path, model="gpt2"), read_settings()
    assert (settings["model"], settings["data"], settings["text"]["probes"]) == ("gpt2", "rows.jsonl", 8)
    assert settings["text"] == default["text"] | {"probes": 8} and settings["training"] == default["training"]
    assert read_settings(path, data="other.jsonl")["data"] == "other.jsonl"


@pytest.mark.parametrize(
    ("section", "key"), [("text", "radial_tokens"), ("range", "max_length"), ("text", "max_length")]
)
def test_rows_that_do_not_fit_are_named_before_anything_is_measured(
    config, tmp_path, section, key, monkeypatch
) -> None:
    given = yaml.safe_load(config.read_text())
    given[section] |= {key: 4}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(given))
    monkeypatch.setattr(quick, "check_moments", lambda **_: pytest.fail("measured before the rows were looked at"))
    with pytest.raises(InputError, match=rf"rows fit 4 tokens; raise {section}\.{key}"):
        quick.main(path, tmp_path / "out")
