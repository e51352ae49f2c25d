"""A wanted accuracy: what it takes, and that stopping biases neither estimate nor interval."""

import pytest
import torch

from symnoise.core import Estimate, InputError, generator
from symnoise.curvature import gauss_newton_trace, trace, trace_parts
from symnoise.curvature.estimators.sampler import Sampler
from symnoise.curvature.estimators.targets import ErrorTargets
from symnoise.curvature.estimators.two_stages import needed, two_stages
from tests.quadratic import Quadratic
from tests.text import loss_of

SEEDS = 1_000
PROBES, RTOL = 8, 0.2


def draws(seed: int) -> torch.Tensor:
    """One example of mean 1 and spread 1: 25 draws bring its standard error to 0.2."""
    return 1 + torch.randn((400, 1), generator=generator(seed, "draws"), dtype=torch.float64)


def in_two_stages(seed: int) -> Estimate:
    sample = draws(seed)
    return two_stages(
        lambda first, count: Estimate.from_draws(sample[first : first + count]),
        PROBES,
        ErrorTargets(RTOL),
        400,
        lambda e: e,
    )


def until_it_looks_small() -> torch.Tensor:
    """What `two_stages` is there to avoid: the means, (seed,), of as many chunks as look enough."""
    samples = torch.cat([draws(seed) for seed in range(SEEDS)], 1)
    found = torch.full((SEEDS,), torch.nan, dtype=torch.float64)
    for count in range(PROBES, 401, PROBES):
        mean, stderr = samples[:count].mean(0), samples[:count].std(0) / count**0.5
        found = torch.where(found.isnan() & (stderr / mean.abs() <= RTOL), mean, found)
    return found


def coverage(found: list[Estimate], truth: float = 1.0) -> float:
    ends = [estimate.interval(0.9) for estimate in found]
    return sum(bool((low <= truth) & (truth <= high)) for low, high in ends) / len(found)


@pytest.mark.filterwarnings("ignore:rtol=0.2 would take:RuntimeWarning")
def test_two_stages_are_unbiased_with_honest_intervals_and_looking_on_is_not() -> None:
    """A coverage over 1,000 seeds has a standard error of 0.95 %; four of them, and four of the mean's."""
    fresh = [in_two_stages(seed) for seed in range(SEEDS)]
    values = torch.cat([estimate.value for estimate in fresh])
    assert abs(coverage(fresh) - 0.9) < 0.038
    assert abs(float(values.mean()) - 1) < 4 * float(values.std()) / SEEDS**0.5
    looked = until_it_looks_small()  # stops sooner where the mean is large by chance
    assert float(looked.mean()) - 1 > 4 * float(looked.std()) / SEEDS**0.5


@pytest.mark.filterwarnings("ignore:rtol=0.2 would take:RuntimeWarning")
def test_the_number_suffices_as_often_as_it_should() -> None:
    """The true standard error, 1/√count, is within rtol of 1 in 80 % of runs or more (rounding up to chunks adds).

    A share over 500 seeds has a standard error of 1.8 %; four of them. The pilot's mean errs too, by 1/√8 of itself.
    """
    counts = torch.tensor([in_two_stages(seed).count for seed in range(500)])
    enough = (counts.double() ** -0.5 <= RTOL).double().mean()
    assert float(enough) > 0.8 - 0.072
    assert float(counts.double().median()) < 80


@pytest.mark.parametrize("method", ["hvp", "xtrace"])
def test_coverage_of_traces_with_a_target(method: str) -> None:
    """100 seeds: four standard errors of a 90 % interval's coverage are 12 %."""
    loss = Quadratic()
    found = [trace(loss, method, 8, seed, rtol=0.3, max_probes=400) for seed in range(100)]
    assert abs(coverage(found, float(loss.A.trace())) - 0.9) < 0.12


@pytest.mark.parametrize("method", ["taylor", "hvp", "difference", "xtrace"])
def test_the_answer_is_made_of_fresh_probes(method: str) -> None:
    loss = loss_of("llama")
    found = trace(loss, method, 8, 5, rtol=0.5, max_probes=64)
    assert found.probes % 8 == 0 and found.probes >= 8
    again = Sampler(8, 5, "rademacher", None)
    by = {
        "taylor": lambda *where: again.by_taylor(*where).hessian,
        "hvp": again.by_products,
        "difference": again.by_differences,
        "xtrace": lambda *where: again.by_estimator("xtrace", *where),
    }[method]
    expected = by(loss, 8, found.probes)
    torch.testing.assert_close(found.value, expected.value)
    torch.testing.assert_close(found.stderr, expected.stderr)


def test_orthogonal_blocks_go_on_through_the_chunks() -> None:
    found = trace(Quadratic(), "hvp", 16, rtol=0.05, max_probes=2_000, directions="orthogonal")
    assert found.dof == found.probes // 4 - 1 > 3
    assert float(found.stderr / found.value.abs()) < 0.1


def test_what_it_takes() -> None:
    """Whichever is less: the mean over examples or each of them; and more where the pilot's error is less known."""
    same = Estimate(torch.tensor([1.0, 1.0]).double(), torch.tensor([0.4, 0.4]).double(), count=8, dof=1e9)
    assert needed(same, ErrorTargets(0.1))[0] == pytest.approx(8 * 16 / 2, rel=1e-3)
    opposed = Estimate(torch.tensor([1.0, -1.0]).double(), torch.tensor([0.4, 0.4]).double(), count=8, dof=1e9)
    assert needed(opposed, ErrorTargets(0.1))[0] == pytest.approx(8 * 16, rel=1e-3)
    vague = Estimate(opposed.value, opposed.stderr, count=8, dof=7)
    assert needed(vague, ErrorTargets(0.1))[0] == pytest.approx(
        8 * 16 * 7 / 3.822, rel=1e-3
    )  # χ²_7 has 20 % below 3.822
    assert needed(Estimate.exact(torch.tensor([0.0, 2.0]), count=8), ErrorTargets(0.1))[0] == 0


def pilot(values: list[float], errors: list[float]) -> Estimate:
    return Estimate(torch.tensor(values).double(), torch.tensor(errors).double(), count=8, dof=1e9)


@pytest.mark.parametrize(
    ("values", "errors", "targets", "wanted", "why"),
    [
        ([10.0], [2.0], ErrorTargets(rtol=0.1, atol=0.5), 8 * 4, "rtol"),
        ([0.1], [2.0], ErrorTargets(rtol=0.1, atol=0.5), 8 * 16, "atol"),
        (
            [-10.0],
            [2.0],
            ErrorTargets(sign=True),
            8 * (0.2 * 2.8016) ** 2,
            "sign",
        ),  # 1.960 + 0.842 standard errors from 0
        ([0.1], [2.0], ErrorTargets(atol=0.5, sign=True), 8 * 16, "atol"),
        ([10.0, 0.0], [0.4, 0.3], ErrorTargets(rtol=0.1, atol=0.01), 8 * 0.25, "rtol"),  # the mean, 5 ± 0.25
        ([10.0, -10.0, 0.0], [1.0, 1.0, 0.01], ErrorTargets(rtol=0.1, atol=0.01), 8, "atol, rtol"),  # each by its own
    ],
)
def test_the_loosest_target_counts_and_is_named(values, errors, targets: ErrorTargets, wanted: float, why: str) -> None:
    assert needed(pilot(values, errors), targets) == (pytest.approx(wanted, rel=1e-3), why)


def test_a_trace_near_0_stops_by_its_absolute_error() -> None:
    values = torch.cat([torch.arange(1.0, 7.0), -torch.arange(1.0, 7.0)])  # tr = 0
    loss = Quadratic(20, values)
    with pytest.warns(RuntimeWarning, match="rtol=0.1 would take about"):
        relative = trace(loss, "hvp", probes=8, rtol=0.1, max_probes=64)
    assert relative.stopped == "max_probes" and relative.probes == 56
    both = trace(loss, "hvp", probes=8, rtol=0.1, atol=1.0, max_probes=2_000)
    assert both.stopped == "atol" and float(both.mean().stderr) < 1.3
    assert "stopped by atol" in repr(both)
    assert trace(loss, "hvp").stopped == ""


def test_a_known_sign_is_known_about_as_often_as_it_should() -> None:
    """100 seeds: 95 % intervals exclude 0 in 80 % or more (four standard errors: 16 %), and cover the truth in 95 %."""
    loss = Quadratic()
    found = [trace(loss, "hvp", 8, seed, sign=True, max_probes=10_000) for seed in range(100)]
    truth = float(loss.A.trace())
    assert {one.stopped for one in found} == {"sign"}
    ends = [one.interval(0.95) for one in found]
    known = [bool(low > 0) or bool(high < 0) for low, high in ends]
    assert sum(known) > 64
    assert sum(bool(low <= truth) & bool(truth <= high) for low, high in ends) >= 87


def test_targets_say_what_they_are_in_words() -> None:
    assert str(ErrorTargets(0.1, 2.0)) == "rtol=0.1 or atol=2" and str(ErrorTargets(sign=True)) == "a known sign"
    assert not ErrorTargets() and ErrorTargets(sign=True) and ErrorTargets(atol=1.0)


def test_the_most_probes_are_kept_to_with_a_warning() -> None:
    said = r"rtol=0.001 would take about .* max_probes=50, where the mean is .* with a standard error of"
    with pytest.warns(RuntimeWarning, match=said):
        found = trace(Quadratic(), "hvp", probes=16, rtol=0.001, max_probes=50)
    assert found.probes == 32


def test_a_pilot_that_finds_nothing_asks_for_no_number_of_probes() -> None:
    """A mean of 0 makes every relative error infinite; "inf probes" would tell nobody anything."""
    flat = lambda first, count: Estimate.from_draws(torch.tensor([[1.0], [-1.0]]).repeat(count // 2, 1))  # noqa: E731
    with pytest.warns(
        RuntimeWarning, match=r"rtol=0.1 cannot be aimed at, since the pilot of 4 probes found 0"
    ) as seen:
        two_stages(flat, 4, ErrorTargets(0.1), 16, lambda e: e)
    assert "inf" not in str(seen[0].message)


def test_parts_decide_by_what_is_asked_for() -> None:
    loss = loss_of("gpt2")
    parts = trace_parts(loss, "hvp", 8, rtol=1.0)
    assert parts.hessian.count == parts.gauss_newton.count == parts.rest.count
    torch.testing.assert_close(parts.gauss_newton.value + parts.rest.value, parts.hessian.value)
    alone = gauss_newton_trace(loss, "hvp", 8, rtol=0.3)
    assert float(alone.mean().stderr / alone.mean().value) < 0.5


def test_bad_targets() -> None:
    for rtol in (0.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="rtol must be above 0"):
            trace(Quadratic(), rtol=rtol)
    for atol in (0.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="atol must be above 0"):
            trace(Quadratic(), atol=atol)
    with pytest.raises(InputError, match="both relative"):
        trace(Quadratic(), rtol=0.1, sign=True)
    with pytest.raises(InputError, match="a known sign is for methods with probes"):
        trace(Quadratic(), "exact", sign=True)
    with pytest.raises(InputError, match="give at least 32"):
        trace(Quadratic(), probes=16, rtol=0.1, max_probes=31)
    with pytest.raises(InputError, match="take more probes"):
        trace(Quadratic(), probes=1, rtol=0.1)


def test_a_target_that_a_single_chunk_meets_takes_one() -> None:
    found = trace(Quadratic(3), "hvp", 8, atol=1e6, max_probes=800)
    assert found.count == 8 and found.stopped == "atol"
