"""Gains at equal length of replies, from made-up preferences whose gain and effect of length are known."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from typer.testing import CliRunner

from experiments.alpaca_eval.__main__ import app
from experiments.alpaca_eval.length import ADJUSTMENTS, AllGenerators, Pair, Plan, compared, read_plan, read_preferences
from result_schema.files import ROOT
from symnoise.core import InputError

PLAN = Plan("made-up", [["plain", "noisy"]], [], 0.5, 1.25, [0.5, 1, 2, 4], 2, {"draws": 100, "seed": 0})
REFERENCE = 500


def preferences(quality: float, length: float, *, longer: float = 2.0, count: int = 1500) -> pd.DataFrame:
    """Wins drawn with logit E = θ + length·tanh((characters − reference's)/s); the noisy model has θ larger by
    `quality`, and replies `longer` times as long."""
    random = np.random.default_rng(3)
    parts = []
    for generator, theta, factor in (("plain", 0.0, 1.0), ("noisy", quality, longer), ("third", 0.5, 1.4)):
        characters = np.round(REFERENCE * factor * np.exp(0.5 * random.standard_normal(count)))
        parts.append(
            pd.DataFrame({"generator": generator, "instruction": range(count), "model_characters": characters})
        )
        parts[-1]["theta"] = theta
    table = pd.concat(parts, ignore_index=True).assign(reference_characters=REFERENCE)
    apart = table.model_characters - REFERENCE
    chance = expit(table.theta + length * np.tanh(apart / apart.std()))
    return table.assign(win=(random.random(len(table)) < chance).astype(float)).drop(columns="theta")


def gains(table: pd.DataFrame) -> dict[str, float]:
    pair = Pair.of(table, "plain", "noisy", PLAN)
    return {name: gain(pair, np.ones(len(pair.table))) for name, gain in ADJUSTMENTS.items()}


def test_a_gain_that_is_length_alone_is_taken_away_and_one_of_quality_is_kept() -> None:
    by_length, by_quality = gains(preferences(0.0, 2.5)), gains(preferences(1.0, 0.0))
    assert by_length["raw"] > 0.2 and by_quality["raw"] == pytest.approx(expit(1) - 0.5, abs=0.08)
    for name in set(ADJUSTMENTS) - {"raw"}:
        assert abs(by_length[name]) < 0.5 * by_length["raw"], name
        # Four standard errors: of 1,500 instructions, and of some 250 of like length.
        assert by_quality[name] == pytest.approx(by_quality["raw"], abs=0.18 if name == "like length" else 0.08), name
    for name in ("all generators", "own slopes"):  # the very model of these wins
        assert by_length[name] == pytest.approx(0, abs=0.08)


def test_raw_and_like_length_are_means_of_differences() -> None:
    pair = Pair.of(preferences(0.3, 0.5, count=50), "plain", "noisy", PLAN)
    table, weights = pair.table, np.arange(50.0)
    apart = table.win_noisy - table.win_plain
    assert ADJUSTMENTS["raw"](pair, weights) == pytest.approx((apart * weights).sum() / weights.sum())
    alike = (table.noisy <= 1.25 * table.plain) & (table.plain <= 1.25 * table.noisy)
    assert 0 < alike.sum() < 50
    expected = (apart * weights)[alike].sum() / weights[alike].sum()
    assert ADJUSTMENTS["like length"](pair, weights) == pytest.approx(expected)


def test_the_regression_is_at_its_maximum() -> None:
    """Where no derivative of the penalised likelihood, by differences, is left; with drawn weights too."""
    table = preferences(0.3, 0.5, count=80)
    made = AllGenerators.of(table.assign(row=table.instruction), 2.0)
    weights = np.random.default_rng(0).multinomial(80, np.full(80, 1 / 80)).astype(float)
    theta, delta, phi = made._parts(made.fit(weights, own_slopes=True))
    apart = pd.Series(made.apart)
    longer = np.tanh(apart / apart.groupby(made.generator).transform("std")).to_numpy()

    def likelihood(theta, delta, phi) -> float:
        eta = theta[made.generator] + delta[made.instruction] + phi[made.generator] * longer
        rows = weights[made.instruction] * (np.logaddexp(0, eta) - made.wins * eta)
        return rows.sum() + (np.maximum(weights, 1) * delta**2).sum() / (2 * 2.0**2)

    least = likelihood(theta, delta, phi)
    for k, part in enumerate((theta, delta, phi)):
        for place in range(len(part)):
            for step in (-1e-3, 1e-3):
                moved = [theta.copy(), delta.copy(), phi.copy()]
                moved[k][place] += step
                assert likelihood(*moved) > least - 1e-9


def test_preferences_that_length_tells_without_exception_have_no_maximum() -> None:
    table = preferences(0.3, 0.5, count=80)
    longer = table.model_characters > REFERENCE
    told = table.assign(row=table.instruction, win=table.win.where(table.generator != "plain", longer.astype(float)))
    with pytest.raises(InputError, match="length determines every preference about plain"):
        AllGenerators.of(told, 2.0).fit(np.ones(80), own_slopes=True)


def test_standard_errors_are_those_of_repetition(monkeypatch) -> None:
    """The raw gain's against s/√n; the error of `left` knows that both gains come from the same instructions."""
    monkeypatch.setattr("experiments.alpaca_eval.length.ADJUSTMENTS", {"raw": ADJUSTMENTS["raw"]})  # a fit takes long
    table = preferences(0.3, 0.5, count=300)
    made = {row["adjustment"]: row for row in compared(table, replace(PLAN, bootstrap={"draws": 400, "seed": 1}))}
    pair = Pair.of(table, "plain", "noisy", PLAN)
    assert made["raw"]["stderr"] == pytest.approx(pair.difference.std(ddof=1) / 300**0.5, rel=0.15)
    assert made["raw"]["left"] == pytest.approx(0.5 * made["raw"]["gain"])
    assert made["raw"]["left_stderr"] == pytest.approx(0.5 * made["raw"]["stderr"])


def test_the_command_reads_annotations_and_tables_alike(tmp_path: Path) -> None:
    table = preferences(0.3, 0.5, count=20).assign(preference=lambda t: t.win + 1)
    columns = ["generator", "instruction", "preference", "reference_characters", "model_characters"]
    with gzip.open(tmp_path / "p.csv.gz", "wt") as file:
        table[columns].assign(instruction=lambda t: t.instruction.map("Ask {}.".format)).to_csv(file, index=False)
    files = []
    for name, own in table.groupby("generator"):
        rows = [
            {"instruction": f"Ask {row.instruction}.", "preference": row.preference}
            | {"generator_1": "reference", "output_1": "a" * REFERENCE}
            | {"generator_2": name, "output_2": "b" * int(row.model_characters)}
            for row in own.itertuples()
        ]
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(rows))
    pd.testing.assert_frame_equal(
        read_preferences([tmp_path / "p.csv.gz"]).sort_values(["generator", "instruction"], ignore_index=True),
        read_preferences(files).sort_values(["generator", "instruction"], ignore_index=True),
        check_dtype=False,
    )
    plan = tmp_path / "plan.yaml"
    plan.write_text((ROOT / "experiments/configs/length/7b.yaml").read_text())
    result = CliRunner().invoke(app, ["length", str(plan), str(tmp_path / "p.csv.gz")])
    assert isinstance(result.exception, InputError) and "no preferences about alpaca-7b" in str(result.exception)


@pytest.mark.parametrize(
    ("change", "said"), [({"like": None}, "like missing or unknown"), ({"margin": 1}, "margin missing or unknown")]
)
def test_a_plan_is_whole(tmp_path: Path, change: dict, said: str) -> None:
    import yaml

    stated = yaml.safe_load((ROOT / "experiments/configs/length/7b.yaml").read_text()) | change
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({k: v for k, v in stated.items() if v is not None}))
    with pytest.raises(InputError, match=said):
        read_plan(tmp_path / "plan.yaml")


def test_two_preferences_about_the_same_reply_are_refused(tmp_path: Path) -> None:
    table = preferences(0, 0, count=3).assign(preference=1).drop(columns="win")
    table.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(InputError, match="two preferences about plain"):
        read_preferences([tmp_path / "p.csv", tmp_path / "p.csv"])
