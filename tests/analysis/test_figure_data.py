"""What figures draw: the data of published pages again, and the numbers of made-up records by hand."""

import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.figures import curvature as curvature_of_a_run
from analysis.figures import moments, norms, training
from analysis.findings import _or_small
from analysis.study import report
from analysis.study.claims import outcome_ledger
from analysis.study.contrasts import LEVEL
from analysis.study.data import read_study
from analysis.study.dials import slopes
from analysis.study.figures import FIGURES, association, curvature, curves, growth
from analysis.study.pairs import interval
from symnoise.core import student_t
from symnoise.theory.ledger import slug
from tests.analysis.made_up_study import COMMON, study, write_study

ROOT = Path(__file__).parents[2]
DRAWN = sorted(
    path for name in ("dials", "micro", "transfer") for path in (ROOT / "results" / name).glob("figures/*.csv")
)


@pytest.mark.parametrize("path", DRAWN, ids=[f"{path.parents[1].name}-{path.stem}" for path in DRAWN])
def test_a_published_figure_is_of_the_published_tables(path: Path) -> None:
    folder = path.parents[1]
    contrasts = pd.read_csv(folder / "tables" / "contrasts.csv").fillna({"decoding": ""})
    made = FIGURES[path.stem].frame(read_study(folder), contrasts)
    found, wanted = pd.read_csv(io.StringIO(made.to_csv(index=False))), pd.read_csv(path)
    assert list(found) == list(wanted) and len(found) == len(wanted)
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False, rtol=1e-6, atol=1e-9)


PLANTED = {"symnoise": -0.12}


def test_curves_are_of_an_arm_minus_the_reference_by_seed(tmp_path) -> None:
    made = study(tmp_path / "s", arms=("none", "symnoise"), loss=PLANTED, sd=0.004, alphas=(5.0,))
    data = curves.frame(made, pd.DataFrame()).set_index("step")
    assert data.value[80] == pytest.approx(-0.12, abs=0.01) and data.value[0] == 0
    assert data.value[40] == pytest.approx(-0.06, abs=0.01)
    ends = made.curves[(made.curves.quantity == "held-out loss") & (made.curves.step == 80)].set_index("run").value
    by_seed = {arm: ends[own.run].to_numpy() for arm, own in made.runs.sort_values("seed").groupby("arm")}
    wanted = interval(by_seed["symnoise"] - by_seed["none"], 0.95, "curves", "symnoise", 5.0, 80.0)
    assert (data.low[80], data.high[80]) == pytest.approx((wanted.low, wanted.high), rel=1e-6)
    assert LEVEL == 0.95


def test_a_diverged_run_is_in_no_mean_of_a_figure_or_a_table(tmp_path) -> None:
    made = study(tmp_path / "s", arms=("none", "symnoise"), diverged=(("symnoise", 3),), alphas=(5.0,))
    for module, quantity in ((growth, "used-row norm"), (curvature, "tr H")):
        data = module.frame(made, pd.DataFrame())
        own = data[(data.arm == "symnoise") & (data.quantity == quantity)]
        assert set(own.seeds) == {9}
        assert set(data[(data.arm == "none") & (data.quantity == quantity)].seeds) == {10}
    grown = growth.frame(made, pd.DataFrame())
    end = grown[(grown.step == 80) & (grown.quantity == "used-row norm")]
    assert end.value.to_numpy() == pytest.approx([1e-3] * 2, abs=5e-5)  # relative to the start
    table = report.arms(made)
    own = table[(table.arm == "symnoise") & (table.measure == "used-row norm growth")]
    assert set(own.n) == {9} and set(own.diverged) == {1} and set(own.runs) == {10}
    assert own["mean"].to_numpy() == pytest.approx(1e-3, abs=5e-5)


def test_a_diverged_run_leaves_the_equivalence_of_its_arm_undecided(tmp_path) -> None:
    made = study(tmp_path / "s", diverged=(("rademacher", 3),), alphas=(10.0,))
    rows = [made_row for made_row in outcome_ledger(made, slopes(made)) if made_row.id == "O3"]
    said = {(row.quantity, row.verdict) for row in rows if "rademacher" in row.quantity}
    assert said and all("a run diverged" in quantity and verdict == "undecided" for quantity, verdict in said)
    assert not any("a run diverged" in row.quantity for row in rows if "rademacher" not in row.quantity)


def test_points_of_curvature_and_outcome_have_o2_s_correlation_and_no_penalty(tmp_path) -> None:
    draws = np.random.default_rng(0)
    shifts, bends = ({arm: size * draws.normal() for arm in COMMON} for size in (0.05, 6.0))
    bends["penalty"] = -200.0
    made = study(tmp_path / "s", loss=shifts, curvature=bends)
    data = association.frame(made, pd.DataFrame())
    assert "penalty" not in set(data.arm) and "none" in set(data.arm)
    rows = [row for row in outcome_ledger(made, slopes(made)) if row.id == "O2"]
    for (quantity, _), part in data.groupby(["quantity", "outcome"]):
        own = [row.measured for row in rows if row.key.startswith(f"O2.between-settings.{slug(str(quantity))}.")]
        assert math.isfinite(part.rho.iloc[0]) and any(part.rho.iloc[0] == pytest.approx(value) for value in own)


def test_a_difference_is_small_if_its_whole_interval_is() -> None:
    assert _or_small({"low": -1e-4, "high": 0.5, "margin": 0.002}) == "no clear difference"
    assert _or_small({"low": -0.5, "high": 1e-4, "margin": 0.002}) == "no clear difference"
    assert _or_small({"low": -1e-4, "high": 1.9e-3, "margin": 0.002}) == "within 0.002 nats"


def test_hours_are_of_all_runs(tmp_path, monkeypatch) -> None:
    folder = write_study(tmp_path / "s", arms=("none", "uniform"), seeds=3, alphas=(5.0,))
    runs = pd.read_parquet(folder / "runs.parquet").assign(seconds=3600.0)
    runs.to_parquet(folder / "runs.parquet", index=False)
    written: dict[str, object] = {}
    monkeypatch.setattr(report, "write_page", lambda path, template, **given: written.update(given))
    monkeypatch.setattr(report, "drawings", lambda *_: [])
    report.write_study(folder)
    assert written["hours"] == 6


def test_the_growth_of_norms_over_its_prediction_has_the_error_of_the_ratio() -> None:
    table = pd.DataFrame({"law": ["uniform"], "example": [0], "clean": [10.0], "predicted": [12.0]})
    (row,) = norms.frame({"norms": table.assign(measured=13.0, stderr=1.0)}).to_dict("records")
    half = student_t(0.999, math.inf) / 2
    assert (row["ratio"], row["low"], row["high"]) == pytest.approx((1.5, 1.5 - half, 1.5 + half))


def test_a_mean_over_examples_has_the_error_of_a_mean() -> None:
    curves_ = pd.DataFrame({"arm": ["none"] * 2, "step": [0, 4], "held_out_loss": [3.0, 2.0]})
    curves_["used_row_norm"] = [2.0, 3.0]
    points = pd.DataFrame({"arm": "none", "when": "end", "quantity": "tr H", "value": [1.0, 3.0]})
    points = points.assign(stderr=[3.0, 4.0], dof=7.0)
    data = training.frame({"curves": curves_, "curvature by arm": points})
    assert data[data.quantity == "norm growth"].value.tolist() == [0, 0.5]
    (mean,) = data[data.quantity == "tr H"].to_dict("records")
    dof = 25**2 / ((81 + 256) / 7)
    assert (mean["value"], mean["stderr"], mean["dof"]) == pytest.approx((2, 2.5, dof))
    assert mean["high"] - mean["value"] == pytest.approx(2.5 * student_t(0.95, dof))


def test_moments_are_drawn_with_half_their_interval_on_either_side() -> None:
    made = pd.DataFrame({"law": ["uniform"], "quantity": ["mean norm"], "predicted": [1.0], "measured": [1.1]})
    draws = pd.DataFrame({"law": "uniform", "square_norm": np.linspace(1, 2, 50)})
    data = moments.frame({"moments": made.assign(half=0.1), "square_norms": draws})
    (row,) = data[data.quantity == "mean norm"].to_dict("records")
    assert (row["low"], row["high"]) == pytest.approx((1.0, 1.2))


def test_bars_of_curvature_are_of_95_percent() -> None:
    table = pd.DataFrame({"example": [0], "quantity": ["tr H"], "value": [5.0], "stderr": [2.0], "dof": [9.0]})
    (row,) = curvature_of_a_run.frame({"curvature": table}).to_dict("records")
    assert row["high"] - 5 == pytest.approx(2 * 2.262157, rel=1e-6) == 5 - row["low"]
