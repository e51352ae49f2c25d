"""The study's ledger, contrasts and page, from made-up runs whose effects are known."""

import itertools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import style
from analysis.study import claims, report
from analysis.study.claims import outcome_ledger, share_of_noise
from analysis.study.contrasts import arms_of, contrasts
from analysis.study.costs import costs
from analysis.study.data import like_batches, notices, read_study
from analysis.study.figures import FIGURES, curves, forest
from analysis.study.precision import precision
from analysis.study.report import write_study
from result_schema.files import ROOT
from result_schema.measures import SPLIT, improvement
from symnoise.core import InputError
from symnoise.plot.numbers import number
from tests.analysis.made_up_study import study
from tests.analysis.made_up_study import write_study as write_files

LAWS = ("none", "uniform", "gaussian", "gaussian-raw", "rademacher")
FEW = (*LAWS, "independent-pair", "symnoise", "symnoise-half-batch")
LOSS = dict.fromkeys(("uniform", "gaussian", "rademacher", "independent-pair"), -0.06)
LOSS |= {"gaussian-raw": -0.2, "symnoise": -0.12, "symnoise-half-batch": -0.09}
BEND = {"symnoise": -8.0}


def verdicts(found, id: str, *words: str) -> set[str]:
    return {row.verdict for row in found if row.id == id and all(word in row.quantity for word in words)}


def test_planted_effects_are_found(tmp_path) -> None:
    made = outcome_ledger(study(tmp_path, arms=FEW, loss=LOSS, curvature=BEND, alphas=(10.0,)))
    assert list(dict.fromkeys(row.id for row in made)) == ["O1", "O2", "O3", "O4"]
    assert verdicts(made, "O1") == {"holds"}
    assert verdicts(made, "O3", "held-out loss") == {"holds"}
    assert verdicts(made, "O3", "tr G") == {"undecided"}  # noise does nothing to it, so a share of that says nothing
    assert verdicts(made, "O4") == {"holds"}
    assert {row.n for row in made if row.id != "O2"} == {10}


@pytest.mark.parametrize(
    ("ending", "noise", "mirror"),
    [
        ({"uniform": -1.0, "independent-pair": -1.0, "symnoise": -1.0}, "holds", "holds"),
        ({"uniform": 1.0, "independent-pair": 1.0, "symnoise": 1.2}, "fails", "fails"),
        ({"independent-pair": 0.1}, "undecided", "undecided"),
    ],
)
def test_e1_follows_what_is_planted(tmp_path, ending: dict[str, float], noise: str, mirror: str) -> None:
    made = outcome_ledger(study(tmp_path, arms=FEW, ending=ending, alphas=(10.0,)))
    assert verdicts(made, "E1", "− none") == {noise}
    assert verdicts(made, "E1", "symnoise − independent-pair") == {mirror}
    assert [row.relation for row in made if row.id == "E1"] == ["at most", "at most", "within"]


def test_what_is_left_of_diverged_runs_is_not_equivalent(tmp_path) -> None:
    lost = (("independent-pair", 3),)
    made = outcome_ledger(study(tmp_path, arms=FEW, ending={}, diverged=lost, alphas=(10.0,)))
    assert verdicts(made, "E1", "symnoise − independent-pair") == {"undecided"}


def test_absent_effects_are_not_found(tmp_path) -> None:
    made = outcome_ledger(study(tmp_path, arms=FEW, alphas=(10.0,)))
    # 6 rows of O1 and 8 of O4 at 99.9 %: one of them holds or fails by chance in 70 seeds, and this one is fixed.
    assert verdicts(made, "O1") == {"undecided"}
    assert verdicts(made, "O4") == {"undecided"}


def test_turned_effects_fail(tmp_path) -> None:
    away = {arm: -shift for arm, shift in LOSS.items()} | {"gaussian": 0.2, "gaussian-raw": 0.6}
    made = outcome_ledger(study(tmp_path, arms=FEW, loss=away, curvature={"symnoise": 8.0}, alphas=(10.0,)))
    assert verdicts(made, "O1") == verdicts(made, "O4") == {"fails"}
    assert verdicts(made, "O3", "held-out loss", "(gaussian − uniform)") == {"fails"}
    assert verdicts(made, "O3", "held-out loss", "(rademacher − uniform)") == {"holds"}


def test_a_margin_that_would_call_noise_equal_to_none_decides_nothing(tmp_path) -> None:
    """The old rule, a fixed margin of 0.02 nats, certified laws where it would have certified no noise too."""
    idle = study(tmp_path / "idle", arms=LAWS, alphas=(10.0,))  # noise does nothing, nor do laws differ
    assert verdicts(outcome_ledger(idle), "O3") == {"undecided"}
    assert verdicts(outcome_ledger(idle), "O3", "positive control none − uniform is not outside")
    loss = {"uniform": -0.2, "gaussian": -0.2, "rademacher": -0.2, "gaussian-raw": -0.4}
    made = outcome_ledger(study(tmp_path / "works", arms=LAWS, loss=loss, alphas=(10.0,)))
    assert verdicts(made, "O3", "held-out loss") == {"holds"}
    # The share's own denominator is no control.
    alone = outcome_ledger(study(tmp_path / "alone", arms=("none", "uniform", "gaussian"), loss=loss, alphas=(10.0,)))
    assert verdicts(alone, "O3", "held-out loss", "no positive control was run but none − uniform") == {"undecided"}
    # A control that is as good as its law takes the verdict away, though nothing of the laws has changed.
    same = outcome_ledger(study(tmp_path / "same", arms=LAWS, loss=loss | {"gaussian-raw": -0.2}, alphas=(10.0,)))
    assert verdicts(same, "O3", "held-out loss", "control gaussian-raw − gaussian is not outside") == {"undecided"}
    # Differences of a third of what noise does are no equivalence, however clear they are.
    third = outcome_ledger(study(tmp_path / "third", arms=LAWS, loss=loss | {"rademacher": -0.27}, alphas=(10.0,)))
    assert verdicts(third, "O3", "held-out loss", "(rademacher − uniform)") == {"fails"}


def test_the_share_of_noise_holds_its_level(tmp_path) -> None:
    """Fieller's interval of (gaussian − uniform)/|uniform − none| over ten seeds, the uniform arm in both."""
    draws, times, inside = np.random.default_rng(3), 400, 0
    names = ("none", "uniform", "gaussian")
    runs = pd.DataFrame([(f"{a}{s}", a, 10.0, s, "done") for a in names for s in range(10)],
                        columns=["run", "arm", "alpha", "seed", "status"])  # fmt: skip
    arms = arms_of(runs)
    mean = np.repeat([0.0, -0.1, -0.12], 10)
    for _ in range(times):
        values = dict(zip(runs.run, mean + 0.03 * draws.normal(size=30), strict=True))
        found, seeds = share_of_noise(arms, values, "gaussian", "uniform", 10.0, 0.95)
        inside += found.low <= -0.2 <= found.high
        assert seeds == 10
    assert abs(inside / times - 0.95) <= 4 * (0.95 * 0.05 / times) ** 0.5


def test_a_diverged_run_is_counted_and_never_flatters(tmp_path) -> None:
    lost = study(tmp_path, arms=FEW, loss=LOSS, curvature=BEND, alphas=(10.0,), diverged=(("symnoise", 2),))
    made = outcome_ledger(lost)
    said = "1 of 10 pairs left out, a run diverged"
    assert verdicts(made, "O4", "held-out loss, end: symnoise − uniform", said) == {"undecided"}
    assert verdicts(made, "O4", "held-out loss, end: uniform − none") == {"holds"}
    assert "1 of 80 runs left out" in next(row.quantity for row in made if row.id == "O2")
    assert notices(lost)[1:] == ["Diverged, counted and left out of means: micro-alpaca-symnoise-10-s2."]
    table = contrasts(lost)
    row = table[(table.measure == "held-out loss") & (table["first"] == "symnoise") & (table.second == "uniform")].iloc[
        0
    ]
    assert (row.pairs, row.diverged_first, row.diverged_second, row.better, row.worse) == (9, 1, 0, 9, 1)
    assert row.p == row.sign_p == pytest.approx(22 / 1024)
    # A rival that diverged takes nothing from the arm that did not.
    other = outcome_ledger(study(tmp_path, arms=FEW, loss=LOSS, alphas=(10.0,), diverged=(("uniform", 2),)))
    assert verdicts(other, "O4", "held-out loss, end: symnoise − uniform", said) == {"holds"}


def test_a_rival_s_divergence_fails_no_arm(tmp_path) -> None:
    """SymNoise is a little worse where uniform noise did not diverge, which it did in half of the seeds."""
    half = tuple(("uniform", seed) for seed in range(0, 10, 2))
    raised = {"uniform": -0.1, "symnoise": -0.07}
    made = outcome_ledger(study(tmp_path, arms=FEW, loss=raised, alphas=(10.0,), diverged=half))
    assert verdicts(made, "O4", "held-out loss, end: symnoise − uniform") == {"undecided"}


@pytest.mark.parametrize(("arm", "verdict"), [("symnoise", "worse"), ("uniform", "better")])
def test_where_runs_diverge_their_number_decides_and_not_the_mean_of_the_rest(tmp_path, arm: str, verdict: str) -> None:
    """Nine of ten runs of one arm diverge, and in the tenth it is lower by far."""
    lost = tuple((arm, seed) for seed in range(1, 10))
    table = contrasts(study(tmp_path, arms=FEW, loss={arm: -1.0}, diverged=lost, alphas=(10.0,)))
    named = table[table.primary & (table["first"] == "symnoise") & (table.second == "uniform")]
    assert named.verdict.tolist() == [verdict]


def test_endpoints_not_yet_run_count_in_the_correction(tmp_path) -> None:
    lower = {"uniform": -0.1}
    made = (study(tmp_path / str(k), arms=arms, loss=lower) for k, arms in enumerate((FEW, ("none", "uniform"))))
    whole, part = map(contrasts, made)
    (one,) = part[part.primary].to_dict("records")
    assert one["holm"] == pytest.approx(2 * one["p"]) and len(whole[whole.primary]) == 2


def test_curves_have_no_arm_whose_steps_are_others(tmp_path) -> None:
    arms = ("none", "rademacher", "rademacher-rate-2")
    made = curves.frame(study(tmp_path, arms=arms), pd.DataFrame())
    assert set(made.arm) == {"rademacher"}


def test_primary_contrasts_are_paired_by_seed_and_corrected(tmp_path) -> None:
    made = study(tmp_path, arms=FEW, loss=LOSS, curvature=BEND)
    table = contrasts(made)
    assert set(table[table.primary].measure) == {"held-out loss"} and set(table[table.primary].when) == {"end"}
    loss = table[table.primary]
    assert len(loss) == 2 and set(loss.alpha) == {10.0} and set(loss.verdict) == {"better"}
    assert loss.holm.tolist() == pytest.approx([2 * 2 / 1024] * 2)  # two primary rows, whatever else is compared
    assert set(table[~table.primary].verdict) == {"exploratory"} and table[~table.primary].holm.isna().all()
    assert (loss.p == loss.floor).all()
    row = table[(table["first"] == "symnoise") & (table.second == "uniform") & (table.alpha == 5)]
    row = row[(row.measure == "held-out loss") & (row.when == "end")].iloc[0]
    assert row["mean"] == pytest.approx(-0.06, abs=4 * 0.004 / 10**0.5)
    assert row.low <= row["mean"] <= row.high < 0
    # The seeds differ by 0.05, which pairing must take out.
    assert row.sd < 0.01
    assert {"training loss", "length", "tr G", "tr R"} <= set(table.measure)


def test_neither_is_better_of_curvature(tmp_path) -> None:
    made = study(tmp_path, arms=FEW, loss=LOSS, curvature=BEND, alphas=(10.0,))
    facts = made.facts | {"primary": {"contrasts": [["symnoise", "uniform"]], "outcomes": {"tr H": 1, "tr R": 1}}}
    told = contrasts(replace(made, facts=facts)).query("primary").set_index("measure").verdict
    assert told.to_dict() == {"tr H": "lower", "tr R": "higher"}
    assert not any(improvement(part) for part in SPLIT)


def test_without_endpoints_named_before_the_runs_all_is_exploratory(tmp_path) -> None:
    made = study(tmp_path, arms=FEW, loss=LOSS, alphas=(10.0,))
    unnamed = replace(made, facts={k: v for k, v in made.facts.items() if k != "primary"})
    assert set(contrasts(unnamed).verdict) == {"exploratory"}
    assert (
        any("exploratory" in said for said in notices(unnamed)) and len(notices(made)) == 1
    )  # the made-up losses turn


def test_the_penalty_s_story_is_told(tmp_path) -> None:
    made = study(tmp_path, arms=("none", "penalty"), curvature={"penalty": -100.0}, loss={"penalty": 0.3})
    said = report.penalty_said(contrasts(made))
    assert "tr H by −99.9" in said and "tr G by −140" in said and "tr R by 40" in said and "nats" in said
    assert report.penalty_said(contrasts(study(tmp_path / "few", arms=FEW, alphas=(10.0,)))) == ""


def test_seeds_that_share_rows_are_said(tmp_path) -> None:
    made = study(tmp_path, arms=("none",))
    settings = {"training": {"rows": 1280, "pool": 1500}}
    _, said = notices(replace(made, facts=made.facts | {"settings": settings}))  # the first: where the loss turns
    assert "two seeds share 85 % of theirs" in said


def test_costs_are_paired_by_seed_and_leave_diverged_runs_out(tmp_path) -> None:
    runs = study(tmp_path, arms=("none", "symnoise"), alphas=(10.0,), seeds=3, diverged=(("symnoise", 2),)).runs
    none, pair = costs(runs).to_dict("records")
    assert (none["arm"], none["seconds"], none["ratio"]) == ("none", 61, 1)
    assert (pair["arm"], pair["seconds"], pair["ratio"]) == ("symnoise", 121, 2)  # of seeds 0 and 1
    assert pair["trace_share"] == pytest.approx((3 / 120 + 3 / 122) / 2)


def test_what_autocast_changed_is_said_where_it_was_measured(tmp_path) -> None:
    assert precision(tmp_path) == ""
    rows = [(0, 40, 2.0, 0.5), (0, 80, 1.5, 0.25), (1, 40, 2.0, 0.0), (1, 80, 1.75, -0.125)]
    table = pd.DataFrame(rows, columns=["seed", "step", "float32", "difference"])
    table.to_csv(tmp_path / "precision.csv")
    said = precision(tmp_path)
    assert "with 2 seeds: held-out loss at the end differs by 0.06250 on average, and by 0.5000 at most at any" in said
    assert said.endswith("between seeds it has a standard deviation of 0.1768.")
    table[table.seed == 0].to_csv(tmp_path / "precision.csv")
    assert "with 1 seed:" in precision(tmp_path) and "between seeds" not in precision(tmp_path)


def test_one_seed_has_no_interval_and_three_tell_nothing_apart(tmp_path) -> None:
    one = study(tmp_path / "one", arms=FEW, loss=LOSS, curvature=BEND, seeds=1, alphas=(10.0,))
    made = outcome_ledger(one)
    assert {row.verdict for row in made} == {"undecided"} and not any(
        math.isfinite(row.low) for row in made if row.id != "O2"
    )
    assert contrasts(one).method.unique().tolist() == ["none"]
    table = contrasts(study(tmp_path / "three", arms=FEW, loss=LOSS, seeds=3, alphas=(10.0,)))
    assert set(table[table.primary].verdict) == {"too few seeds"}  # the least p of three pairs is 1/4


def test_every_figure_is_drawn_with_its_caption(tmp_path) -> None:
    made = study(tmp_path, arms=("none", "uniform", "symnoise"), loss=LOSS, seeds=3, alphas=(10.0,))
    compared = contrasts(made)
    for module in (module for name, module in FIGURES.items() if name != "dials"):  # test_dial_slopes has that
        data = module.frame(made, compared)
        assert len(module.draw(data).axes) > 1 and len(module.caption(data)) > 80


def test_the_caption_of_curves_tells_of_two_costs_where_there_are_two(tmp_path) -> None:
    module = FIGURES["curves"]
    data = module.frame(study(tmp_path), pd.DataFrame())
    assert "three times, hence (b)" in module.caption(data)
    assert "(b)" not in module.caption(data[data.arm == "uniform"]) + module.caption(data[data.arm == "symnoise"])


def test_a_contrast_that_only_the_study_names_is_drawn(tmp_path) -> None:
    named = ("symnoise-rate-2", "rademacher-rate-2")
    made = study(tmp_path, arms=("none", *named), loss=LOSS, seeds=3, alphas=(10.0,))
    made = replace(made, facts=made.facts | {"primary": {"contrasts": [named], "outcomes": {"held-out loss": 0.002}}})
    data = FIGURES["forest"].frame(made, contrasts(made))
    assert set(data.family) == {"named"}
    labels = [label.get_text() for label in FIGURES["forest"].draw(data).axes[0].get_yticklabels()]
    assert labels[0] == "Named by the study" and labels[1].startswith("SymNoise, 2 × rate − ")


def test_the_page_is_whole_and_the_same_each_time(tmp_path, monkeypatch) -> None:
    few = {"forest": FIGURES["forest"]}  # saving a picture takes seconds
    monkeypatch.setattr(report, "FIGURES", few)
    folders = [tmp_path / side / "study" for side in ("a", "b")]
    for folder in folders:
        arms = ("none", "uniform", "rademacher")
        page = write_study(write_files(folder, arms=arms, loss=LOSS, seeds=6, alphas=(10.0,))).read_text("utf-8")
    files = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders]
    assert files[0] == files[1]
    names = {str(path) for path in files[0]}
    assert {"ledger.json", "ledger.csv", "study.html", "tables/contrasts.csv", "tables/power.csv"} <= names
    assert "tables/costs.csv" in names
    assert {f"figures/{n}.{kind}" for n in few for kind in ("pdf", "png", "csv")} <= names
    assert page.count("data:image/svg+xml;base64,") == 1 and "Not drawn" not in page
    assert 'src="http' not in page
    rows = json.loads((folders[0] / "ledger.json").read_text("utf-8"))
    assert {row["id"] for row in rows} == {"O2", "O3", "O4"}  # no SymNoise, no O1
    plan = pd.read_csv(folders[0] / "tables" / "power.csv")
    assert (plan.seeds_needed >= 7).all()  # of six pairs no p is below 1/32, with two endpoints 1/16


def test_one_arm_is_a_page_that_says_what_is_missing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(report, "FIGURES", {name: FIGURES[name] for name in ("forest", "association")})
    page = write_study(write_files(tmp_path / "s", arms=("none",), seeds=1)).read_text("utf-8")
    assert "No claim could be measured" in page and "Not drawn: needs two arms to compare" in page


def test_bad_folders_are_refused_in_one_line(tmp_path) -> None:
    folder = write_files(tmp_path / "micro", arms=("none", "uniform"), seeds=2, schema=2)
    with pytest.raises(InputError, match=r"mixed schema versions.*study.json has \['1'\].*runs.parquet has \['2'\]"):
        read_study(folder)
    write_files(folder, arms=("none", "uniform"), seeds=2)
    facts = json.loads((folder / "study.json").read_text())
    runs = pd.read_parquet(folder / "runs.parquet")
    runs.assign(arm="noen").to_parquet(folder / "runs.parquet")
    with pytest.raises(InputError, match="unknown arm 'noen': did you mean 'none'"):
        read_study(folder)
    pd.concat([runs, runs.assign(run="again-" + runs.run)]).to_parquet(folder / "runs.parquet")
    with pytest.raises(InputError, match="two rows for setting"):
        read_study(folder)
    runs[1:].to_parquet(folder / "runs.parquet")
    with pytest.raises(InputError, match="is not in runs"):
        read_study(folder)
    (folder / "runs.parquet").write_bytes(b"PAR1half")
    with pytest.raises(InputError, match="cannot read"):
        read_study(folder)
    (folder / "runs.parquet").unlink()
    with pytest.raises(InputError, match=r"runs\.parquet is missing; run `make study STUDY=micro`"):
        read_study(folder)
    (folder / "study.json").write_text(json.dumps(facts | {"schema": 7}))
    runs.to_parquet(folder / "runs.parquet")
    with pytest.raises(InputError, match="schema version"):
        read_study(Path(folder))
    for spoilt, said in (
        ([], "lacks schema, name or alpha"),
        (facts | {"schema": {}}, "schema: input should be a valid integer"),
        (facts | {"settings": {"training": "many"}}, "settings: input should be"),
        (facts | {"alpha": [5]}, "alpha: input should be a valid number"),
        (facts | {"primary": {"contrasts": 3, "outcomes": {}}}, "primary: input should be a valid array"),
    ):
        (folder / "study.json").write_text(json.dumps(spoilt))
        with pytest.raises(InputError, match=said):
            read_study(folder)


def test_words_select_nothing(tmp_path, monkeypatch) -> None:
    """Every label put otherwise: the same keys, verdicts and numbers."""
    folder = write_files(tmp_path / "made", arms=FEW, loss=LOSS, curvature=BEND)

    def found() -> list[pd.DataFrame]:
        made = read_study(folder)
        rows = pd.DataFrame([asdict(row) for row in outcome_ledger(made)]).drop(
            columns=["quantity", "statement", "where"]
        )
        return [rows, contrasts(made), report.arms(made), report.associated(made).drop(columns="outcome")]

    before = found()
    monkeypatch.setattr(style, "NAMES", {arm: f"no. {k}" for k, arm in enumerate(style.NAMES)})
    for label in ("_label", "_at"):
        monkeypatch.setattr(claims, label, lambda *parts: f"said otherwise {parts}")
    for one, other in zip(before, found(), strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("name", ["micro-r-flips", "neighbours", "batch-match"])
def test_labels_along_a_forest_s_panels_stand_apart(name: str) -> None:
    drawn = FIGURES["forest"].draw(pd.read_csv(ROOT / "results" / name / "figures" / "forest.csv"))
    drawn.draw_without_rendering()
    for ax in drawn.axes:
        places = [label.get_window_extent() for label in ax.get_xticklabels()]
        inside = sorted((b.x0, b.x1) for b in places if ax.bbox.x0 <= (b.x0 + b.x1) / 2 <= ax.bbox.x1)
        assert all(left[1] + 3 < right[0] for left, right in itertools.pairwise(inside))
    below = [ax.xaxis.label.get_window_extent() for ax in drawn.axes]
    assert all(left.x1 + 3 < right.x0 for left, right in itertools.pairwise(below))
    (legend,) = drawn.legends
    assert legend.get_window_extent().x0 >= 0 and legend.get_window_extent().x1 <= drawn.bbox.x1


def test_arms_that_are_one_model_hold_nothing(tmp_path) -> None:
    """Where every arm is at its best before training, all differences are 0, which is no evidence of "at most 0"."""
    made = study(tmp_path, arms=FEW, loss=LOSS, alphas=(10.0,))
    best = (made.outcomes.when == "best") & (made.outcomes.measure == "held-out loss")
    same = made.outcomes.assign(value=made.outcomes.value.mask(best, 1.0))
    rows = [row for row in outcome_ledger(replace(made, outcomes=same)) if row.key.startswith("O4.held-out-loss.best")]
    assert rows and {row.verdict for row in rows} == {"undecided"}
    assert all(row.measured == 0 and row.quantity.endswith("; no pair differs") for row in rows)


def test_the_same_numbers_are_no_second_row(tmp_path) -> None:
    """Where the lowest held-out loss is that of the last step, in every run."""
    made = study(tmp_path, arms=FEW, loss=LOSS, alphas=(10.0,))
    ended = made.outcomes[made.outcomes.when == "end"]
    same = pd.concat([ended, ended.assign(when="best")], ignore_index=True)
    twice, once = (outcome_ledger(replace(made, outcomes=part)) for part in (same, ended))
    assert [row.key for row in twice if row.id == "O4"] == [row.key for row in once if row.id == "O4"] != []


def test_batches_that_do_not_divide_the_rows_are_told_with_the_size_that_they_are_like(tmp_path) -> None:
    """128 rows in batches of 9 end each pass with 2: fourteen of 1/9 and one of ½ have the mean 1/7.38."""
    assert like_batches(128, 9, 75) == pytest.approx(75 / (70 / 9 + 5 / 2))
    assert like_batches(128, 8, 80) == pytest.approx(8)
    made = study(tmp_path, arms=FEW, loss=LOSS, alphas=(10.0,))
    told = {"settings": {"training": {"rows": 10, "pool": 1000}}}
    runs = made.runs.assign(batch=np.where(made.runs.arm == "none", 5, 4), steps=8)
    said = [
        line for line in notices(replace(made, runs=runs, facts=made.facts | told)) if line.startswith("Batches of")
    ]
    assert len(said) == made.runs.arm.nunique() - 1 and not any("of none have" in line for line in said)
    assert all("have 4 rows, but the last of each pass 2: " in line and "batches of 3.2." in line for line in said)


def test_a_forest_does_not_call_what_was_not_tested_no_difference() -> None:
    rows = {"low": 0.1, "high": 0.2}, {"low": -0.1, "high": 0.2}
    for verdict in ("exploratory", "too few seeds"):
        assert [forest._look({"verdict": verdict, **row})[1] for row in rows] == [True, False]
    assert not forest._look({"verdict": "no significant difference", **rows[0]})[1]


def test_a_page_says_if_the_code_of_its_runs_is_not_on_record(tmp_path) -> None:
    made = study(tmp_path, arms=("none", "symnoise"), alphas=(10.0,))
    wanted = "Which commits, versions of torch and processors made the runs is not on record."
    assert wanted in notices(replace(made, facts=made.facts | {"made_with": {}})) and wanted not in notices(made)


@pytest.mark.parametrize(("lower_later", "said"), [(0, True), (5, True), (8, False)])
def test_a_page_says_where_the_untrained_model_is_best(tmp_path, lower_later: int, said: bool) -> None:
    made = study(tmp_path, arms=("none", "symnoise"), seeds=6, alphas=(10.0,))
    curves = made.curves[made.curves.quantity == "held-out loss"].copy()
    better = set(sorted(curves.run.unique())[:lower_later])
    curves["value"] = [1.0 - (run in better) * step for run, step in zip(curves.run, curves.step, strict=True)]
    wanted = f"In {12 - lower_later} of 12 runs the held-out loss is lowest before training"
    assert any(line.startswith(wanted) for line in notices(replace(made, curves=curves))) == said


def test_a_page_says_where_the_held_out_loss_turns(tmp_path) -> None:
    """By the arm without noise alone, whose made-up losses fall and then rise."""
    made = study(tmp_path, arms=("none", "symnoise"), alphas=(10.0,), loss={"symnoise": 5.0})
    losses = made.curves[(made.curves.quantity == "held-out loss") & made.curves.run.str.contains("none")]
    mean = losses.groupby("step").value.mean()
    (line,) = (line for line in notices(made) if line.startswith("Without noise"))
    assert f"lowest at step {mean.idxmin()} of 80 and {number(mean[80] - mean.min(), 2)} nats higher at the end" in line
    falling = made.curves.assign(value=made.curves.value - made.curves.step)
    assert not any(line.startswith("Without noise") for line in notices(replace(made, curves=falling)))


def test_the_clean_training_loss_is_drawn_where_it_was_measured(tmp_path) -> None:
    made = study(tmp_path, arms=("none", "symnoise"), alphas=(10.0,))
    forest = FIGURES["forest"]
    own = forest.frame(made, contrasts(made))
    assert set(own[own.panel == 0].measure) == {"training loss"} and "own noisy objective" in forest.caption(own)
    held = made.outcomes[(made.outcomes.measure == "held-out loss") & (made.outcomes.when == "end")]
    clean = replace(made, outcomes=pd.concat([made.outcomes, held.assign(measure="clean training loss")]))
    drawn = forest.frame(clean, contrasts(clean))
    assert set(drawn[drawn.panel == 0].measure) == {"clean training loss"}
    assert "own noisy objective" not in forest.caption(drawn)


@pytest.mark.parametrize(
    ("slopes", "contrasted", "said"),
    [
        (True, (), "The study’s endpoints are others"),
        (False, (), "The study names no endpoints"),
        (False, (("symnoise", "none"),), "of the 1 endpoint shown here (1 in all)"),
    ],
)
def test_a_forest_says_which_endpoints_it_shows(tmp_path, slopes: bool, contrasted: tuple, said: str) -> None:
    made = study(tmp_path, arms=("none", "symnoise"), alphas=(10.0,))
    outcomes = {"held-out loss": 0.002} if slopes or contrasted else {}
    primary = {"contrasts": contrasted, "outcomes": outcomes, "slopes": slopes}
    made = replace(made, facts=made.facts | {"primary": primary})
    forest = FIGURES["forest"]
    assert said in forest.caption(forest.frame(made, contrasts(made)))
