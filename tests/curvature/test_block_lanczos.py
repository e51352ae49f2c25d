"""Extreme eigenvalues of matrices whose spectrum is known, with multiplicity."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from symnoise.core import generator
from symnoise.curvature import spectrum
from symnoise.curvature.estimators.block_lanczos import ORDERS, _missed, eigenpairs
from symnoise.models import EmbeddingLoss
from tests.text import batch
from tests.tiny import tiny

N = 200
SPECTRA = {
    "twenty equal of two hundred": torch.cat([torch.full((20,), 3.0), torch.linspace(1, -1, 180)]),
    "clusters in pairs and triples": torch.cat([torch.tensor([9.0, 9, 7, 7, 7, -8, -8]), torch.linspace(2, -2, 193)]),
    "a few nearly equal": torch.cat([5 + 1e-6 * torch.arange(6.0), torch.linspace(1, -1, 194)]),
    "decay": 0.9 ** torch.arange(float(N)),
    "flat": torch.linspace(-1, 1, N),
    "low rank": torch.cat([torch.tensor([4.0, 2, 1]), torch.zeros(N - 3)]),
}


class Matrix:
    """A symmetric matrix as an operator, which counts the columns that it is multiplied with."""

    def __init__(self, values: torch.Tensor, dtype: torch.dtype = torch.float64) -> None:
        n = len(values)
        rotation = torch.linalg.qr(torch.randn((n, n), generator=generator(0, "A"), dtype=torch.float64)).Q
        self.A = (rotation @ values.double().diag() @ rotation.T).to(dtype)
        self.shape, self.dtype, self.device, self.columns = self.A.shape, dtype, self.A.device, 0

    def __matmul__(self, v: torch.Tensor) -> torch.Tensor:
        self.columns += v[0].numel()
        return self.A @ v


@pytest.mark.parametrize("which", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.filterwarnings("error")
def test_every_eigenvalue_as_often_as_its_multiplicity(name: str, dtype: torch.dtype, which: str) -> None:
    if (name, which) == ("decay", "smallest"):
        pytest.skip("a hundred eigenvalues within the tolerance of 0: which are the smallest of them is rounding")
    H, k = Matrix(SPECTRA[name], dtype), 20 if "twenty" in name else 7
    found = eigenpairs(H, k, which, generator(0, "start"), 1e-4)
    values = torch.linalg.eigvalsh(H.A.double())
    wanted = values[ORDERS[which](values).argsort(descending=True)][:k]
    largest = float(values.abs().max())
    # Eigenvalues are good to the square of residuals over gaps; to the residual itself within a cluster.
    torch.testing.assert_close(ORDERS[which](found.values), ORDERS[which](wanted), rtol=0, atol=1e-4 * largest)
    residual = (H.A.double() @ found.vectors.double() - found.vectors.double() * found.values).norm(dim=0)
    torch.testing.assert_close(residual, found.residuals, rtol=0.1, atol=1e-5 * largest)
    assert float((found.vectors.T @ found.vectors - torch.eye(k)).abs().max()) < 1e-5
    assert H.columns < 40 * k


def test_one_vector_misses_what_a_block_sees() -> None:
    """SciPy's Lanczos from one vector, on the matrix of twenty equal eigenvalues: small residuals, wrong values."""
    from scipy.sparse.linalg import eigsh

    H = Matrix(SPECTRA["twenty equal of two hundred"])
    start = torch.randn(N, generator=generator(0, "start"), dtype=torch.float64)
    values, vectors = eigsh(H.A.numpy(), 20, which="LA", v0=start.numpy(), tol=1e-4)
    assert np.linalg.norm(H.A.numpy() @ vectors - vectors * values, axis=0).max() < 1e-2
    assert (values < 2.9).sum() >= 5
    found = eigenpairs(H, 20, "algebraic", generator(0, "start"), 1e-4)
    assert float((found.values - 3).abs().max()) < 1e-6


def test_the_first_of_near_eigenvalues_is_found_from_a_single_vector_too() -> None:
    bulk = torch.linspace(-0.1, 0.1, N - 3)
    H = Matrix(torch.cat([bulk, torch.tensor([1.0, 1.0002, 1.0005])]))
    for seed in range(12):
        found = eigenpairs(H, 1, "algebraic", generator(seed, "x"), 1e-4)
        assert float(found.values[0]) == pytest.approx(1.0005, abs=1e-4)


def test_a_missed_eigenvalue_is_seen_from_its_complement() -> None:
    H = Matrix(SPECTRA["clusters in pairs and triples"])
    for which in ORDERS:
        whole = eigenpairs(H, 7, which, generator(0, "start"), 1e-8)
        assert not _missed(H, whole, which, generator(1, "start"), 1e-4)
        kept = [0, *range(2, 7)]  # one of the first pair left out
        part = replace(
            whole, values=whole.values[kept], vectors=whole.vectors[:, kept], residuals=whole.residuals[kept]
        )
        assert _missed(H, part, which, generator(1, "start"), 1e-4)


def test_a_search_that_does_not_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symnoise.curvature.estimators.block_lanczos._STEPS", 3)
    with pytest.warns(UserWarning, match="have residuals up to"):
        eigenpairs(Matrix(SPECTRA["flat"]), 5, "algebraic", generator(0, "start"), 1e-10)


def test_the_spectrum_of_nothing() -> None:
    """A head of zeros makes the loss constant: H = 0, and so are its eigenvalues."""
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = spectrum(EmbeddingLoss(model, batch()), k=3)
    assert torch.equal(found.values, torch.zeros(2, 3).double()) and torch.equal(found.residuals, found.values)
    assert [tuple(vectors.shape) for vectors in found.vectors] == [(3, 6, 32), (3, 4, 32)]


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_a_unit_of_the_loss_scales_eigenvalues_and_nothing_else(unit: float) -> None:
    values = torch.linspace(-2, 5, 60, dtype=torch.float64)
    one, other = (
        eigenpairs(Matrix(scale * values), 3, "algebraic", generator(0, "unit"), 1e-6) for scale in (1.0, unit)
    )
    torch.testing.assert_close(other.values / unit, one.values, rtol=1e-9, atol=0)
    assert other.steps == one.steps
