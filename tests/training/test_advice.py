"""Which α: the table's numbers by hand and against direct calls, and the rules behind the two sentences."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from result_schema.files import ROOT
from symnoise.core import Estimate, InputError
from symnoise.curvature import Pooled, attenuation_slope, ratio_of_means, smoothed_curvature
from symnoise.models import EmbeddingLoss
from symnoise.noise import Noise
from symnoise.training import advice as rules
from symnoise.training.advice import AtAlpha, advice, alpha_of_ratio, at_each_alpha, measure_rows, token_ratios
from symnoise.training.budget import variance_budget
from tests.tiny import tiny
from tests.training.ragged import collate
from tests.training.ragged import rows as ragged_rows


@pytest.fixture(scope="module")
def batches():
    return [collate(ragged_rows()[i : i + 2]) for i in (0, 2, 4)]


def test_r_is_the_norm_of_a_real_draw_over_that_of_its_token(batches) -> None:
    """±1 noise has ‖ε_t‖ = α/√(3L) exactly; padding is no token."""
    loss = EmbeddingLoss(tiny("llama"), batches[0], range(2))
    epsilon = Noise.symnoise(1.0).sample(loss.embeddings, loss.mask, generator=torch.Generator().manual_seed(0))
    real = loss.mask != 0
    expected = (epsilon.norm(dim=-1) / loss.embeddings.norm(dim=-1))[real]
    torch.testing.assert_close(token_ratios(loss).float(), expected)
    assert len(expected) == int(loss.lengths.sum())


def test_the_numbers_are_those_of_direct_calls(batches) -> None:
    model, alphas = tiny("llama"), (1.0, 5.0)
    losses = [EmbeddingLoss(model, batch, range(2 * j, 2 * j + 2)) for j, batch in enumerate(batches)]
    records = [measure_rows(loss, 3, 0, alphas) for loss in losses]
    budgets = variance_budget(model.requires_grad_(True), batches, alphas, draws=2)
    found = at_each_alpha(records, budgets)
    direct = [
        smoothed_curvature(
            loss, torch.stack([Noise.neftune(a).sigma(loss.lengths, 32) for a in alphas]), "rademacher", 3, 0
        )
        for loss in losses
    ]
    for i, (one, alpha, budget) in enumerate(zip(found, alphas, budgets, strict=True)):
        y, x, odd = (
            torch.cat([getattr(part, name)[i] for part in direct], -1) for name in ("pair", "second_order", "odd")
        )
        ratios = torch.cat([token_ratios(loss) for loss in losses])
        assert one.alpha == alpha and one.rho == budget.rho
        assert one.ratio[1] == pytest.approx(alpha * float(ratios.quantile(0.5)))
        assert one.slope.value == pytest.approx(attenuation_slope(y, x, "example").value, rel=1e-4)
        assert one.mean.value == pytest.approx(ratio_of_means(y, x, "example").value, rel=1e-4)
        low, high = one.cancelled.low, one.cancelled.high
        assert 0 < low < high
        plain = math.sqrt(float(odd.square().sum() / y.square().sum()))
        assert low < plain < high
    with pytest.raises(InputError, match="2 rows or more"):
        at_each_alpha([{**records[0], **{k: [[d[:1] for d in a] for a in records[0][k]] for k in _CURVES}}], budgets)


_CURVES = ("pair", "odd", "second_order")


def pooled(value: float, half: float) -> Pooled:
    return Pooled(value, value - half, value + half, half / 2, 10.0)


def at(alpha: float = 15.0, r: float = 0.29, rho: float = 0.3, error: float = 0.01) -> AtAlpha:
    worth = Estimate(torch.tensor(rho), torch.tensor(error), count=100, dof=99.0)
    return AtAlpha(alpha, (r / 2, r, 2 * r), pooled(1.0, 0.05), pooled(1.0, 0.05), pooled(1.0, 0.5), worth)


@pytest.mark.parametrize(
    ("slope", "mean", "said"),
    [
        (pooled(1.0, 0.05), pooled(0.97, 0.05), "yes"),
        (pooled(0.5, 0.05), pooled(1.0, 0.05), "no"),
        (pooled(1.0, 0.05), pooled(1.3, 0.1), "no"),
        (pooled(1.0, 0.05), pooled(1.0, 0.3), "undecided"),
        (pooled(1.0, 0.05), pooled(1.0, math.inf), "undecided"),
    ],
)
def test_the_theory_is_quadratic_where_both_numbers_are_near_1(slope, mean, said) -> None:
    assert replace(at(), slope=slope, mean=mean).quadratic == said


@pytest.mark.parametrize(
    ("rho", "error", "said"),
    [
        (
            0.03,
            0.01,
            "worth a batch at most 1.03 (1.01 to 1.05) times as large, which is next to nothing for twice the cost",
        ),
        (
            0.3,
            0.01,
            "worth a batch at most 1.3 (1.28 to 1.32) times as large, less than the doubled batch that costs the same",
        ),
        (
            2.0,
            0.1,
            "worth a batch at most 3 (2.8 to 3.2) times as large, which removes more variance than the doubled batch",
        ),
        (1.0, 0.1, "whether at α = 15 a pair (--noise symnoise) removes more variance than a doubled batch"),
    ],
)
def test_a_pair_is_weighed_against_the_batch_that_it_costs(rho, error, said) -> None:
    assert said in advice([at(rho=rho, error=error)])[0]


def test_the_alpha_to_try_has_the_best_ratio_and_is_judged_at_the_nearest() -> None:
    found = [at(alpha, alpha * 0.02, rho) for alpha, rho in ((1.0, 5.0), (5.0, 5.0), (15.0, 0.3), (30.0, 5.0))]
    assert alpha_of_ratio(found, 0.29) == pytest.approx(14.5)
    attempt, expect = advice(found)
    assert "α = 15, where r = 0.29" in attempt or "α = 14, where r = 0.29" in attempt
    assert "at α = 15 a pair" in attempt and "at most 1.3 (1.28 to 1.32) times" in attempt
    assert "tr H does describe what noise does to the loss at α = 15" in expect
    no = advice([replace(one, slope=pooled(0.3, 0.1)) for one in found])[1]
    assert "Nor expect tr H to describe" in no
    wide = advice([replace(one, slope=pooled(1.0, 0.5)) for one in found])[1]
    assert "is undecided: more --examples, without --quick, narrow" in wide


def test_what_it_says_of_studies_is_what_they_found() -> None:
    """The constants against the published tables, to their last digit."""
    for study, (training, held_out, seeds) in rules.MIRROR.items():
        table = pd.read_csv(ROOT / "results" / study / "tables" / "contrasts.csv")
        own = table[(table["first"] == "symnoise") & (table.second == "independent-pair") & (table.when == "end")]
        means = own[own.decoding.isna()].set_index("measure")
        assert float(means["mean"]["clean training loss"]) == pytest.approx(training, abs=5e-4)
        assert float(means["mean"]["held-out loss"]) == pytest.approx(held_out, abs=5e-4)
        assert int(means.pairs["held-out loss"]) == seeds
    sweep = pd.read_csv(ROOT / "results" / "micro-r-sweep" / "tables" / "contrasts.csv")
    held = sweep[(sweep.measure == "held-out loss") & (sweep.when == "end")].set_index("alpha")["mean"]
    low, high = rules.RATIOS_TRIED
    per_alpha = high / held.index.max()
    assert held.idxmin() * per_alpha == pytest.approx(rules.BEST_RATIO) and held[held.index.max()] > 0
    assert held.index.min() * per_alpha == pytest.approx(low, abs=0.005)
