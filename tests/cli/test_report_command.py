"""`symnoise report`: one page from the installed package, resumed section by section, refused in another's folder."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from symnoise.cli import report
from symnoise.cli.report import sections
from tests import command
from tests.tiny import tiny, tiny_tokenizer

FIGURES = ("curvature", "validity", "signal", "noise", "layers", "cost")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    tiny("llama").save_pretrained(folder / "model")
    tiny_tokenizer(chat=True).save_pretrained(folder / "model")
    words = ["<b>one</b>", "two", "three", "four", "five"]
    rows = [{"instruction": f"say {word}", "output": f"{word} {word}"} for word in words]
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


def call(monkeypatch, home: Path, *arguments: object) -> int:
    places = ["--model", home / "model", "--data", home / "rows.json"]
    return command.call(monkeypatch, "report", *places, *arguments)


@pytest.fixture(scope="module")
def made(home) -> Path:
    """A finished report of the tiny model."""
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, home, "--quick", "--output", home / "out") == 0
    return home / "out"


def test_the_page_is_whole_and_stands_alone(made) -> None:
    page = (made / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml;base64,") == len(FIGURES)
    assert "<script" not in page and 'src="http' not in page and "<link" not in page
    for name in FIGURES:
        for suffix in ("pdf", "png", "csv"):
            assert (made / "figures" / f"{name}.{suffix}").stat().st_size > 50
            assert f'href="figures/{name}.{suffix}"' in page


def test_rows_are_escaped(made) -> None:
    page = (made / "report.html").read_text(encoding="utf-8")
    assert "<user>" not in page and "&lt;user&gt;" in page  # the tiny tokenizer's marks


def test_captions_say_what_was_measured(made) -> None:
    record = json.loads((made / "records" / "curvature.json").read_text())
    table = pd.read_csv(made / "figures" / "curvature.csv")
    hessian = table[table.quantity == "tr H"].value
    assert record["result"]["means"]["tr H"]["value"] == pytest.approx(hessian.mean())
    assert record["settings"]["examples"] == sections.QUICK.examples
    page = (made / "report.html").read_text(encoding="utf-8")
    assert page.count("95 % intervals for rows like these") >= 4
    noise = pd.read_csv(made / "figures" / "noise.csv").set_index("alpha")
    assert noise.value[10.0] == pytest.approx(10 * noise.value[1.0])


def test_a_rerun_measures_only_what_is_missing_and_draws_the_same(monkeypatch, home, made) -> None:
    page = (made / "report.html").read_bytes()
    (made / "records" / "noise.json").write_text("{")  # half a record, from a disk that was full
    calls = []

    def counted(name: str):
        def measure(*arguments):
            calls.append(name)
            return sections.SECTIONS[name](*arguments)

        return measure

    monkeypatch.setattr(report, "SECTIONS", {name: counted(name) for name in sections.SECTIONS})
    assert call(monkeypatch, home, "--quick", "--output", made) == 0
    assert calls == ["noise"]
    seconds = json.loads((made / "records" / "noise.json").read_text())["result"]["cost"]["seconds"]
    assert seconds >= 0 and len((made / "report.html").read_bytes()) == pytest.approx(len(page), abs=20)


@pytest.mark.parametrize("other", [["--quick", "--seed", 1], []])
def test_a_folder_with_other_settings_is_refused(monkeypatch, home, made, capsys, other) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert call(monkeypatch, home, *other, "--output", made) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "other settings" in said and ("seed (0)" in said or "probes (16)" in said)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_other_rows_of_the_same_name_are_refused(monkeypatch, home, made, capsys) -> None:
    rows = json.loads((home / "rows.json").read_text())
    (home / "rows.json").write_text(json.dumps(rows[::-1]))
    try:
        assert call(monkeypatch, home, "--quick", "--output", made) == 2
    finally:
        (home / "rows.json").write_text(json.dumps(rows))
    assert "other rows: rows" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(monkeypatch, home, tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    assert call(monkeypatch, home, "--quick", "--output", tmp_path / "file") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("option", ["--data", "--model"])
def test_a_report_that_cannot_begin_leaves_nothing(monkeypatch, home, tmp_path, capsys, option) -> None:
    assert call(monkeypatch, home, "--quick", option, "no/such.jsonl", "--output", tmp_path / "new" / "out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("symnoise: ") and not list(tmp_path.iterdir())


def test_a_percentage_without_a_width_is_called_exact() -> None:
    from symnoise.cli.report.figures import _percent

    assert _percent({"value": 0.092, "low": 0.08, "high": 0.104}) == "9.2 % (8.0 % to 10.4 %)"
    assert _percent({"value": 0.014, "low": 0.014, "high": 0.014}) == "1.400 % (exact)"


def test_signal_to_noise_needs_no_passes_of_its_own(made) -> None:
    """It is measured with the range of validity, and the caption has the numbers of the table."""
    assert not (made / "records" / "signal.json").exists()
    table = pd.read_csv(made / "figures" / "signal.csv").set_index(["quantity", "alpha"])
    ratio = table.loc[("ratio", 5.0)]
    assert 0 < ratio.low < ratio.value < ratio.high
    assert ratio.value == pytest.approx(table.value["cancelled", 5.0] / table.value["kept", 5.0], rel=0.5)
    page = (made / "report.html").read_text(encoding="utf-8")
    (said,) = re.findall(r"cancels of a draw’s change in loss is ([^ ]+) \(", page)
    assert float(said) == pytest.approx(ratio.value, rel=0.1)


def test_where_the_two_parts_are_equal_is_found_between_the_measured_alphas() -> None:
    from symnoise.cli.report.figures import _equal

    falling = pd.DataFrame({"alpha": [1.0, 4.0, 16.0], "value": [8.0, 2.0, 0.5]})
    assert _equal(falling) == pytest.approx(8.0)
    assert pd.isna(_equal(falling[:2]))


def test_the_title_is_no_path(made) -> None:
    assert "<h1>Embedding noise and model</h1>" in (made / "report.html").read_text(encoding="utf-8")
