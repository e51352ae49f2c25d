"""Ledgers of several models side by side: what is published of a run, and what the section says of the verdicts."""

import json
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from analysis.family_ledgers import FOLDER, publish, section, slopes
from analysis.findings import slopes_by_model
from result_schema.files import ROOT
from symnoise.core import InputError
from symnoise.plot.numbers import number

QUICK = json.loads((ROOT / "docs" / "quick" / "ledger.json").read_text("utf-8"))
PUBLISHED = ROOT / "results" / "families"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A quick run on another model, with the published rows on SmolLM2."""
    stages = tmp_path / "run" / "stages"
    stages.mkdir(parents=True)
    settings = {"model": "/home/someone/models/Other-1b", "text": {"examples": 6}, "range": {"examples": 7}}
    facts = {"python": "3", "versions": {}, "commit": "abc", "platform": "Linux", "seconds": 1.0}
    for name, rows in (("moments", QUICK[:3]), ("validity", QUICK)):
        record = {"stage": name, "settings": settings, "result": {"rows": rows}, **facts}
        (stages / f"{name}.json").write_text(json.dumps(record))
    return tmp_path / "run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "families").mkdir()
    for name, size, unit in (("smollm2", 1, 0.02), ("some/Other-1b", 2, 0.003)):
        points = [{"quantity": "r", "alpha": alpha, "value": alpha * unit} for alpha in (1.0, 5.0, 10.0, 15.0)]
        record = {"model": name, "parameters": size, "points": points}
        (tmp_path / "families" / f"{name.split('/')[-1].lower()}.json").write_text(json.dumps(record))
    return tmp_path / "families"


def test_the_rows_on_the_model_are_published_without_where_it_lay(run, folder) -> None:
    path = publish(run, folder)
    assert path == folder / FOLDER / "other-1b.json" and "/home" not in path.read_text()
    made = json.loads(path.read_text())
    assert made["sizes"] == {"text": {"examples": 6}, "range": {"examples": 7}} and made["commits"] == ["abc"]
    assert made["rows"] == [row for row in QUICK if row["subject"] == "model"]


def test_a_run_of_an_unknown_model_or_without_rows_is_refused(run, folder, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no record of other-1b: run `python -m experiments\.families` on it"):
        publish(run, tmp_path / "empty")
    (run / "stages" / "validity.json").unlink()
    with pytest.raises(InputError, match="has no rows on a model"):
        publish(run, folder)


def test_verdicts_are_compared_row_by_row(run, folder) -> None:
    assert section(folder) == ""
    path = publish(run, folder)
    made = json.loads(path.read_text())
    own = [row for row in made["rows"] if "second-text" not in row["key"]]
    by_key = {row["key"]: row for row in own}
    made["rows"] = own
    path.write_text(json.dumps(made))
    same = section(folder)
    assert f"Of {len(own)} rows, {len(own)} have the same verdict on every model, and none holds" in same
    assert "of 48 examples in the main\nrun and of 7 in the others" in same
    by_key["N1.growth.uniform"] |= {"verdict": "fails", "measured": 2.0, "low": 1.9, "high": 2.1}
    by_key["V1.slope.alpha=5"]["verdict"] = "holds"  # undecided before: other, but no contradiction
    by_key["L1.first-layer"]["prediction"] = 2.5
    path.write_text(json.dumps(made))
    said = section(folder)
    assert f"Of {len(own)} rows, {len(own) - 2} have the same verdict" in said
    assert "; N1 has rows that hold on one and fail on another." in said
    (growth,) = (line for line in said.splitlines() if "‖X‖²)/E‖ε‖², uniform" in line)
    assert growth.endswith("| ✓ 1.0009 (0.9954 to 1.0064) | ✗ 2.00 (1.90 to 2.10) |")
    assert "| 2.990 ± 0.747 or 2.500 ± 0.747 |" in said


def test_findings_have_slopes_and_r_of_the_other_models(run, folder) -> None:
    assert slopes(folder) == slopes(folder / "none") == [] and slopes_by_model([]) == {}
    publish(run, folder)
    others = "0.89, 0.69, 0.52 in some/Other-1b, where r is 0.015, 0.030, 0.045"
    assert slopes_by_model(slopes(folder)) == {"smollm2": "0.10, 0.20, 0.30", "others": others}


def test_slopes_are_put_in_the_order_of_r(run, folder) -> None:
    path = publish(run, folder)
    made = json.loads(path.read_text())
    for row in made["rows"]:
        if row["key"] == "V1.slope.these.alpha=5":
            row |= {"measured": 0.99, "low": 0.97, "high": 1.01, "verdict": "holds"}
    path.write_text(json.dumps(made))
    said = section(folder)
    own = said[said.index("## V1 in the order of r") : said.index("## The ledger")].splitlines()
    assert [line.split(" | ")[:3] for line in own if "✓" in line or "✗" in line or "? " in line] == [
        ["| 0.015", "some/Other-1b", "5"],
        ["| 0.030", "some/Other-1b", "10"],
        ["| 0.045", "some/Other-1b", "15"],
        ["| 0.10", "smollm2", "5"],
        ["| 0.20", "smollm2", "10"],
        ["| 0.30", "smollm2", "15"],
    ]
    assert "| 0.015 | some/Other-1b | 5 | ✓ 0.990 (0.970 to 1.010) |" in said
    r, slopes = [0.015, 0.03, 0.045, 0.1, 0.2, 0.3], [0.99, 0.69, 0.52, 0.89, 0.69, 0.52]
    assert (
        "Over these 6 points, of which those of one model depend on each other, the rank correlation of the two is "
        f"{number(spearmanr(r, slopes).statistic, 2)}." in said
    )


def test_the_published_ledgers_are_of_published_models() -> None:
    for path in (PUBLISHED / FOLDER).glob("*.json"):
        assert (PUBLISHED / path.name).is_file()
        found = json.loads(path.read_text("utf-8"))
        assert {row["subject"] for row in found["rows"]} == {"model"} and {
            len(commit) for commit in found["commits"]
        } == {40}
