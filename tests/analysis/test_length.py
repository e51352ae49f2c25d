"""Z1's verdicts, table, figure and sentence from made-up gains."""

import json
from pathlib import Path

import pytest

from analysis import length
from analysis.findings import _length
from analysis.paper.published import Length, _csv

LEFT_BY = {"raw": 0.4, "like length": 0.05, "difference": 0.3, "strata": 0.1, "two fits": 0.02}
LEFT_BY |= {"all generators": 0.19, "own slopes": 0.21}


def record(control: dict[str, float] | None = None) -> dict:
    """A pair and a control whose gain of 0.6 every adjustment keeps to 0.5, but for those of `control`."""
    kept = dict.fromkeys(LEFT_BY, 0.5) | {"raw": 0.6} | (control or {})
    made = []
    for role, noisy, found in (("pair", "noisy", LEFT_BY), ("control", "better", kept)):
        for name, gain in found.items():
            facts = {"role": role, "plain": "plain", "noisy": noisy, "n": 800, "used": 800, "adjustment": name}
            facts |= {"gain": gain, "stderr": 0.01, "left": gain - 0.5 * found["raw"], "left_stderr": 0.01}
            made.append(facts | {"characters_plain": 400.0, "characters_noisy": 1000.0})
    return {"plan": {"share": 0.5, "bootstrap": {"seed": 0}}, "gains": made}


def verdicts(made: dict) -> dict[str, str]:
    return {row.key.rpartition(".")[2]: row.verdict for row in length.ledger(made)}


def test_verdicts_come_from_what_is_left_of_the_gain() -> None:
    assert verdicts(record()) == {
        "like-length": "holds",
        "difference": "fails",
        "strata": "holds",
        "two-fits": "holds",
        "all-generators": "undecided",  # 0.01 below half, with a standard error as large
        "own-slopes": "undecided",
    }


def test_an_adjustment_that_takes_a_better_models_gain_decides_nothing() -> None:
    made = record({"strata": 0.29})  # of 0.6: less than half
    assert verdicts(made)["strata"] == "undecided" and verdicts(made)["two-fits"] == "holds"
    (row,) = (row for row in length.ledger(made) if row.key.endswith("strata"))
    assert "blind: it takes the gain better − plain" in row.quantity


def test_a_gain_that_is_kept_but_not_shown_to_be_is_marked_and_judged() -> None:
    made = record({"strata": 0.31})
    assert verdicts(made)["strata"] == "holds"
    table = length.gains(made).set_index(["noisy", "adjustment"])
    assert table.loc[("noisy", "strata"), ["blind", "unsure"]].tolist() == ["", "better − plain"]
    assert table.loc[("noisy", "two fits"), ["blind", "unsure"]].tolist() == ["", ""]
    head, lines = length.side_by_side(length.gains(made))
    assert head[1:] == ["noisy − plain", "better − plain (control)"]
    assert [line[0] for line in lines if line[0].endswith("*")] == ["strata of length *"]


def test_what_is_written_and_said(tmp_path: Path) -> None:
    (tmp_path / "gains.json").write_text(json.dumps(record()))
    length.write(tmp_path)
    rows = json.loads((tmp_path / "ledger.json").read_text())
    assert len(rows) == 6
    gains = _csv(tmp_path / "tables" / "gains.csv", "")
    own = gains[(gains.noisy == "noisy") & (gains.adjustment == "strata")].iloc[0]
    assert (own["mean"], own.low, own.high) == pytest.approx((10, 10 - 1.96, 10 + 1.96), abs=1e-3)
    said = _length(Length(rows, gains)).whole
    assert "noisy gains 40.0 points over plain with replies 2.5 times as long; at equal length it is 2.0 " in said
    assert "by 3 of 6 adjustments at most half of the gain is left, by 1 more than half, 2 do not decide." in said
    assert "noisy minus plain: 40.0 (38.0 to 42.0) points as published" in said
    assert "2.0 (0.04 to 4.0) (length control, each model alone) to 30.0 (28.0 to 32.0) (line through" in said
    drawn = length.draw(length.gains(record()))
    assert [ax.get_xlabel() for ax in drawn.axes] == ["gain, points"] * 2
    assert (tmp_path / "figures" / "length.pdf").stat().st_size > 1000
