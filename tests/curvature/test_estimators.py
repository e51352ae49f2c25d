"""Hutch++ and XTrace: against their definitions, on known spectra, and on models."""

import pytest
import torch

from symnoise.core import InputError, generator
from symnoise.curvature import exact_trace, trace
from symnoise.curvature.estimators.xtrace import leave_one_out
from symnoise.curvature.loss import random_probes
from tests.quadratic import Quadratic
from tests.text import lifted, loss_of

# Fast decay, part of it negative; and n = 60 coordinates.
DECAY = 0.7 ** torch.arange(60.0) * torch.where(torch.arange(60) % 5 == 4, -1.0, 1.0)
ESTIMATORS = ("hutch++", "xtrace")


def naive_xtrace(A: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
    """t_i by its definition: a basis of its own for every vector left out."""
    found = []
    for i in range(omega.shape[1]):
        Q = torch.linalg.qr(A @ torch.cat([omega[:, :i], omega[:, i + 1 :]], 1)).Q
        rest = omega[:, i] - Q @ (Q.T @ omega[:, i])
        found.append((Q.T @ A @ Q).trace() + rest @ A @ rest)
    return torch.stack(found)


@pytest.mark.parametrize(("n", "rank", "m"), [(20, 20, 6), (20, 3, 6), (20, 5, 6), (5, 5, 5), (5, 5, 6), (5, 5, 9)])
def test_xtrace_s_short_form_is_the_leave_one_out_formula(n: int, rank: int, m: int) -> None:
    """Full and low rank, and more vectors than coordinates."""
    random = generator(n, "symmetric", rank)
    factor = torch.randn((n, rank), generator=random, dtype=torch.float64)
    A = factor @ torch.randn(rank, generator=random, dtype=torch.float64).diag() @ factor.T
    omega = torch.randn((n, m), generator=random, dtype=torch.float64)
    Q, R = torch.linalg.qr(A @ omega)
    terms, pairs = leave_one_out(Q.T @ A @ Q, R, Q.T @ omega, ((A @ omega) * omega).sum(0))
    close = {"rtol": 1e-9, "atol": 1e-9 * float(A.norm())}
    torch.testing.assert_close(terms, naive_xtrace(A, omega), **close)
    torch.testing.assert_close(pairs.diagonal(), terms)
    for j in range(m if m != rank + 1 else 0):  # one vector too many: t_i are exact, and stay so without another
        kept = [i for i in range(m) if i != j]
        torch.testing.assert_close(pairs[kept, j], naive_xtrace(A, omega[:, kept]), **close)


def test_xtrace_is_the_naive_one_on_the_same_probes() -> None:
    loss = Quadratic(1, DECAY)
    estimate = trace(loss, "xtrace", probes=12, seed=3)
    omega = random_probes(loss, 6, seed=3)[:, 0].flatten(1).T
    terms = naive_xtrace(loss.A, omega)
    change = torch.zeros(6, 6, dtype=torch.float64)
    for j in range(6):
        kept = [i for i in range(6) if i != j]
        change[kept, j] = terms[kept] - naive_xtrace(loss.A, omega[:, kept])
    covariance = float((change * change.T).sum()) / 30
    assert float(estimate.value) == pytest.approx(float(terms.mean()), rel=1e-9)
    assert float(estimate.stderr) == pytest.approx((float(terms.var()) / 6 + max(0, covariance)) ** 0.5, rel=1e-6)
    assert estimate.probes == 12 and estimate.dof == 5


def test_hutch_plus_plus_is_its_definition_on_the_same_probes() -> None:
    loss = Quadratic(1, DECAY)
    A = loss.A
    estimate = trace(loss, "hutch++", probes=13, seed=3)  # 4 for the sketch, 4 for its basis, 5 for the rest
    Z = random_probes(loss, 9, seed=3)[:, 0].flatten(1).T
    Q = torch.linalg.qr(A @ Z[:, :4]).Q
    rest = torch.eye(60, dtype=torch.float64) - Q @ Q.T
    forms = ((rest @ A @ rest @ Z[:, 4:]) * Z[:, 4:]).sum(0)
    assert float(estimate.value) == pytest.approx(float((Q.T @ A @ Q).trace() + forms.mean()), rel=1e-9)
    assert float(estimate.stderr) == pytest.approx(float(forms.std()) / 5**0.5, rel=1e-9)
    assert estimate.probes == 13 and estimate.dof == 4


@pytest.mark.parametrize("method", ESTIMATORS)
def test_a_low_rank_hessian_is_measured_exactly(method: str) -> None:
    values = torch.zeros(60)
    values[:4] = torch.tensor([5.0, -3.0, 2.0, 1.0])
    estimate = trace(Quadratic(3, values), method, probes=15)
    torch.testing.assert_close(estimate.value, torch.full((3,), 5.0).double(), rtol=1e-10, atol=0)
    assert float(estimate.stderr.max()) < 1e-10


@pytest.mark.parametrize("method", ESTIMATORS)
@pytest.mark.parametrize("count", [24, 60])
def test_more_probes_than_coordinates(method: str, count: int) -> None:
    estimate = trace(Quadratic(2), method, probes=count)
    if count == 60:  # the basis spans all 12 coordinates
        torch.testing.assert_close(estimate.value, Quadratic().A.trace().expand(2), rtol=1e-12, atol=0)
        assert float(estimate.stderr.max()) < 1e-12
    assert bool(estimate.value.isfinite().all())


@pytest.mark.parametrize("directions", ["rademacher", "gaussian"])
@pytest.mark.parametrize("method", ESTIMATORS)
@pytest.mark.parametrize("spectrum", ["decay", "flat"])
def test_unbiased_with_honest_errors(method: str, directions: str, spectrum: str) -> None:
    """1,000 copies: a 90 % interval's coverage has a standard error of 0.95 %, the bias that of the mean; four each.

    What is left of a fast spectrum is a few eigenvalues, whose forms are skewed: 3 % more are allowed there.
    A variance over 1,000 copies errs by 4.5 %; a covariance cut at 0 only makes it larger.
    """
    loss = Quadratic(1_000, DECAY if spectrum == "decay" else torch.linspace(-2, 5, 60))
    truth = loss.A.trace()
    estimate = trace(loss, method, probes=24, directions=directions)
    assert abs(float(estimate.value.mean() - truth)) < 4 * float(estimate.value.std()) / 1_000**0.5
    low, high = estimate.interval(0.9)
    allowed = 0.038 + 0.03 * (spectrum == "decay")
    assert abs(float(((low <= truth) & (truth <= high)).double().mean()) - 0.9) < allowed
    variance = float((estimate.value - truth).square().mean())
    assert 1 - 4 * 0.045 < float(estimate.stderr.square().mean()) / variance < (1.18 if spectrum == "flat" else 2)


@pytest.mark.parametrize(("method", "times"), [("hutch++", 10), ("xtrace", 20)])
def test_better_than_hutchinson_at_the_same_number_of_products(method: str, times: float) -> None:
    """Root mean square errors over 200 copies (each good to 5 %), positive spectrum that decays by 0.7 a step."""
    loss = Quadratic(200, DECAY.abs())
    errors = {
        name: float((trace(loss, name, probes=30).value - loss.A.trace()).square().mean().sqrt())
        for name in ("hvp", method)
    }
    assert errors["hvp"] > times * errors[method]


@pytest.mark.parametrize("method", ESTIMATORS)
def test_on_a_ragged_batch_of_a_model(method: str) -> None:
    with lifted(True):
        loss = loss_of("llama")
        exact = exact_trace(loss)
        both, alone = (trace(some, method, probes=40) for some in (loss, loss.example(1)))
    assert both.method == method
    assert bool(((both.value - exact).abs() < 4.5 * both.stderr).all())
    torch.testing.assert_close(both.value[1:], alone.value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(both.stderr[1:], alone.stderr, rtol=1e-9, atol=1e-9)


def test_what_they_refuse() -> None:
    for method in ESTIMATORS:
        with pytest.raises(InputError, match="needs 4 probes or more; got 3"):
            trace(Quadratic(), method, probes=3)
        with pytest.raises(InputError, match="independent probes"):
            trace(Quadratic(), method, directions="orthogonal")
        assert float(trace(Quadratic(), method, probes=4).stderr) >= 0
