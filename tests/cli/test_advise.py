"""`symnoise advise` as a user types it: table, sentences, JSON, figure, resumption, and one line on bad input."""

import json
from pathlib import Path

import pytest

from symnoise.training.advice import ALPHAS
from tests import command
from tests.tiny import tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("advise")
    tiny("llama").save_pretrained(folder / "model")
    tiny_tokenizer(chat=True).save_pretrained(folder / "model")
    words = ["one", "two", "three", "four", "five", "six"]
    (folder / "rows.json").write_text(json.dumps([{"instruction": f"say {w}", "output": f"{w} {w}"} for w in words]))
    return folder


def call(monkeypatch, home: Path, *arguments: object) -> int:
    places = ["--model", home / "model", "--data", home / "rows.json"]
    return command.call(monkeypatch, "advise", *places, *arguments)


def test_it_resumes_and_says_the_same_as_in_one_go(monkeypatch, home, tmp_path, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    options = ["--quick", "--figure", tmp_path / "advice.png", "--json"]
    assert call(monkeypatch, home, *options, tmp_path / "whole.json") == 0
    whole = json.loads((tmp_path / "whole.json").read_text())
    said = " ".join(capsys.readouterr().out.split())
    assert [row["alpha"] for row in whole["rows"]] == list(ALPHAS) and whole["examples"] == 6
    assert all(row["rho"]["low"] < row["rho"]["value"] < row["rho"]["high"] for row in whole["rows"])
    assert whole["published_recipes"] is None and "LLaMA-2-7B, α = 5, 10, 15): not known here" in said
    for sentence in (whole["try"], whole["do_not_expect"]):
        assert " ".join(sentence.split()) in said
    assert "Cost: 174 forward passes, 174 with backward and 12 Hessian products of a row" in said
    assert (tmp_path / "advice.png").read_bytes().startswith(b"\x89PNG")

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("symnoise.cli.advise.variance_budget", stopped)
        assert call(patch, home, *options, tmp_path / "again.json") == 130
    assert len(list((tmp_path / "again.json.parts").glob("*.json"))) == 3
    monkeypatch.setattr("symnoise.cli.advise.measure_rows", stopped)  # all kept
    assert call(monkeypatch, home, *options, tmp_path / "again.json") == 0
    assert "3 of 6 measurements are done" in " ".join(capsys.readouterr().err.split())
    assert json.loads((tmp_path / "again.json").read_text())["rows"] == whole["rows"]
    assert not (tmp_path / "again.json.parts").exists()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("symnoise.cli.advise.ALPHAS", ALPHAS[:2]),
        ("symnoise.cli.advise._GRADIENT_DRAWS", 3),
        ("symnoise.cli.shared.__version__", "0.0.0"),
        ("torch.__version__", "0.0.0"),
    ],
)
def test_what_was_measured_otherwise_is_not_resumed_from(monkeypatch, home, tmp_path, capsys, place, value) -> None:
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("symnoise.cli.advise.variance_budget", stopped)
    monkeypatch.setattr("symnoise.cli.advise.measure_rows", lambda *_: {})
    for kept in (3, 6):
        assert call(monkeypatch, home, "--quick", "--json", tmp_path / "out.json") == 130
        assert "are done" not in capsys.readouterr().err
        assert len(list((tmp_path / "out.json.parts").glob("*.json"))) == kept
        monkeypatch.setattr(place, value)


BAD = [
    (["--examples", 5], "--examples must be an even number, 6 or more; got 5"),
    (["--examples", 4], "--examples must be an even number, 6 or more; got 4"),
    (["--draws", 0], "--draws must be 1 or more"),
    (["--examples", 8, "--max-length", 64], "6 rows fit 64 tokens, and 8 are needed; lower --examples"),
    (["--figure", "advice.gif"], "--figure takes a file whose name ends in .pdf, .png, .svg"),
    (["--figure", "/proc/none/a.png"], "choose a folder you can write to"),
    (["--dtype", "float23"], "did you mean 'float32'"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(map(str, given)) for given, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(monkeypatch, home, tmp_path, capsys, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, home, *arguments, "--json", tmp_path / "out.json") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("symnoise: ") and message in line
    assert list(tmp_path.iterdir()) == []
