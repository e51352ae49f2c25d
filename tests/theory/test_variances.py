"""P2 and P3 on a model: estimators against a matrix that is known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from symnoise.core import Estimate, generator
from symnoise.curvature import SmoothedCurvature, attenuation_slope, smoothed_curvature
from symnoise.noise import LAWS
from symnoise.theory import check_diagonal_on_text, check_validity, check_variances_on_text
from symnoise.theory.checks.variances import _variance_of_one, bias_correction, diagonal_square
from symnoise.theory.ledger import LEVEL
from tests.quadratic import Quadratic


def test_the_diagonal_square_is_unbiased_with_its_stated_variance() -> None:
    H, probes, repeats = Quadratic().A, 5, 40_000
    z = LAWS["rademacher"].sample((repeats, probes, 12), generator=generator(0, "u"), dtype=torch.float64)
    u = z * (z @ H)
    found = torch.stack([diagonal_square(one) for one in u[:200]])
    sums = (u.sum(1).square().sum(1) - u.square().sum((1, 2))) / (probes * (probes - 1))  # the same, all at once
    torch.testing.assert_close(found, sums[:200])
    h, off = H.diagonal(), H - H.diagonal().diag()
    r = off.square().sum(1)
    first = 2 / (probes * (probes - 1)) * (r.square().sum() + (off**4).sum())
    second = 4 / probes * ((h.square() * r).sum() + (h[:, None] * h * off.square()).sum())
    assert abs(float(sums.mean() - h.square().sum())) < 4.5 * float(sums.std()) / repeats**0.5
    # The variance of a sample variance is (m₄ − s⁴)/N; 4.5 of its roots.
    spread = float(((sums - sums.mean()) ** 4).mean() - sums.var() ** 2) ** 0.5 / repeats**0.5
    assert abs(float(sums.var()) - float(first + second)) < 4.5 * spread


def test_the_gain_of_rademacher_is_the_diagonal_s_share() -> None:
    loss = Quadratic(3)
    truth = -float(loss.A.diagonal().square().sum() / loss.A.square().sum())
    rows = [check_diagonal_on_text(loss, 24, where="matrix", seed=seed).rows[0] for seed in range(20)]
    assert sum(row.low <= truth <= row.high for row in rows) == 20  # at 99.9 %
    assert all(row.verdict in ("holds", "undecided") and row.kind == "identity" for row in rows)
    assert sum(row.verdict == "holds" for row in rows) > 10
    assert abs(sum(row.measured for row in rows) / 20 - truth) < 0.1 * abs(truth)


def made_up(K: int, B: int, seed: int, *, g: float = 2.0, curvature: float = 1.0) -> SmoothedCurvature:
    """Draws of a quadratic: odd part σ g·z with z normal, even part ½σ² form, form of variance 2."""
    owner = generator(seed, "made up")
    odd, form = (torch.randn((K, B), generator=owner, dtype=torch.float64) for _ in range(2))
    form, sigmas, none = form * math.sqrt(2), torch.full((1, B), 0.1, dtype=torch.float64), torch.zeros(B)
    nothing = Estimate.exact(none)
    return SmoothedCurvature(
        sigmas=sigmas,
        C=nothing,
        T=nothing,
        pair=(sigmas[:, None] ** 2 / 2 * curvature * form),
        odd=(sigmas[:, None] * g * odd),
        forms=form,
        loss=none.double(),
        gradient_square_norm=torch.full((B,), g**2, dtype=torch.float64),
    )


def ratios(smoothed: SmoothedCurvature) -> dict[str, Tensor]:
    found = check_variances_on_text(smoothed, [0.5], where="made up")
    return {point["scheme"]: point for point in found.tables["variances on text"]}


def test_each_scheme_has_the_variance_of_its_formula() -> None:
    """Odd and even part have variances 0.04 and 5·10⁻⁵: a factor of 800, so leading orders are all there is."""
    for K in (4, 5, 6):
        points = ratios(made_up(K, 4_000, K))
        for scheme, point in points.items():
            assert point["low"] <= 1.01 and point["high"] >= 0.99, scheme  # the even part adds 0.1 % to one draw
            assert point["high"] - point["low"] < 0.1
    missed = [point for seed in range(30) for point in ratios(made_up(6, 48, seed)).values()]
    assert sum(point["low"] > 1.002 or point["high"] < 1 - 1e-9 for point in missed) <= 2


@pytest.mark.parametrize("K", [4, 6, 12])
@pytest.mark.parametrize("explained", [0.0, 0.6, 1.0])
def test_a_ratio_of_variances_has_no_bias(K, explained) -> None:
    """y = a x + e, x and e normal with variance 1: Var y/Var x = a² + Var e."""
    x, e = torch.randn((2, K, 400_000), generator=generator(K, "ratio of variances"), dtype=torch.float64)
    y = explained * 1.5 * x + (1 - explained) * e
    truth, found = (explained * 1.5) ** 2 + (1 - explained) ** 2, y.var(0) / x.var(0) * bias_correction(y, x)
    # For 4 draws 1/s_x² has a mean but no variance, and the error of the mean is not known: a median of 40 means.
    means = found.unflatten(0, (40, -1)).mean(1)
    assert float(means.median()) == pytest.approx(truth, rel=0.02 if K > 4 else 0.06)
    if explained < 1:
        assert float((y.var(0) / x.var(0)).mean()) > 1.02 * truth


def test_p1_is_of_these_texts_and_v1_of_both() -> None:
    made = made_up(6, 12, 2)
    rest = torch.randn(made.pair.shape, generator=generator(2, "rest"), dtype=torch.float64)
    made = replace(made, pair=made.pair * (1 + 0.1 * rest))
    rows = {one.key: one for one in check_validity(made, [0.5], where="made up", training=(0.5,)).rows}
    units = {"P1.excess": "draw", "V1.slope.these": "draw", "V1.slope": "example"}
    for key, unit in units.items():
        own = rows[f"{key}.alpha=0.5"]
        found = attenuation_slope(made.pair[0], made.second_order[0], unit, LEVEL)
        assert (own.measured, own.low, own.high) == (found.value, found.low, found.high)
        assert own.n == (72 if unit == "draw" else 12)


def test_what_is_not_predicted_fails() -> None:
    bent = made_up(6, 200, 0, curvature=1.5)
    (one, pair) = check_variances_on_text(bent, [0.5], where="made up").rows
    assert (one.key, pair.key) == ("P2.variance.one-draw.alpha=0.5", "P2.variance.pair.alpha=0.5")
    assert one.verdict == "holds" and pair.verdict == "fails" and pair.measured == pytest.approx(2.25)


def test_a_pair_s_ratio_has_no_bias_of_what_the_form_does_not_explain() -> None:
    """Half of a pair's variance independent of zᵀHz: 2, where the sample variances' ratio is 2.67 on average."""
    made = made_up(6, 40_000, 1)
    rest = torch.randn(made.pair.shape, generator=generator(1, "rest"), dtype=torch.float64)
    found = ratios(replace(made, pair=made.pair + made.sigmas[:, None] ** 2 / 2 * math.sqrt(2) * rest))["pair"]
    assert found["low"] <= 2 <= found["high"] and found["high"] - found["low"] < 0.3


def test_two_draws_are_two_draws() -> None:
    """Against losses at X + σz and X + σz′ themselves, on a quadratic whose gradient is not small."""
    loss = Quadratic(2_000)
    smoothed = smoothed_curvature(loss, torch.tensor([0.5]), draws=4)
    point = ratios(smoothed)["two draws"]
    plus = smoothed.pair[0] + smoothed.odd[0]
    direct = ((plus[0::2] + plus[1::2]) / 2).var(0).mean()
    assert point["measured"] == pytest.approx(float(direct), rel=0.1)


def test_the_variance_of_one_draw_has_both_of_its_parts() -> None:
    made = made_up(400, 3, 0, curvature=40.0)
    found = _variance_of_one(made, 0)
    one = torch.cat([made.pair[0] + made.odd[0], made.pair[0] - made.odd[0]])  # both sides of each draw
    torch.testing.assert_close(found, one.var(0, correction=0), rtol=0.01, atol=0.0)
    assert (made.pair[0].var(0) > 0.1 * found).all()
