"""Slopes of outcomes over the plane of dials: planted ones are found, and intervals cover as they say."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.study import report
from analysis.study.claims import outcome_ledger
from analysis.study.data import read_study
from analysis.study.dials import _fitted, slopes
from analysis.study.figures import dials as picture
from analysis.study.report import write_study as write_page
from result_schema.study import ARMS, dials_of
from tests.analysis.made_up_study import PRIMARY, study, write_study

CELLS = ("none", "symnoise", "dials-2-0", "dials-0-1", "dials-1-1", "dials-2-1", "dials-0-3", "dials-1-3")
PLACES = {arm: dials_of(arm) for arm in CELLS}


def planted(even: float, odd: float, bent: float = 0.0) -> dict[str, float]:
    return {arm: even * mu + odd * lam**2 + bent * (mu == 1) for arm, (mu, lam) in PLACES.items()}


def test_an_arm_is_a_cell_by_its_dials_and_not_by_its_name() -> None:
    assert dials_of("none") == (0, 0) and dials_of("symnoise") == (1, 0) and dials_of("dials-1-3") == (1, 3)
    assert dials_of("uniform") is None and dials_of("penalty") is None  # the penalty's α is not the study's
    assert ARMS["penalty"].dials == (100, 0)


def test_planted_slopes_are_found(tmp_path) -> None:
    made = slopes(study(tmp_path / "s", arms=CELLS, seeds=12, loss=planted(0.02, -0.003), sd=0.002, alphas=(5.0, 10.0)))
    end = made[(made.measure == "held-out loss") & (made.when == "end")].set_index("term")
    for term, truth in (("even", 0.02), ("odd²", -0.003)):
        assert end.low[term] < truth < end.high[term] and end.p[term] < 1e-6
    assert (end.seeds == 12).all() and (end.lack < 0.05).all()
    assert not made.primary.any()  # the study named contrasts


def test_what_no_cell_changes_has_slope_zero_and_no_p() -> None:
    """As the best loss along a run is where every run has it before the first step."""
    table = pd.DataFrame([[value] * len(CELLS) for value in (3.1, 2.7, 3.3)], columns=[PLACES[arm] for arm in CELLS])
    for row in _fitted(table):
        assert row["mean"] == row["low"] == row["high"] == 0 and np.isnan(row["p"])


def test_what_no_plane_describes_shows(tmp_path) -> None:
    made = slopes(study(tmp_path / "s", arms=CELLS, loss=planted(0.0, 0.0, bent=0.05), sd=0.002))
    assert made[(made.measure == "held-out loss") & (made.when == "end")].lack.min() > 0.2


def test_the_figure_has_each_cell_minus_no_noise(tmp_path) -> None:
    made = study(tmp_path / "s", arms=CELLS, seeds=12, loss=planted(0.02, -0.003), sd=1e-6, alphas=(5.0,))
    data = picture.frame(made, pd.DataFrame())
    assert set(data.measure) == {"held-out loss", "tr G"}  # no clean training loss was recorded
    for row in data[data.measure == "held-out loss"].to_dict("records"):
        assert row["mean"] == pytest.approx(0.02 * row["even"] - 0.003 * row["odd"] ** 2, abs=1e-5)
        assert row["low"] <= row["mean"] <= row["high"] and row["seeds"] == 12
        assert (row["slope_even_mean"], row["slope_odd_mean"]) == pytest.approx((0.02, -0.003), abs=1e-5)
    assert "held-out loss 0.02" in picture.caption(data)
    assert len(picture.draw(data).axes) == 4
    plain = study(tmp_path / "t", arms=("none", "uniform", "symnoise"))
    assert picture.frame(plain, pd.DataFrame()).empty


def test_primary_slopes_are_corrected_among_themselves(tmp_path, monkeypatch) -> None:
    folder = write_study(tmp_path / "s", arms=CELLS, loss=planted(0.02, 0.0))
    facts = json.loads((folder / "study.json").read_text())
    facts["primary"] = {"contrasts": [], "outcomes": PRIMARY["outcomes"], "slopes": True}
    (folder / "study.json").write_text(json.dumps(facts))
    made = slopes(read_study(folder))
    first = made[made.primary].set_index("term")
    assert set(first.index) == {"even", "odd²"} and first.holm["even"] == pytest.approx(2 * first.p["even"])
    assert made[~made.primary].holm.isna().all()
    monkeypatch.setattr(report, "drawings", lambda *_: [])  # what is asked is in the tables
    write_page(folder)
    assert "even" in set(pd.read_csv(folder / "tables" / "dials.csv").term)


@pytest.mark.parametrize(
    ("even", "odd", "verdicts"),
    [
        (-0.02, 0.0, {"even": "holds", "odd": "holds"}),
        (-0.02, 0.01, {"even": "holds", "odd": "fails"}),
        (0.02, 0.01, {"even": "fails", "odd": "fails"}),
        (0.0, 0.002 / 9, {"even": "undecided", "odd": "undecided"}),  # on the margin itself: λ² goes from 0 to 9
        (
            0.0,
            0.0015,
            {"even": "undecided", "odd": "fails"},
        ),  # below the margin per unit, seven times it over the cells
    ],
)
def test_d1_follows_what_is_planted(tmp_path, even: float, odd: float, verdicts: dict[str, str]) -> None:
    folder = write_study(tmp_path / "s", arms=CELLS, seeds=12, loss=planted(even, odd), sd=0.002)
    facts = json.loads((folder / "study.json").read_text())
    facts["primary"] = {"contrasts": [], "outcomes": {"held-out loss": 0.002}, "slopes": True}
    (folder / "study.json").write_text(json.dumps(facts))
    made = [row for row in outcome_ledger(read_study(folder)) if row.id == "D1"]
    assert {row.key.split(".")[-1]: row.verdict for row in made} == verdicts
    assert all(row.kind == "prediction" and row.n == 12 for row in made)


def test_d1_is_undecided_where_a_cell_diverged(tmp_path) -> None:
    """The weights may be what made it diverge, and the seeds that are left would not show it."""
    lost = tuple(("dials-0-3", seed) for seed in range(6))
    folder = write_study(tmp_path / "s", arms=CELLS, seeds=12, loss=planted(-0.02, 0.0), sd=0.002, diverged=lost)
    facts = json.loads((folder / "study.json").read_text())
    facts["primary"] = {"contrasts": [], "outcomes": {"held-out loss": 0.002}, "slopes": True}
    (folder / "study.json").write_text(json.dumps(facts))
    made = [row for row in outcome_ledger(read_study(folder)) if row.id == "D1"]
    assert {row.verdict for row in made} == {"undecided"} and len(made) == 2
    assert all("6 seeds left out, a cell diverged" in row.quantity for row in made)


def test_a_study_without_dials_has_no_slopes(tmp_path) -> None:
    assert slopes(study(tmp_path / "s", arms=("none", "uniform", "symnoise"))).empty
    assert slopes(study(tmp_path / "t", arms=("none", "dials-0-1", "dials-0-3"))).empty  # no two values of μ
    assert slopes(study(tmp_path / "u", arms=("uniform", "gaussian"))).empty


def test_intervals_of_slopes_cover() -> None:
    """2,000 studies of 12 seeds: 95 % ± 4 standard errors of that count; each seed has a level of its own."""
    draws, inside = np.random.default_rng(3), 0
    truth = np.array([planted(0.01, 0.002)[arm] for arm in CELLS])
    for _ in range(2_000):
        values = truth + draws.normal(0, 0.1, (12, 1)) + draws.normal(0, 0.01, (12, len(CELLS)))
        row = _fitted(pd.DataFrame(values, columns=[PLACES[arm] for arm in CELLS]))[0]
        inside += row["low"] < 0.01 < row["high"]
    assert abs(inside / 2_000 - 0.95) < 4 * (0.95 * 0.05 / 2_000) ** 0.5
