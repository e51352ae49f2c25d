"""Intervals of the two numbers that say what is left of the quadratic term, against known truths."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from symnoise.core import generator, student_t
from symnoise.core.ratios import fieller
from symnoise.curvature import Pooled, attenuation_slope, ratio_of_means, root_ratio
from symnoise.curvature.pooled import range_of_validity, slopes_without_each

SEEDS, EXAMPLES, DRAWS = 400, 48, 6
# Misses of a 95 % interval in 400 are 20 with a standard deviation of 4.4, of a 99.9 % one 0.4; bounds at four sigma,
# and at 5, which Poisson exceeds once in 10⁵.
MISSES = {0.95: (3, 37), 0.999: (0, 5)}


def texts(seed: int, count: int = EXAMPLES) -> tuple[Tensor, ...]:
    """What an example has of its own: mean curvature of either sign, how it is attenuated, and what bends upward."""
    owner = generator(seed, "texts")
    normal = torch.randn((3, count), generator=owner, dtype=torch.float64)
    return 1 + 1.5 * normal[0], 0.7 + 0.2 * normal[1], 0.5 + 0.2 * normal[2]


def draws(of: tuple[Tensor, ...], seed: int, count: int = DRAWS) -> tuple[Tensor, Tensor]:
    """y and x, (draw, example): x heavy-tailed (Student's t, 5 degrees of freedom), y = r x + c|x| + noise."""
    centre, left, bend = of
    owner = generator(seed, "draws of texts")
    normal = torch.randn((7, count, len(centre)), generator=owner, dtype=torch.float64)
    x = centre + normal[0] / (normal[1:6].square().mean(0)).sqrt()
    return left * x + bend * x.abs() + 0.3 * normal[6], x


def sizes(seed: int, count: int = EXAMPLES) -> Tensor:
    """Of the curvature of texts, log-normal."""
    return (0.5 * torch.randn(count, generator=generator(seed, "unlike texts"), dtype=torch.float64)).exp()


def unlike(seed: int, of: Tensor | None = None, *, count: int = EXAMPLES, draws: int = DRAWS) -> tuple[Tensor, Tensor]:
    """y and x of texts whose curvature differs in size, and is attenuated the more the larger: y = 2 tanh(x/2)."""
    size = sizes(seed, count) if of is None else of
    normal = torch.randn((draws, len(size)), generator=generator(seed, "their draws"), dtype=torch.float64)
    x = size * (0.3 + normal)
    return 2 * (x / 2).tanh(), x


def of_unlike(pool: Callable[..., Pooled], unit: str, seeds: int) -> tuple[float, list[Pooled]]:
    """The truth and `pool` of each seed: of fresh unlike texts each time, or of fresh draws of 24 of them."""
    of = None if unit == "example" else sizes(0, 24)
    y, x = unlike(0, count=1_000_000) if of is None else unlike(0, of, draws=40_000)
    below = (x * x).sum()
    truth = float((x * y).sum() / below if pool is attenuation_slope else ((y * y).sum() / below).sqrt())
    return truth, [pool(*unlike(1 + seed, of), unit) for seed in range(seeds)]


def truths(of: tuple[Tensor, ...], count: int) -> tuple[float, float]:
    """Both numbers over so many draws that their own error is negligible."""
    y, x = draws(of, 10**6, count)
    return float((x * y).sum() / (x * x).sum()), float(y.sum() / x.sum())


@pytest.mark.parametrize("level", list(MISSES))
@pytest.mark.parametrize("unit", ["draw", "example"])
def test_intervals_cover_at_their_level(unit: str, level: float) -> None:
    """ "draw": these texts, with fresh draws each time. "example": fresh texts each time."""
    fixed = texts(0)
    of = truths(fixed, 40_000) if unit == "draw" else truths(texts(1, 400_000), 4)
    missed = [0, 0]
    for seed in range(SEEDS):
        y, x = draws(fixed if unit == "draw" else texts(2 + seed), seed)
        for k, pooled in enumerate((attenuation_slope, ratio_of_means)):
            found = pooled(y, x, unit, level)
            missed[k] += not found.low <= of[k] <= found.high
    least, most = MISSES[level]
    assert all(least <= m <= most for m in missed), missed


def test_draws_of_several_texts_have_the_error_of_a_stratified_mean() -> None:
    """With x = 1 the slope is the mean of y, whose standard error is known: strata cancel, whatever their level."""
    y = torch.randn((6, 48), generator=generator(0, "strata"), dtype=torch.float64) + torch.arange(48.0)
    found = attenuation_slope(y, torch.ones_like(y), "draw")
    assert found.value == pytest.approx(float(y.mean()))
    assert found.stderr == pytest.approx(float((y.var(0) / 6).sum().sqrt() / 48))


def test_draws_of_an_example_are_no_sample_of_texts() -> None:
    """The old interval, over draws as if each were a text of its own, misses what other texts have."""
    true = truths(texts(1, 400_000), 4)
    missed = 0
    for seed in range(100):
        y, x = draws(texts(2 + seed), seed, 24)
        found = attenuation_slope(y.reshape(1, -1), x.reshape(1, -1), "example", 0.999)
        missed += not found.low <= true[0] <= found.high
    assert missed > 10


def test_the_slope_is_not_what_training_averages() -> None:
    """Where large curvature is halved and the mean is doubled, the old rule gives one of the two for the other."""
    owner = generator(0, "bent")
    x = 0.2 + torch.randn((DRAWS, 4_000), generator=owner, dtype=torch.float64)
    y = 0.5 * x + 0.3
    slope, ratio = (pooled(y, x, "example", 0.999) for pooled in (attenuation_slope, ratio_of_means))
    averaged = (0.5 * 0.2 + 0.3) / 0.2  # mean excess over its second order, exactly: 2
    assert not slope.low <= averaged <= slope.high and slope.high < 0.7  # the old rule, called "what training averages"
    assert ratio.low <= averaged <= ratio.high and ratio.low > 1.7
    assert slope.low <= (0.5 * 1.04 + 0.3 * 0.2) / 1.04 <= slope.high


def test_a_mean_that_may_be_zero_has_no_finite_interval() -> None:
    y, x = draws(texts(3), 0)
    found = ratio_of_means(y, x - x.mean() + 0.01, "example")
    assert found.unbounded and (found.low, found.high) == (-math.inf, math.inf)
    assert not ratio_of_means(y, x + 5, "example").unbounded
    zero = ratio_of_means(torch.ones((2, 3)), torch.tensor([[1.0, -1.0, 2.0], [-1.0, 1.0, -2.0]]), "draw")
    assert math.isnan(zero.value) and zero.unbounded


def test_an_exact_multiple_is_found_exactly() -> None:
    _, x = draws(texts(4), 0)
    for unit in ("draw", "example"):
        for found in (attenuation_slope(0.8 * x, x, unit), ratio_of_means(0.8 * x, x, unit)):
            assert found.value == pytest.approx(0.8) and found.high - found.low < 1e-6


def test_one_of_what_is_independent_gives_no_interval() -> None:
    one = torch.ones((1, 3), dtype=torch.float64)
    for pooled in (attenuation_slope, ratio_of_means, root_ratio):
        for found in (pooled(2 * one, one, "draw"), pooled(2 * one.T, one.T, "example")):
            assert found.value == 2 and math.isnan(found.low) and math.isnan(found.stderr) and not found.unbounded


@pytest.mark.parametrize("unit", ["example", "draw"])
def test_root_mean_squares_are_compared_with_an_interval_that_covers_and_stays_above_zero(unit) -> None:
    """y and x normal with standard deviations 3 and 1 over draws and examples: the ratio is 3."""
    missed = 0
    for seed in range(SEEDS):
        owner = generator(seed, "root ratio", unit)
        y, x = torch.randn((2, DRAWS, 12), generator=owner, dtype=torch.float64)
        found = root_ratio(3 * y, x, unit)
        assert 0 < found.low < found.value < found.high
        missed += not found.low <= 3 <= found.high
    low, high = MISSES[0.95]
    assert low <= missed <= high
    assert root_ratio(-0.8 * x, x, unit).value == pytest.approx(0.8)


def test_errors_of_few_examples_are_those_of_the_textbook() -> None:
    """A ratio's error is the spread of y − rx over |Σx|/n; its interval is Fieller's, and both have n − 1 degrees."""
    owner = generator(0, "few")
    y, x = torch.randn((2, 1, 5), generator=owner, dtype=torch.float64) + 3
    found = ratio_of_means(y, x, "example")
    r = float(y.sum() / x.sum())
    assert found.value == pytest.approx(r) and found.dof == pytest.approx(4)
    assert found.stderr == pytest.approx(float((y - r * x).std()) / 5**0.5 / float(x.mean()))
    v = torch.cov(torch.cat([y, x])) / 5
    low, high = fieller((y.mean(), x.mean()), (v[0, 0], v[0, 1], v[1, 1]), 2.776445105)
    assert (found.low, found.high) == pytest.approx((float(low), float(high)))


def test_the_error_of_a_slope_is_the_jackknifes() -> None:
    owner = generator(1, "few")
    y, x = torch.randn((2, 1, 5), generator=owner, dtype=torch.float64) + 3
    left_out = [float((y * x)[0, keep].sum() / (x * x)[0, keep].sum()) for keep in ~torch.eye(5, dtype=torch.bool)]
    found = attenuation_slope(y, x, "example")
    stderr = (4 / 5 * 5 * float(torch.tensor(left_out, dtype=torch.float64).var(correction=0))) ** 0.5
    moved = torch.tensor(left_out, dtype=torch.float64)
    w, influence = (x * x)[0], (moved - moved.mean()).square()
    by_weight, by_influence = (float(u.sum() ** 2 / (u * u).sum()) - 1 for u in (w, influence))
    assert found.stderr == pytest.approx(stderr) and found.dof == pytest.approx(by_influence)
    assert 1 < by_influence < by_weight < 4
    assert found.high - found.value == pytest.approx(student_t(0.95, by_influence) * stderr) == found.value - found.low


@pytest.mark.parametrize("pooled", [attenuation_slope, root_ratio])
def test_intervals_cover_where_curvature_differs_between_texts(pooled) -> None:
    """Log-normal curvature, of spread 1, in 12 texts: few of them decide. With n − 1 degrees of freedom 12 to 16 % of
    the intervals miss."""
    random, misses, seeds = generator(0, "heavy"), 0, 600
    for _ in range(seeds):
        size = torch.randn((1, 12), generator=random, dtype=torch.float64).exp()
        a, b = torch.randn((2, 4, 12), generator=random, dtype=torch.float64)
        if pooled is root_ratio:
            x, y = size * a, 0.9 * size * b
        else:
            x = size * (1 + 0.3 * a)
            y = (0.9 + 0.2 * b[:1]) * x
        found = pooled(y, x, "example")
        misses += not found.low <= 0.9 <= found.high
    assert misses / seeds < 0.07


@pytest.mark.parametrize("unit", ["example", "draw"])
@pytest.mark.parametrize("pooled", [attenuation_slope, root_ratio])
def test_intervals_cover_where_few_units_carry_what_is_attenuated_most(pooled, unit) -> None:
    """With the degrees of freedom of the weights alone, 15 to 18 % of 95 % intervals over fresh texts miss; with n − 1
    10 % of those over fresh draws of 24 texts."""
    truth, found = of_unlike(pooled, unit, SEEDS)
    assert sum(not one.low <= truth <= one.high for one in found) / SEEDS < (0.1 if unit == "example" else 0.09)
    assert all(one.dof >= 1 for one in found)


def test_weights_decide_where_they_are_of_fewer_units_than_the_influence() -> None:
    """The text of weight 4 lies on the line, so that leaving it out changes nothing; the four of weight 1 are alike."""
    x = torch.tensor([[2.0, 1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    y = x + torch.tensor([[0.0, 0.1, -0.1, 0.1, -0.1]], dtype=torch.float64)
    assert attenuation_slope(y, x, "example").dof == pytest.approx(8**2 / 20 - 1)


def test_a_slope_without_one_example_is_that_of_the_others() -> None:
    y, x = torch.randn((2, 3, 4), generator=generator(2, "others"), dtype=torch.float64)
    found = slopes_without_each(y, x)
    for b in range(4):
        others = [i for i in range(4) if i != b]
        assert float(found[b]) == pytest.approx(attenuation_slope(y[:, others], x[:, others], "draw").value)
    assert slopes_without_each(y[:, :1], x[:, :1]).isnan().all()


def test_draws_count_by_their_weights_and_texts_by_their_influence_too() -> None:
    y, x = torch.randn((2, 6, 1), generator=generator(3, "units"), dtype=torch.float64)
    weights = x.square()
    by_weight = float(weights.sum() ** 2 / weights.square().sum()) - 1
    for pooled in (attenuation_slope, root_ratio):
        assert pooled(y, x, "draw").dof == pytest.approx(by_weight)
        assert pooled(y.T, x.T, "example").dof < by_weight - 0.1


def test_two_units_are_enough_for_an_interval() -> None:
    y, x = torch.tensor([[2.0, 3.0]]), torch.tensor([[1.0, 2.0]])
    for pooled in (attenuation_slope, ratio_of_means, root_ratio):
        found = pooled(y, x, "example")
        assert math.isfinite(found.stderr) and found.dof == pytest.approx(1)


def test_the_range_of_validity_is_where_the_line_between_two_slopes_passes_the_margin() -> None:
    """Linear in α², so that on 1 + cα² it does not depend on the grid, and on the side that is left."""
    assert range_of_validity([1.0, 3.0], [0.95, 0.75]) == pytest.approx(3**0.5)
    assert range_of_validity([2.0], [1.4]) == pytest.approx(1)  # from 1 at α = 0
    assert range_of_validity([5.0, 10.0], [1.08, 0.5]) == pytest.approx((25 + 75 * 18 / 58) ** 0.5)
    for grid in ([5.0, 10.0], [1.0, 2.0, 2.5], [1.0, 9.0]):
        assert range_of_validity(grid, [1 - 0.02 * alpha**2 for alpha in grid]) == pytest.approx(5**0.5)
    assert math.isnan(range_of_validity([1.0, 2.0], [1.0, 1.1 - 1e-9]))


def test_two_strata_have_satterthwaites_degrees_of_freedom() -> None:
    """Draws of two examples, x = 1: each stratum has the variance of its draws, with n − 1 degrees of freedom."""
    y = torch.tensor([[1.0, 10.0], [2.0, 14.0], [6.0, 24.0]], dtype=torch.float64)
    found, v = attenuation_slope(y, torch.ones_like(y), "draw"), y.var(0)
    assert found.dof == pytest.approx(2 * float(v.sum()) ** 2 / float(v.square().sum()))
    assert found.stderr == pytest.approx(float((v / 3).sum()) ** 0.5 / 2)
