"""XNysTrace: against its definition, on known spectra, and as a method for tr G."""

import pytest
import torch
from scipy import stats

from symnoise.core import Estimate, InputError, generator
from symnoise.curvature import GaussNewtonProducts, gauss_newton_trace, random_probes, trace
from symnoise.curvature.estimators.columns import leave_one_out_dof, leave_one_out_error
from symnoise.curvature.estimators.xnystrace import leave_one_out, xnystrace
from tests.curvature.gauss_newton import dense_gauss_newton
from tests.quadratic import Quadratic
from tests.text import lifted, loss_of

DECAY = 0.7 ** torch.arange(60.0)
FLAT = torch.linspace(0.5, 5, 60)
PRECISION = 1e-15


def naive(A: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
    """t_i by its definition: a Nyström approximation of its own for every vector left out."""
    found = []
    for i in range(omega.shape[1]):
        rest = torch.cat([omega[:, :i], omega[:, i + 1 :]], 1)
        Y = A @ rest
        near = Y @ torch.linalg.pinv(rest.T @ Y, rtol=1e-12, hermitian=True) @ Y.T
        found.append(near.trace() + omega[:, i] @ (A - near) @ omega[:, i])
    return torch.stack(found)


def run(loss: Quadratic, count: int, directions: str = "rademacher", seed: int = 0) -> Estimate:
    def product(V: torch.Tensor) -> torch.Tensor:
        return (V.flatten(1) @ loss.A).view_as(V)

    return xnystrace(
        loss, product, lambda k, many: random_probes(loss, many, seed=seed, first=k, law_name=directions), count
    )


@pytest.mark.parametrize(("n", "rank", "m"), [(20, 20, 6), (20, 3, 6), (20, 5, 6), (5, 5, 5), (5, 5, 6), (5, 5, 9)])
def test_the_short_form_is_the_leave_one_out_formula(n: int, rank: int, m: int) -> None:
    """Full and low rank, and more vectors than coordinates."""
    random = generator(n, "semidefinite", rank)
    factor = torch.randn((n, rank), generator=random, dtype=torch.float64)
    A, omega = factor @ factor.T, torch.randn((n, m), generator=random, dtype=torch.float64)
    terms, without = leave_one_out(omega, A @ omega, PRECISION)
    close = {"rtol": 1e-7, "atol": 1e-8 * float(A.norm())}
    torch.testing.assert_close(terms, naive(A, omega), **close)
    torch.testing.assert_close(without.diagonal(), terms)
    for j in range(m if m != rank + 1 else 0):  # one vector too many: t_i are exact, and count as exact without another
        kept = [i for i in range(m) if i != j]
        torch.testing.assert_close(without[kept, j], naive(A, omega[:, kept]), **close)


def test_it_is_the_naive_one_on_the_same_probes() -> None:
    loss = Quadratic(1, DECAY)
    estimate, omega = run(loss, 8, seed=3), random_probes(loss, 8, seed=3)[:, 0].flatten(1).T
    terms, change = naive(loss.A, omega), torch.zeros(8, 8, dtype=torch.float64)
    for j in range(8):
        kept = [i for i in range(8) if i != j]
        change[kept, j] = terms[kept] - naive(loss.A, omega[:, kept])
    covariance = float((change * change.T).sum()) / 56
    assert float(estimate.value) == pytest.approx(float(terms.mean()), rel=1e-9)
    assert float(estimate.stderr) == pytest.approx((float(terms.var()) / 8 + max(0, covariance)) ** 0.5, rel=1e-6)
    psi = (terms - terms.mean()).square() / 7 + 2 * (change * change.T).sum(1) / 7
    assert estimate.probes == 8
    assert estimate.dof == pytest.approx(16 * float(estimate.stderr) ** 4 / float(psi.var()), rel=1e-6)


@pytest.mark.parametrize("directions", ["rademacher", "gaussian"])
@pytest.mark.parametrize("spectrum", ["decay", "flat"])
def test_unbiased_with_stated_intervals_that_cover(directions: str, spectrum: str) -> None:
    """1,000 sets of 16 vectors: 95 ± 2 % of the intervals cover, three of the coverage's standard errors.

    The mean is within four standard errors of the trace, and the mean of stderr² within four (4.5 %) of the variance.
    """
    A = Quadratic(1, DECAY if spectrum == "decay" else FLAT).A
    random, truth, found = generator(0, "vectors", directions), A.trace(), []
    for _ in range(1_000):
        omega = torch.randn((60, 16), generator=random, dtype=torch.float64)
        omega = omega.sign() if directions == "rademacher" else omega
        terms, without = leave_one_out(omega, A @ omega, PRECISION)
        dof = leave_one_out_dof(terms, without)
        found.append([float(terms.mean()), float(leave_one_out_error(terms, without)), float(stats.t.ppf(0.975, dof))])
    value, stderr, quantile = torch.tensor(found).double().T
    off = value - truth
    assert abs(float(off.mean())) < 4 * float(value.std()) / 1_000**0.5
    assert 0.93 <= float((off.abs() <= quantile * stderr).double().mean()) <= 0.97
    assert abs(float(stderr.square().mean() / off.square().mean()) - 1) < 4 * 0.045


def test_it_beats_the_others_where_eigenvalues_decay_and_gains_little_on_a_flat_spectrum() -> None:
    """Root mean square errors over 50 copies (each good to 10 %), at the same number of products."""

    def error(values: torch.Tensor, method: str) -> float:
        loss = Quadratic(50, values)
        found = run(loss, 30) if method == "xnystrace" else trace(loss, method, probes=30)
        return float((found.value - loss.A.trace()).square().mean().sqrt())

    assert error(DECAY, "hvp") > 100 * error(DECAY, "xnystrace")
    assert error(DECAY, "xtrace") > 5 * error(DECAY, "xnystrace")
    assert 0.5 * error(FLAT, "hvp") < error(FLAT, "xnystrace") < 2 * error(FLAT, "hvp")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_low_rank_is_measured_to_the_precision_of_its_products(dtype: torch.dtype) -> None:
    values = torch.zeros(60)
    values[:4] = torch.tensor([5.0, 3.0, 2.0, 1.0])
    loss = Quadratic(3, values)
    loss.embeddings, loss.A = loss.embeddings.to(dtype), loss.A.to(dtype)
    estimate = run(loss, 15)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(estimate.value, torch.full((3,), 11.0).double(), rtol=1e4 * eps, atol=0)
    assert float(estimate.stderr.max()) < 1e4 * eps


def test_nothing_is_measured_as_nothing() -> None:
    estimate = run(Quadratic(2, torch.zeros(60)), 6)
    assert float(estimate.value.max()) < 1e-300 and float(estimate.stderr.max()) < 1e-300


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_gauss_newton_products_are_those_of_the_dense_matrix(name: str) -> None:
    with lifted(True):
        loss = loss_of(name)
        (z,) = random_probes(loss, 1, seed=1)
        found = GaussNewtonProducts(loss)(z)
        for b, tokens in enumerate((6, 4)):
            expected = dense_gauss_newton(loss.example(b)) @ z[b, :tokens].flatten()
            torch.testing.assert_close(found[b, :tokens].flatten(), expected, rtol=1e-9, atol=1e-12)
    assert float(found[1, 4:].abs().max()) == 0


def test_as_a_method_for_the_gauss_newton_trace() -> None:
    with lifted(True):
        loss = loss_of("llama")
        both, alone = (gauss_newton_trace(some, "xnystrace", probes=24) for some in (loss, loss.example(1)))
        exact = torch.stack([dense_gauss_newton(loss.example(b)).trace() for b in range(2)])
        plain = gauss_newton_trace(loss, "hvp", probes=24)
    assert both.method == "xnystrace" and both.probes == 24
    assert bool(((both.value - exact).abs() < 4.5 * both.stderr).all())
    assert bool((both.stderr < plain.stderr).all())
    torch.testing.assert_close(both.value[1:], alone.value, rtol=1e-9, atol=1e-9)


def test_what_it_refuses() -> None:
    loss = loss_of("llama", torch.float32)
    with pytest.raises(InputError, match="unknown method"):
        trace(loss, "xnystrace")
    with pytest.raises(InputError, match="needs 4 probes or more; got 3"):
        gauss_newton_trace(loss, "xnystrace", probes=3)
    with pytest.raises(InputError, match="independent probes"):
        gauss_newton_trace(loss, "xnystrace", directions="orthogonal")
