"""Two levels of precision: no bias, honest errors, and a split that fits what a pilot finds.

bfloat16's own errors are small next to the spread of the probes, so tests exaggerate them.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from scipy import stats

from symnoise.core import Estimate, InputError, generator
from symnoise.curvature import TraceParts, dense_hessian, gauss_newton_trace, trace, trace_parts
from symnoise.curvature.estimators.sampler import Sampler
from symnoise.curvature.estimators.targets import ErrorTargets
from symnoise.curvature.estimators.two_levels import TwoLevels, by_two_levels, split
from symnoise.curvature.estimators.two_stages import two_stages
from symnoise.curvature.options import Options
from symnoise.curvature.taylor import UnsupportedOperation, taylor_quadratics
from symnoise.models import EmbeddingLoss
from tests.quadratic import Quadratic
from tests.text import batch, loss_of
from tests.tiny import tiny

COPIES = 400
SAMPLER, TRACE = (sys.modules[f"symnoise.curvature.{name}"] for name in ("estimators.sampler", "trace"))
PARTS = ("hessian", "gauss_newton", "rest")


def hessian(parts: TraceParts) -> Estimate:
    return parts.hessian


@pytest.fixture
def exaggerated(monkeypatch):
    """bfloat16 coefficients with forty times their error: about the spread of the probes, and a bias of some 5 %."""

    def quadratics(loss, V, *, groups, coefficients=None):
        fine = taylor_quadratics(loss, V, groups=groups)
        if coefficients is None:
            return fine
        rough = taylor_quadratics(loss, V, groups=groups, coefficients=coefficients)
        worse = {name: one + 40 * (getattr(rough, name) - one) for name, one in vars(fine).items() if name != "loss"}
        return replace(fine, **worse)

    monkeypatch.setattr(SAMPLER, "taylor_quadratics", quadratics)


@pytest.fixture
def proportional(monkeypatch):
    """bfloat16 forms that are 1.5 times the true ones: their error is as good as known from the form itself."""

    def quadratics(loss, V, *, groups, coefficients=None):
        found = taylor_quadratics(loss, V, groups=groups)
        factor = 1.0 if coefficients is None else 1.5
        return replace(found, hessian=factor * found.hessian, gauss_newton=factor * found.gauss_newton)

    monkeypatch.setattr(SAMPLER, "taylor_quadratics", quadratics)


def copies(count: int = COPIES) -> EmbeddingLoss:
    """One example many times: each copy draws its own probes."""
    text = {key: value[:1].repeat(count, 1) for key, value in batch(tokens=4).items()}
    return EmbeddingLoss(tiny("llama", torch.float64), text)


def truth() -> dict[str, float]:
    """By the dense Hessian, and J and ∇²ℓ in full."""
    loss = copies(1)
    H = float(dense_hessian(loss)[0].trace())
    J = torch.autograd.functional.jacobian(loss.logits, loss.embeddings).flatten(2)  # (scored, vocabulary, n)
    p = loss.logits(loss.embeddings).softmax(-1)
    W = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    G = float(torch.einsum("svn,svw,swn->", J, W, J)) / len(p)
    return {"hessian": H, "gauss_newton": G, "rest": H - G}


def of_each_copy(levels: TwoLevels) -> list[TwoLevels]:
    return [
        replace(levels, **{name: getattr(levels, name)[..., b : b + 1] for name in ("coarse", "rough", "fine")})
        for b in range(levels.fine.shape[-1])
    ]


def coverage(found: list[Estimate], true: float) -> float:
    ends = [estimate.interval(0.95) for estimate in found]
    return sum(bool((low <= true) & (true <= high)) for low, high in ends) / len(found)


def test_without_bias_and_with_honest_errors_against_the_dense_hessian(exaggerated) -> None:
    """400 copies with their own probes, end to end: a mean within 4 standard errors, a variance within 4 (28 %), and
    95 % intervals that cover 93 to 97 %. Without the pairs the mean is off."""
    true = truth()
    levels = by_two_levels(Sampler(8, 0, "rademacher", None), copies(), 0, 24, 1 / 3)
    assert (levels.others, levels.pairs) == (24, 8)
    each = [one.total() for one in of_each_copy(levels)]
    for part in PARTS:
        found = [getattr(one, part) for one in each]
        values = torch.cat([one.value for one in found])
        variance = torch.cat([one.stderr.square() for one in found]).mean()
        assert abs(float(values.mean()) - true[part]) < 4 * float(values.std()) / COPIES**0.5
        assert float(variance / values.var()) == pytest.approx(1, abs=0.28)
        assert 0.93 <= coverage(found, true[part]) <= 0.97
    coarse = levels.coarse[0].mean(0)
    assert abs(float(coarse.mean()) - true["hessian"]) > 4 * float(coarse.std()) / COPIES**0.5


def test_all_zthz_count_once(proportional) -> None:
    """With B = 1.5 H the estimate is w·1.5 of the others' mean and 1 − 1.5 w of the pairs': the errors say so.

    Were pairs and others the same probes, or the covariance of form and error left out, the variance would differ.
    """
    levels = by_two_levels(Sampler(8, 0, "rademacher", None), copies(), 0, 16, 1 / 2)
    assert (levels.others, levels.pairs) == (16, 8)
    found = levels.total().hessian
    others, pairs = (forms[0].mean(0) for forms in (levels.coarse, levels.fine))
    torch.testing.assert_close(found.value, 2 / 3 * others + (1 - 1.5 * 2 / 3) * pairs, rtol=1e-9, atol=1e-9)
    single = 2 * levels.fine[0].var(0).mean()  # one probe's variance: groups are means of 2
    expected = float(single) * ((2 / 3 * 1.5) ** 2 / 16 + (1 - 1.5 * 2 / 3) ** 2 / 8)
    assert float(found.stderr.square().mean()) == pytest.approx(expected, rel=0.2)
    assert float(found.value.var()) == pytest.approx(expected, rel=0.3)
    both = torch.stack([others, pairs])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 4 / COPIES**0.5


def made(K: int, M: int, V_0: float, V_1: float) -> TwoLevels:
    """Forms with exactly these variances of a probe and of a difference, four groups each, H = G."""
    unit = torch.tensor([-1.0, -1.0, 1.0, 1.0]).double()[:, None] * 0.75**0.5  # variance 1, mean 0
    other = torch.tensor([-1.0, 1.0, -1.0, 1.0]).double()[:, None] * 0.75**0.5
    coarse, rough = unit * (V_0 / (K / 4)) ** 0.5, unit * (V_0 / (M / 4)) ** 0.5
    fine = rough + other * (V_1 / (M / 4)) ** 0.5
    return TwoLevels(*(torch.stack([forms, forms]) for forms in (coarse, rough, fine)), K, M)


def test_the_error_and_its_degrees_of_freedom() -> None:
    """V₀/(K + M) + V₁/M, from K/(K + M) of V₀/(K + M) and the rest, three degrees of freedom each (Satterthwaite)."""
    found = made(60, 20, 8.0, 4.0).total().hessian
    first, second = 8 / 80 * 60 / 80, 8 / 80 * 20 / 80 + 4 / 20
    assert float(found.stderr) ** 2 == pytest.approx(first + second)
    assert found.dof == pytest.approx((first + second) ** 2 / (first**2 / 3 + second**2 / 3))
    assert found.count == 80


def test_the_share_costs_least_and_the_plan_expects_what_comes() -> None:
    levels = made(64, 16, 8.0, 0.02)
    share = levels.share(hessian)

    def cost(share: float) -> float:
        """Of K probes and share·K pairs at 3.6 probes each, for a variance of 1; 1/(K + M) left at 1/K."""
        return (1 + 3.6 * share) * (8.0 + 0.02 / share)

    assert cost(share) < min(cost(1.1 * share), cost(share / 1.1))
    expected = levels.expected(share).hessian
    assert float(expected.stderr) ** 2 == pytest.approx(8 / (64 * (1 + share)) + 0.02 / (share * 64))
    assert expected.count == 64
    assert made(16, 16, 1.0, 1e6).share(hessian) == made(16, 16, 0.0, 0.0).share(hessian) == 1


def test_the_fresh_probes_are_fresh_and_pairs_are_summed_as_the_others(monkeypatch) -> None:
    seen: list[tuple[range, int, bool]] = []

    def quadratics(loss, V, *, groups, coefficients=None):
        seen.append((drawn.pop(), groups, coefficients is None))
        return taylor_quadratics(loss, V, groups=groups, coefficients=coefficients)

    def probes(loss, count, *, first, **how):
        drawn.append(range(first, first + count))
        return inner(loss, count, first=first, **how)

    drawn: list[range] = []
    inner = SAMPLER.random_probes
    monkeypatch.setattr(SAMPLER, "taylor_quadratics", quadratics)
    monkeypatch.setattr(SAMPLER, "random_probes", probes)
    found = trace(loss_of("llama"), "two-level", 16, rtol=0.3, max_probes=200)
    coarse = [where for where, _, fine in seen if not fine]
    exact = [where for where, _, fine in seen if fine]
    assert all(len(where) == 16 and groups == 4 for where, groups, _ in seen)  # sums of 4 in both levels
    numbers = [k for where in coarse for k in where]
    assert len(set(numbers)) == len(numbers)  # pilot, fresh probes and pairs of both: no probe twice
    assert {k for where in exact for k in where} <= set(numbers)
    assert found.count == len(numbers) - 32  # without the pilot and its pairs


TABLE = 4_000


@pytest.fixture(scope="module")
def table() -> torch.Tensor:
    """(level, probe): zᵀBz with an exaggerated error, and zᵀHz, of independent probes on a tiny model, one by one."""
    text = {key: value[:1].repeat(TABLE // 16, 1) for key, value in batch(tokens=4).items()}
    loss = EmbeddingLoss(tiny("llama", torch.float32), text)
    V = SAMPLER.random_probes(loss, 16, seed=9)
    fine, rough = (
        taylor_quadratics(loss, V, groups=16, coefficients=dtype).hessian.flatten() for dtype in (None, torch.bfloat16)
    )
    return torch.stack([fine + 20 * (rough - fine), fine])


def resampled(table: torch.Tensor, seed: int) -> Callable[..., TwoLevels]:
    """`by_two_levels` on probes drawn from the table, H = G, in the same groups."""
    random = generator(seed, "table")

    def measure(first: int, count: int, share: float = 1 / 16) -> TwoLevels:
        pairs = 16 * max(1, -(-int(share * count) // 16))
        drawn = [table[:, torch.randint(TABLE, (k,), generator=random)] for k in (count, pairs)]
        coarse, both = (level.unflatten(1, (-1, 4)).mean(2)[:, :, None] for level in drawn)
        return TwoLevels(*(torch.stack([forms, forms]) for forms in (coarse[0], both[0], both[1])), count, pairs)

    return measure


def test_two_stages_of_two_levels_are_unbiased_with_honest_intervals(table) -> None:
    """400 seeds, simulated: probes resampled from 4,000 of a tiny model, whose mean is the truth."""
    true, found = float(table[1].mean()), []
    for seed in range(COPIES):
        measure = resampled(table, seed)
        plan = partial(split, measure=measure, of=hessian)
        found.append(two_stages(measure, 16, ErrorTargets(atol=4.0), 100_000, hessian, plan).hessian)
    values = torch.cat([one.value for one in found])
    assert abs(float(values.mean()) - true) < 4 * float(values.std()) / COPIES**0.5
    assert 0.93 <= coverage(found, true) <= 0.97
    enough = torch.tensor([float(one.stderr) <= 4.0 for one in found]).double().mean()
    assert float(enough) > 0.8 - 0.08  # four standard errors of a share over 400 seeds
    assert abs(float(table[0].mean()) - true) > 4 * float(table[0].std()) / TABLE**0.5  # one level alone is off


@pytest.fixture
def fast(monkeypatch):
    """A machine on which bfloat16 is faster."""
    monkeypatch.setattr(TRACE, "bfloat16_is_faster", lambda device: True)


def test_auto_takes_two_levels_where_they_pay(fast) -> None:
    single = loss_of("llama", dtype=torch.float32)
    assert trace(single, probes=128).method == "two-level"
    assert trace_parts(single, probes=8, rtol=2.0).rest.method == "two-level"
    assert gauss_newton_trace(single, probes=8, atol=1e6).method == "two-level"
    for options in (
        {"probes": 64},  # too few
        {"probes": 8, "rtol": 2.0, "max_probes": 64},
        {"probes": 128, "precision": "float32"},
        {"probes": 128, "precision": "bfloat16"},
        {"probes": 128, "coefficients": torch.bfloat16},
        {"probes": 128, "method": "taylor"},
    ):
        assert trace(single, **options).method == "taylor", options
    for dtype in (torch.float64, torch.bfloat16):
        assert trace(loss_of("llama", dtype=dtype), probes=128).method == "taylor"
    loss = loss_of("llama", dtype=torch.float32)
    loss.model.lm_head.to(torch.bfloat16)  # embeddings in float32 are not enough
    assert not TRACE._two_levels_pay(loss, Options("auto", 128, 0, "rademacher", None, None, False, 256, "auto", None))
    with pytest.raises(InputError, match=r"bfloat16 \(lm_head\.weight\)"):
        by_two_levels(Sampler(4, 0, "rademacher", None), loss, 0, 4)


def test_auto_keeps_to_one_level_where_bfloat16_is_slow_and_falls_back_from_two(monkeypatch, fast) -> None:
    single = loss_of("llama", dtype=torch.float32)

    def refuse(*_: object, **__: object) -> None:
        raise UnsupportedOperation("aten.fancy")

    with monkeypatch.context() as patch:
        patch.setattr(SAMPLER, "taylor_quadratics", refuse)
        with pytest.warns(UserWarning, match=r"aten\.fancy"):
            assert trace(single, probes=128).method == "hvp"
    monkeypatch.setattr(TRACE, "bfloat16_is_faster", lambda device: False)
    assert trace(single, probes=128).method == "taylor"


def test_precisions_are_those_of_the_coefficients() -> None:
    single = loss_of("llama", dtype=torch.float32)
    by_name, by_dtype = trace(single, precision="bfloat16"), trace(single, coefficients=torch.bfloat16)
    assert torch.equal(by_name.value, by_dtype.value)
    assert torch.equal(trace(single, precision="float32").value, trace(single, "taylor").value)


def test_what_two_levels_refuse() -> None:
    loss = loss_of("llama", dtype=torch.float32)
    for dtype in ("bfloat16", "float16"):
        with pytest.raises(InputError, match=rf"the weights of this model are {dtype} \(model\.embed_tokens\.weight\)"):
            trace(loss_of("llama", dtype=getattr(torch, dtype)), "two-level", probes=4)
    with pytest.raises(InputError, match="needs 4 probes or more; got 3"):
        trace(loss, "two-level", probes=3)
    with pytest.raises(InputError, match="precision='float32' forbids that"):
        trace(loss, "two-level", precision="float32")
    with pytest.raises(InputError, match="did you mean 'bfloat16'"):
        trace(loss, precision="bfloat61")
    with pytest.raises(InputError, match="not both"):
        trace(loss, precision="bfloat16", coefficients=torch.bfloat16)
    with pytest.raises(InputError, match="precision='bfloat16' is for method='taylor'; method='hvp' has none"):
        trace(loss, "hvp", precision="bfloat16")
    with pytest.raises(InputError, match="needs an EmbeddingLoss"):
        trace(Quadratic(), "two-level")


def test_batches_are_split_and_joined(monkeypatch) -> None:
    loss = loss_of("llama", dtype=torch.float32)
    both = trace_parts(loss, "two-level", probes=8, seed=3)
    alone = trace_parts(loss.example(1), "two-level", probes=8, seed=3)
    for part in PARTS:
        one, other = getattr(both, part), getattr(alone, part)
        torch.testing.assert_close(one.value[1:], other.value, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(both.gauss_newton.value + both.rest.value, both.hessian.value)
    halves = by_two_levels(Sampler(8, 3, "rademacher", None), loss, 0, 8)
    joined = TwoLevels.joined([halves, halves]).total()
    assert torch.equal(joined.hessian.value, both.hessian.value.repeat(2))
    assert torch.equal(joined.rest.stderr, both.rest.stderr.repeat(2))


def test_satterthwaite_of_a_sum() -> None:
    one = Estimate(torch.tensor([1.0]).double(), torch.tensor([3.0]).double(), count=4, dof=3.0)
    other = Estimate(torch.tensor([2.0]).double(), torch.tensor([4.0]).double(), count=8, dof=7.0)
    found = one + other
    assert (float(found.value), float(found.stderr)) == (3.0, 5.0)
    assert found.dof == pytest.approx(625 / (81 / 3 + 256 / 7))
    low, high = found.interval(0.95)
    assert float(high - low) == pytest.approx(2 * 5 * stats.t.ppf(0.975, found.dof))


def test_fresh_pairs_are_none_of_the_pilots_nor_of_the_other_probes(monkeypatch) -> None:
    drawn = []

    def forms(self, loss, first, count):
        drawn.append(range(first, first + count))
        return torch.zeros(4, 1), torch.zeros(4, 1)

    monkeypatch.setattr(Sampler, "taylor_forms", forms)
    for first, count in ((0, 16), (16, 48)):
        by_two_levels(Sampler(16, 0, "rademacher", None), copies(1), first, count, share=1.0)
    assert drawn[1] == drawn[2] and drawn[4] == drawn[5]  # rough and fine on the same probes
    used = [drawn[k] for k in (0, 1, 3, 4)]
    assert len(set().union(*used)) == sum(map(len, used)) == 128
