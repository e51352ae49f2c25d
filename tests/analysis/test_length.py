"""Z1's verdicts, table, figure and sentence from made-up gains."""

import json
from pathlib import Path

import pytest

from analysis import length
from analysis.findings import _length
from analysis.paper.published import _csv

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
    for kept in (0.1, 0.31):  # taken away; or kept, but not demonstrably more than half of it
        made = record({"strata": kept})
        assert verdicts(made)["strata"] == "undecided" and verdicts(made)["two-fits"] == "holds"
        (row,) = (row for row in length.ledger(made) if row.key.endswith("strata"))
        assert "blind: not shown to keep the gain better − plain" in row.quantity


def test_what_is_written_and_said(tmp_path: Path) -> None:
    (tmp_path / "gains.json").write_text(json.dumps(record({"two fits": 0.1})))
    length.write(tmp_path)
    assert len(json.loads((tmp_path / "ledger.json").read_text())) == 6
    gains = _csv(tmp_path / "tables" / "gains.csv", "")
    own = gains[(gains.noisy == "noisy") & (gains.adjustment == "strata")].iloc[0]
    assert (own["mean"], own.low, own.high) == pytest.approx((10, 10 - 1.96, 10 + 1.96), abs=1e-3)
    said = _length(gains)  # two fits, the least, is blind
    assert "40.0 (38.0 to 42.0) points, with replies 2.5 times as long" in said and "by the 5 of 6 adjustments" in said
    assert "5.0 (3.0 to 7.0) (replies of like length) to 30.0 (28.0 to 32.0) (line through differences)" in said
    drawn = length.draw(length.gains(record()))
    assert [ax.get_xlabel() for ax in drawn.axes] == ["gain, points"] * 2
    assert (tmp_path / "figures" / "length.pdf").stat().st_size > 1000


def test_where_every_adjustment_is_blind_nothing_is_claimed(tmp_path: Path) -> None:
    (tmp_path / "gains.json").write_text(json.dumps(record({name: 0.1 for name in LEFT_BY if name != "raw"})))
    length.write(tmp_path)
    assert "so this is undecided" in _length(_csv(tmp_path / "tables" / "gains.csv", ""))
