"""The diagonal by plain products and by XDiag: against their definitions, dense matrices, and on known spectra."""

import pytest
import torch

from symnoise.core import InputError, generator
from symnoise.curvature import dense_hessian, diagonal, random_probes
from symnoise.curvature.estimators.columns import left_out
from symnoise.curvature.estimators.xdiag import leave_one_out
from tests.curvature.gauss_newton import dense_gauss_newton
from tests.quadratic import Quadratic
from tests.text import lifted, loss_of

DECAY = 0.7 ** torch.arange(60.0) * torch.where(torch.arange(60) % 5 == 4, -1.0, 1.0)
FLAT = torch.linspace(-2, 5, 60)
METHODS = ("hvp", "xdiag")


def naive_xdiag(A: torch.Tensor, omega: torch.Tensor) -> torch.Tensor:
    """d_i by its definition, (n, m): a basis of its own for every vector left out."""
    found = []
    for i in range(omega.shape[1]):
        Q = torch.linalg.qr(A @ torch.cat([omega[:, :i], omega[:, i + 1 :]], 1)).Q
        image = A @ omega[:, i]
        found.append((Q @ Q.T @ A).diagonal() + omega[:, i] * (image - Q @ (Q.T @ image)))
    return torch.stack(found, 1)


def signs(n: int, m: int) -> torch.Tensor:
    return torch.randint(0, 2, (n, m), generator=generator(n, "signs", m)).double() * 2 - 1


@pytest.mark.parametrize(("n", "rank", "m"), [(20, 20, 6), (20, 3, 6), (20, 5, 6), (7, 7, 9)])
def test_xdiag_s_short_form_is_the_leave_one_out_formula(n: int, rank: int, m: int) -> None:
    """Value and error; full and low rank, and more vectors than coordinates."""
    random = generator(n, "symmetric", rank)
    factor = torch.randn((n, rank), generator=random, dtype=torch.float64)
    A = factor @ torch.randn(rank, generator=random, dtype=torch.float64).diag() @ factor.T
    omega = signs(n, m)
    Q, R = torch.linalg.qr(A @ omega)
    value, stderr = leave_one_out(Q, A @ Q, R, omega)
    terms = naive_xdiag(A, omega)
    close = {"rtol": 1e-9, "atol": 1e-8 * float(A.norm())}
    torch.testing.assert_close(value, terms.mean(1), **close)
    change = torch.zeros(n, m, m, dtype=torch.float64)
    for j in range(m if m < rank else 0):  # else the d_i are exact, and stay so
        kept = [i for i in range(m) if i != j]
        change[:, kept, j] = terms[:, kept] - naive_xdiag(A, omega[:, kept])
    covariance = (change * change.mT).sum((1, 2)) / (m * (m - 1))
    torch.testing.assert_close(stderr, (terms.var(1) / m + covariance.clamp(min=0)).sqrt(), **close)


def test_left_out_vectors_are_orthogonal_to_the_other_columns() -> None:
    R = torch.randn((5, 5), generator=generator(0, "R"), dtype=torch.float64)
    s = left_out(R)
    torch.testing.assert_close(s.norm(dim=0), torch.ones(5).double())
    assert float((s.T @ R).fill_diagonal_(0).abs().max()) < 1e-12


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
def test_on_a_ragged_batch_of_a_model(matrix: str) -> None:
    """Against the dense matrix: entries within five standard errors, in float64 throughout; 0 at padding."""
    with lifted(True):
        loss = loss_of("llama")
        by_method = {method: diagonal(loss, method, probes=48, matrix=matrix) for method in METHODS}
        for b, tokens in enumerate((6, 4)):
            alone = loss.example(b)
            A = dense_hessian(alone)[0] if matrix == "hessian" else dense_gauss_newton(alone)
            exact = A.diagonal().view(tokens, 32)[:-1]
            for found in by_method.values():
                assert float(found.value[b, tokens - 1].abs().max()) < 1e-9  # the last token's output is not scored
                off = (found.value[b, : tokens - 1] - exact).abs() / found.stderr[b, : tokens - 1]
                assert float(off.max()) < 6 and 0.5 < float(off.square().mean().sqrt()) < 1.5
    for method, found in by_method.items():
        assert (found.method, found.probes) == (method, 48)
        assert float(found.value[1, 4:].abs().max()) == float(found.stderr[1, 4:].max()) == 0


def test_plain_products_are_the_mean_of_z_times_hz() -> None:
    loss = Quadratic(2, FLAT)
    found = diagonal(loss, "hvp", probes=9, seed=4)
    z = random_probes(loss, 9, seed=4)
    draws = z * (z.flatten(2) @ loss.A).view_as(z)
    torch.testing.assert_close(found.value, draws.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.stderr, draws.std(0) / 3, rtol=1e-9, atol=1e-12)
    assert found.dof == 8
    assert bool(diagonal(loss, probes=1).stderr.isnan().all())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("spectrum", ["decay", "flat"])
def test_unbiased_with_stated_intervals_that_cover(method: str, spectrum: str) -> None:
    """200 seeds, 60 entries each: 95 ± 2 % of all entries. The mean of an entry is within five of its standard errors.

    Where XDiag's basis holds nearly all of the matrix, what is left is skewed, and its covariance, cut at 0 entry by
    entry, makes the interval wider.
    """
    loss = Quadratic(200, DECAY if spectrum == "decay" else FLAT)
    exact = loss.A.diagonal().view(20, 3)
    found = diagonal(loss, method, probes=24)
    off = (found.value.mean(0) - exact) / (found.value.std(0) / 200**0.5)
    assert float(off.abs().max()) < 5
    low, high = found.interval(0.95)
    covered = float(((low <= exact) & (exact <= high)).double().mean())
    assert 0.93 < covered < 0.97


def test_xdiag_is_exact_on_a_low_rank_and_with_a_basis_of_all_coordinates() -> None:
    values = torch.zeros(60)
    values[:4] = torch.tensor([5.0, -3.0, 2.0, 1.0])
    for loss in (Quadratic(2, values), Quadratic(2)):
        found = diagonal(loss, "xdiag", probes=28)
        exact = loss.A.diagonal().view_as(found.value[0]).expand_as(found.value)
        torch.testing.assert_close(found.value, exact, rtol=1e-9, atol=1e-9)
        assert float(found.stderr.max()) < 1e-9


def test_xdiag_pays_where_few_eigenvalues_dominate_and_not_on_a_flat_spectrum() -> None:
    """Root mean square errors over 40 copies and 60 entries, at the same number of products."""

    def error(values: torch.Tensor, method: str) -> float:
        loss = Quadratic(40, values)
        found = diagonal(loss, method, probes=30)
        return float((found.value - loss.A.diagonal().view(20, 3)).square().mean().sqrt())

    assert error(DECAY, "hvp") > 10 * error(DECAY, "xdiag")
    assert error(FLAT, "hvp") < error(FLAT, "xdiag")


def test_what_it_refuses() -> None:
    for method, least in (("hvp", 1), ("xdiag", 4)):
        with pytest.raises(InputError, match=f"probes must be {least} or more"):
            diagonal(Quadratic(), method, probes=least - 1)
    with pytest.raises(InputError, match="did you mean 'xdiag'"):
        diagonal(Quadratic(), "xdia")
    with pytest.raises(InputError, match="unknown matrix"):
        diagonal(Quadratic(), matrix="G")


def test_two_products_have_the_error_of_two() -> None:
    loss, z = Quadratic(1, FLAT), random_probes(Quadratic(1, FLAT), 2, seed=1)[:, 0].flatten(1)
    found, draws = diagonal(loss, "hvp", probes=2, seed=1), z * (z @ loss.A)
    torch.testing.assert_close(found.value.flatten(), draws.mean(0))
    torch.testing.assert_close(found.stderr.flatten(), (draws[0] - draws[1]).abs() / 2)
    assert found.dof == 1 and bool(diagonal(loss, "hvp", probes=1).stderr.isnan().all())
