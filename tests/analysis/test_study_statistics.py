"""Statistics of paired runs on draws whose truth is known: coverage, size and power against what theory gives.

Shares of N simulations are held to 4 binomial standard errors: a right one fails once in 16,000 seeds, and these are
fixed.
"""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.study.association import Association, between_settings, within_settings
from analysis.study.contrasts import arms_of, pair_up
from analysis.study.pairs import detectable, holm, interval, least_p, pairs_needed, power, sign_flip, sign_test, student


def near(share: float, expected: float, n: int, below: float = 0.0) -> bool:
    """Within 4 standard errors of expected, or of expected − below on its low side."""
    error = 4 * math.sqrt(expected * (1 - expected) / n)
    return expected - below - error <= share <= expected + error


@pytest.mark.parametrize(("pairs", "method"), [(4, "Student"), (10, "bootstrap")])
def test_intervals_cover_the_mean_as_often_as_they_say(pairs, method) -> None:
    draws = np.random.default_rng(pairs)
    found = [interval(draws.normal(0.3, 2, pairs), 0.95, k) for k in range(1200)]
    assert {made.method for made in found} == {method}
    share = np.mean([made.low <= 0.3 <= made.high for made in found])
    # The plain percentile interval of 10 pairs covers 91 %, which the bound refuses.
    assert near(share, 0.95, 1200, below=0.0 if method == "Student" else 0.005)


def test_fewer_than_two_pairs_have_no_interval() -> None:
    one, none = interval(np.array([0.2]), 0.95), interval(np.array([]), 0.95)
    assert one.mean == 0.2 and math.isnan(one.low) and one.method == none.method == "none" and math.isnan(none.mean)
    assert math.isnan(sign_flip(np.array([])))


def test_equal_keys_give_equal_intervals_and_others_do_not() -> None:
    d = np.random.default_rng(0).normal(size=12)
    assert interval(d, 0.95, "a", 5.0) == interval(d, 0.95, "a", 5.0) != interval(d, 0.95, "b", 5.0)


def test_the_permutation_test_has_its_size_and_power() -> None:
    draws, n, times = np.random.default_rng(3), 8, 1500
    null = np.mean([sign_flip(draws.normal(size=n)) <= 0.05 for _ in range(times)])
    assert near(null, 12 / 256, times)  # the patterns come in twos: 12 of 256 lie at or under 5 %
    effect = 1.2
    found = np.mean([sign_flip(draws.normal(effect, 1, n)) <= 0.05 for _ in range(times)])
    expected = power(effect, 1.0, n, 1 - 12 / 256)
    assert near(found, expected, times, below=0.03)  # a permutation test gives up little of the t test's power
    assert sign_flip(np.full(5, 0.1)) == 2 / 32
    many = draws.normal(0.2, 1, 30)  # drawn signs, against the t test
    assert sign_flip(many, "many") == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.03)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, math.nan, 0.03]).tolist() == pytest.approx([0.03, 0.06, math.nan, 0.06], nan_ok=True)
    assert holm([]).tolist() == [] and np.isnan(holm([math.nan])).all()


def test_holm_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests  # which collects garbage at each call, a fifth of a second

    for size in (1, 2, 20, 100):
        p = np.round(np.random.default_rng(size).uniform(0, 0.2, size), 2)  # with ties
        np.testing.assert_allclose(holm(p.tolist()), multipletests(p, method="holm")[1])


def test_differences_that_cancel_but_for_rounding_have_p_1() -> None:
    d = np.array([-0.6, 0.4, -0.5, -0.2, -0.7, -0.3, -0.7, 0.7, 1.1, -0.2, 0.1, -0.3, 0.8, 0.4])
    assert sign_flip(d) == 1


def test_the_exact_permutation_test_is_scipys_where_there_are_no_ties() -> None:
    d = np.random.default_rng(5).normal(0.4, 1, 10)
    made = stats.permutation_test((d,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=2000)
    assert sign_flip(d) == pytest.approx(made.pvalue)


@pytest.mark.parametrize("pairs", [1, 3, 10, 14, 20])
def test_the_least_p_is_that_of_pairs_that_all_agree(pairs) -> None:
    assert sign_flip(np.full(pairs, 0.1) + 0.001 * np.arange(pairs)) == pytest.approx(least_p(pairs))


def test_power_is_known_and_grows_with_the_effect_at_every_size() -> None:
    for n in (2, 3, 4, 6, 10, 30):
        found = [power(effect, 1.0, n) for effect in np.linspace(0.1, 20, 200)]
        assert np.isfinite(found).all() and (np.diff(found) > -1e-9).all() and max(found) <= 1


def test_power_agrees_with_statsmodels_and_the_plan_with_power() -> None:
    from statsmodels.stats.power import TTestPower

    for effect, n in ((0.5, 10), (1.0, 5), (0.2, 200)):
        assert power(effect * 3, 3.0, n) == pytest.approx(TTestPower().power(effect, n, 0.05), abs=1e-6)
    n = pairs_needed(0.015, 0.03)
    assert power(0.015, 0.03, n) >= 0.8 > power(0.015, 0.03, n - 1)
    assert n == math.ceil(TTestPower().solve_power(0.5, power=0.8, alpha=0.05))
    assert pairs_needed(1.0, 0.001) == 2
    assert holm([0.01, 0.04], 4).tolist() == pytest.approx([0.04, 0.12])  # two more tests are still to come
    assert power(detectable(0.02, 10), 0.02, 10) == pytest.approx(0.8)
    assert math.isnan(detectable(0.02, 1))
    with pytest.raises(ValueError, match="effect other than 0"):
        pairs_needed(0.0, 1.0)


def test_the_sign_test_is_the_binomial() -> None:
    assert sign_test(9, 1) == pytest.approx(2 * 11 / 1024) and math.isnan(sign_test(0, 0))


# The design of `micro` without its penalty arm: two arms without noise, 5 at α = 5, 9 at 10 and 5 at 15; ten seeds.
DESIGN, SEEDS = (math.nan,) * 2 + (5.0,) * 5 + (10.0,) * 9 + (15.0,) * 5, 10
ARMS = (9, 10, *range(5), *range(9), *range(5))  # whose settings those are: five arms have all three α
SETTINGS = len(DESIGN)


def null(
    draws: np.random.Generator, *, settings: int = SETTINGS, seeds: int = SEEDS, slope: float = 0.0
) -> pd.DataFrame:
    """Runs in which curvature and quality have nothing to do with each other but `slope`, within settings: arms differ
    in both (heavy tails), alike at every α, hard seeds are hard in both, and settings of one seed hang together in
    either."""
    x, y = draws.standard_t(3, size=(2, 1, 11))[:, :, ARMS[:settings]]
    dose = {alpha: draws.normal(size=2) for alpha in (5.0, 10.0, 15.0)}  # more noise changes both, in whatever way
    shift = 5 * np.array([dose.get(alpha, np.zeros(2)) for alpha in DESIGN[:settings]])
    hard = draws.normal(size=(seeds, 1))
    shared = draws.normal(size=(2, seeds, 1)) * draws.normal(size=(2, 1, settings))
    own = draws.normal(size=(2, seeds, settings))
    curvature = shift[:, 0] + 3 * x + hard + shared[0] + 0.5 * own[0]
    quality = shift[:, 1] + 3 * y + hard + shared[1] + 0.5 * (slope * own[0] + math.sqrt(1 - slope**2) * own[1])
    where = [(f"s{k}", f"arm {ARMS[k]}", DESIGN[k], seed) for seed in range(seeds) for k in range(settings)]
    frame = pd.DataFrame(where, columns=["setting", "arm", "alpha", "seed"])
    return frame.assign(curvature=curvature.ravel(), quality=quality.ravel())


def over_all_runs(frame: pd.DataFrame, level: float, draws: np.random.Generator) -> tuple[float, float]:
    """The old rule: Spearman's ρ over runs, whole seeds resampled."""
    tables = [frame.pivot(index="seed", columns="setting", values=c).to_numpy() for c in ("curvature", "quality")]
    found = []
    for _ in range(60):
        chosen = draws.integers(len(tables[0]), size=len(tables[0]))
        found.append(math.atanh(stats.spearmanr(tables[0][chosen].ravel(), tables[1][chosen].ravel())[0]))
    half = float(stats.t.ppf(0.5 + level / 2, len(tables[0]) - 1)) * float(np.std(found, ddof=1))
    rho = math.atanh(stats.spearmanr(frame.curvature, frame.quality)[0])
    return math.tanh(rho - half), math.tanh(rho + half)


def wrong_at(level: float, ends: list[tuple[float, float]]) -> float:
    """The share of intervals that do not hold 0."""
    return float(np.mean([not low <= 0 <= high for low, high in ends]))


@pytest.mark.parametrize("correlate", [between_settings, within_settings])
def test_unrelated_curvature_and_quality_give_verdicts_at_their_level(correlate) -> None:
    times, draws = 500, np.random.default_rng(12)
    made = [correlate(null(draws)) for _ in range(times)]
    for level in (0.95, 0.99, 0.999):
        wrong = wrong_at(level, [one.interval(level) for one in made])
        assert wrong <= 1 - level + 4 * math.sqrt((1 - level) * level / times), level
    assert wrong_at(0.95, [one.interval(0.95) for one in made]) > 0.005  # the interval is not idly wide


def test_the_old_rule_takes_unrelated_settings_for_a_correlation() -> None:
    draws = np.random.default_rng(13)
    ends = [over_all_runs(null(draws), 0.999, draws) for _ in range(40)]
    assert wrong_at(0.999, ends) > 0.2  # at a nominal 0.1 %


def test_correlations_are_found_where_they_are() -> None:
    draws = np.random.default_rng(14)
    unit = null(draws)
    linked = unit.assign(quality=-unit.curvature + 1.5 * draws.normal(size=len(unit)))
    assert between_settings(linked).interval(0.99)[1] < 0
    assert within_settings(null(draws, slope=-0.99, seeds=30)).interval(0.95)[1] < 0
    # Signs turned between settings must not pass for one within them, nor the other way round.
    turned = null(draws, slope=0.99)
    means = turned.groupby("setting").curvature.transform("mean")
    turned = turned.assign(quality=turned.quality - 10 * means)
    assert between_settings(turned).value < -0.8 and within_settings(turned).value > 0.1


def test_a_third_column_is_partialled_out() -> None:
    draws, names = np.random.default_rng(15), ["curvature", "quality", "length"]
    frame = null(draws)
    apart = [np.tile(draws.normal(size=SETTINGS), SEEDS) for _ in range(2)]  # of settings
    length = frame.curvature + apart[0] + 0.2 * draws.normal(size=len(frame))
    driven = frame.assign(length=length, quality=length + apart[1] + 0.2 * draws.normal(size=len(frame)))
    assert between_settings(driven).value > 0.8 and within_settings(driven).value > 0.8
    low, high = within_settings(driven, "length").interval(0.999)
    assert low < 0 < high
    # By hand: the correlation of what a line in the length's ranks within each α leaves of the other two's, over arms.
    centred = driven[names] - driven.groupby("seed")[names].transform("mean")
    means, alpha = centred.groupby(driven.setting).mean(), driven.groupby("setting").alpha.first().fillna(0)
    ranks = means.groupby(alpha).rank()
    ranks -= ranks.groupby(alpha).transform("mean")
    ranks = ranks.groupby(driven.groupby("setting").arm.first()).mean()
    ranks -= ranks.groupby(ranks.index.isin(["arm 9", "arm 10"])).transform("mean")
    left = [ranks[c] - np.polyval(np.polyfit(ranks.length, ranks[c], 1), ranks.length) for c in names[:2]]
    made, rho = between_settings(driven, "length"), np.corrcoef(*left)[0, 1]
    assert made.value == pytest.approx(rho)
    assert (made.stderr, made.dof) == (pytest.approx(math.sqrt((1 + rho**2 / 2) / (11 - 2 - 2 - 1))), 11 - 2 - 1 - 1)


def test_ranks_are_scipys_and_a_diverged_setting_is_last() -> None:
    frame = null(np.random.default_rng(16), seeds=1).assign(alpha=10.0, arm=lambda one: one.setting)
    assert between_settings(frame).value == pytest.approx(stats.spearmanr(frame.curvature, frame.quality)[0])
    lost = frame.assign(quality=frame.quality.where(frame.index != 3, -math.inf))
    worst = frame.assign(quality=frame.quality.where(frame.index != 3, frame.quality.min() - 1e3))
    assert between_settings(lost).value == pytest.approx(between_settings(worst).value)
    several = null(np.random.default_rng(17))
    lost = several.assign(quality=several.quality.where(several.index != 5, -math.inf))
    assert within_settings(lost) == within_settings(several[several.seed != several.seed[5]])


def test_too_few_give_no_interval_and_say_why() -> None:
    few = null(np.random.default_rng(0), seeds=2, settings=4)
    for made in (between_settings(few), within_settings(few)):
        assert isinstance(made, Association) and made.note and all(map(math.isnan, made.interval(0.95)))
    flat = null(np.random.default_rng(0)).assign(curvature=1.0)
    assert between_settings(flat).note == within_settings(flat).note == "no spread"


def test_a_perfect_order_of_settings_has_no_interval() -> None:
    """At ±1 atanh is infinite: cut off there, seven settings in order by chance would "hold" at any level."""
    seeds, settings = 3, 7
    rows = [(f"s{k}", f"s{k}", 10.0, seed, float(k), -float(k)) for k in range(settings) for seed in range(seeds)]
    made = between_settings(pd.DataFrame(rows, columns=["setting", "arm", "alpha", "seed", "curvature", "quality"]))
    assert made.value == pytest.approx(-1) and made.note == "a perfect order has no interval"
    assert all(map(math.isnan, made.interval(0.999)))


def test_the_interval_of_few_pairs_is_students_by_hand() -> None:
    """1, 2 and 6: mean 3, standard error √(7/3), and t of two degrees of freedom 4.3027."""
    made = interval(np.array([1.0, 2.0, 6.0]), 0.95)
    half = 4.302652730 * math.sqrt(7 / 3)
    assert (made.mean, made.low, made.high, made.method) == (
        3,
        pytest.approx(3 - half),
        pytest.approx(3 + half),
        "Student",
    )
    all_of_it = student(np.array([1.0, 2.0, 6.0]), 0.95)
    assert all_of_it["stderr"] == pytest.approx(math.sqrt(7 / 3)) and all_of_it["high"] == pytest.approx(3 + half)
    assert all_of_it["p"] == pytest.approx(stats.ttest_1samp([1.0, 2.0, 6.0], 0).pvalue)
    assert math.isnan(student(np.array([2.0, 2.0]), 0.95)["p"])


def influences(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """d atanh ρ by each seed's weight, by hand: of Σxy, Σx² and Σy² through the products and through the ranks."""
    order = [np.sign(t - t[:, None]) / 2 for t in (x, y)]  # (other seed, seed, setting)
    steps = [o - o.mean(-1, keepdims=True) for o in order]  # how a seed's weight moves the ranks of all
    ranks = [step.sum(0) for step in steps]
    sums, moved = {}, {}
    for a, b in ((0, 0), (0, 1), (1, 1)):
        sums[a, b] = (ranks[a] * ranks[b]).sum()
        through = (steps[a] * ranks[b]).sum((1, 2)) + (steps[b] * ranks[a]).sum((1, 2))
        moved[a, b] = (ranks[a] * ranks[b]).sum(1) + through
    rho = sums[0, 1] / math.sqrt(sums[0, 0] * sums[1, 1])
    relative = moved[0, 1] / sums[0, 1] - moved[0, 0] / sums[0, 0] / 2 - moved[1, 1] / sums[1, 1] / 2
    return rho * relative / (1 - rho**2)


def test_the_error_of_a_correlation_within_settings_is_by_hand_that_of_seeds_weights() -> None:
    frame = null(np.random.default_rng(18), settings=4, seeds=5)
    made = within_settings(frame)
    tables = [frame.pivot(index="seed", columns="setting", values=c).to_numpy() for c in ("curvature", "quality")]
    expected = 5 / 4 * math.sqrt(5 * np.var(influences(*tables)))
    assert (made.stderr, made.dof) == (pytest.approx(expected, rel=1e-6), 4)
    low, high = made.interval(0.95)
    half = 2.776445105 * made.stderr
    assert (math.atanh(low), math.atanh(high)) == pytest.approx(
        (math.atanh(made.value) - half, math.atanh(made.value) + half)
    )
    assert (
        within_settings(frame[frame.setting.isin(["s0", "s1"])]).stderr > 0
    )  # two settings are enough, and five seeds
    assert within_settings(frame[frame.seed < 4]).note == "fewer than 5 seeds or two settings"


@pytest.mark.parametrize(("seeds", "settings"), [(5, 4), (8, SETTINGS)])
def test_intervals_of_a_correlation_within_settings_cover_with_few_seeds(seeds, settings) -> None:
    """Over 800 draws, 95 % intervals; three standard errors of 0.8 %. The delete-one jackknife covers 98 % with 8."""
    draws = np.random.default_rng(seeds)
    ends = [within_settings(null(draws, seeds=seeds, settings=settings)).interval(0.95) for _ in range(800)]
    assert 0.925 < 1 - wrong_at(0.95, ends) < 0.973


@pytest.mark.parametrize("worse", [1.0, -1.0])
def test_pairs_by_hand(worse) -> None:
    """Seed 0 is whole; 1, 2 and 3 diverged in the first arm, the second, both, each after a last value; 4 has no value
    in the first arm; 5 has no run in the second."""
    rows = [(arm, seed) for arm in ("one", "two") for seed in range(6) if (arm, seed) != ("two", 5)]
    runs = pd.DataFrame(rows, columns=["arm", "seed"])
    diverged = [(arm, seed) in {("one", 1), ("two", 2), ("one", 3), ("two", 3)} for arm, seed in rows]
    runs = runs.assign(run=range(len(rows)), alpha=5.0, status=np.where(diverged, "diverged", "finished"))
    values = pd.Series([{"one": 10.0 + seed, "two": 1.0 + 2 * seed}[arm] for arm, seed in rows])
    values[4] = math.nan
    found = pair_up(arms_of(runs), values.to_dict(), "one", "two", 5.0, worse)
    assert found.differences.tolist() == [9.0]
    assert found.ordered.tolist() == [9.0, worse * math.inf, -worse * math.inf, 0.0]
    assert (found.diverged, found.seeds, found.missing) == ((2, 2), 5, 1)


def test_a_setting_is_not_taken_for_its_seeds() -> None:
    """Eight settings, six seeds that differ far more, and setting k without seed k: curvature rises, quality falls."""
    rows = [(f"s{k}", f"s{k}", 5.0, seed, k) for k in range(8) for seed in range(6) if seed != k]
    frame = pd.DataFrame(rows, columns=["setting", "arm", "alpha", "seed", "place"])
    frame = frame.assign(curvature=frame.place + 100 * frame.seed, quality=100 * frame.seed - frame.place)
    assert between_settings(frame).value == pytest.approx(-1)


def test_five_seeds_of_two_settings_are_enough_for_a_value() -> None:
    """The ranks differ by two of ½ and −½, in curvature as in quality: ρ = 1."""
    rows = [
        (setting, 5.0, seed, value)
        for setting, order in (("a", (1, 2, 3, 4, 5)), ("b", (1, 3, 2, 4, 5)))
        for seed, value in enumerate(order)
    ]
    frame = pd.DataFrame(rows, columns=["setting", "alpha", "seed", "curvature"])
    assert within_settings(frame.assign(quality=frame.curvature)).value == pytest.approx(1)
    assert within_settings(frame.assign(quality=-frame.curvature)).value == pytest.approx(-1)
