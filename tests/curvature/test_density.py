"""Stochastic Lanczos quadrature against dense spectra: nodes, weights, moments and the widened density."""

import pytest
import torch

import symnoise
from symnoise.core import InputError
from symnoise.curvature import SpectralDensity, dense_hessian, random_probes, spectral_density, trace
from symnoise.models import EmbeddingLoss
from tests.text import lifted, loss_of


def dense_spectra(loss: EmbeddingLoss) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Eigenvalues and eigenvectors of each example's Hessian over its real tokens."""
    sizes = loss.lengths * loss.shape[-1]
    return [torch.linalg.eigh(H[:n, :n]) for H, n in zip(dense_hessian(loss), sizes.tolist(), strict=True)]


@pytest.fixture(scope="module")
def loss() -> EmbeddingLoss:
    """Stock class: its casts to float32 leave errors of 1e-6 of the spectrum's width."""
    return loss_of("llama")


@pytest.fixture(scope="module")
def dense(loss) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return dense_spectra(loss)


def test_as_many_steps_as_coordinates_give_the_dense_spectrum() -> None:
    with lifted(True):
        loss = loss_of("llama")
        found = spectral_density(loss, steps=192, probes=1)
        dense = dense_spectra(loss)
    assert found.coordinates.tolist() == [192, 128]
    for example, (values, vectors) in enumerate(dense):
        scale = float(values.abs().max())
        z = random_probes(loss.example(example), 1, seed=0)[0, 0].flatten()
        share = (vectors.T @ z) ** 2 / len(z)
        nodes, weights = found.nodes[example, 0], found.weights[example, 0]
        # The distribution functions agree between the eigenvalues, and so do the nodes that carry any weight. The
        # last token predicts nothing: 0 is an eigenvalue many times over, of which a quadrature has one node.
        apart = (values[1:] - values[:-1]) > 1e-6 * scale
        between = ((values[1:] + values[:-1]) / 2)[apart]
        expected = torch.stack([share[values < at].sum() for at in between])
        assert len(between) > 90
        torch.testing.assert_close(
            torch.stack([weights[nodes < at].sum() for at in between]), expected, rtol=0, atol=1e-8
        )
        heavy = nodes[weights > 1e-8]
        nearest = (heavy[:, None] - values).abs().min(1).values
        assert float(nearest.max()) < 1e-9 * scale
        assert float((values[:, None] - heavy).abs().min(1).values[share > 1e-8].max()) < 1e-9 * scale


def test_the_first_moment_is_the_trace_of_the_same_probes(loss) -> None:
    found = spectral_density(loss, steps=1, probes=4, seed=3)
    by_products = trace(loss, method="hvp", probes=4, seed=3)
    first = found.moment(1)
    torch.testing.assert_close(first.value * found.coordinates, by_products.value, rtol=1e-5, atol=0)
    torch.testing.assert_close(first.stderr * found.coordinates, by_products.stderr, rtol=1e-5, atol=0)


def test_moments_are_those_of_the_dense_spectrum(loss, dense) -> None:
    found = spectral_density(loss, steps=3, probes=32)
    torch.testing.assert_close(found.moment(0).value, torch.ones(2, dtype=torch.float64))
    for power in (1, 2, 5):
        estimate = found.moment(power)
        for example in range(2):
            exact = (dense[example][0] ** power).mean()
            # Six comparisons at 4.5 standard errors and 31 degrees of freedom: 1 in 2,000 seeds would fail.
            assert abs(float(estimate.value[example] - exact)) < 4.5 * float(estimate.stderr[example])
    with pytest.raises(InputError, match=r"moments 0 … 5"):
        found.moment(6)


def test_the_widened_density_is_that_of_the_dense_spectrum(loss, dense) -> None:
    values, _ = dense[0]
    spread = float(values[-1] - values[0])
    grid, width = torch.linspace(float(values[0] - spread), float(values[-1] + spread), 801), 0.05 * spread
    bells = torch.exp(-0.5 * ((grid.double()[:, None] - values) / width) ** 2) / (width * (2 * torch.pi) ** 0.5)
    found = spectral_density(loss.example(0), steps=30, probes=16).density(grid, width)
    assert found.value.shape == found.stderr.shape == (1, 801)
    assert float(torch.trapezoid(found.value[0], grid.double())) == pytest.approx(1, abs=1e-6)
    # Neighbours are correlated: a few tens of independent comparisons at 5 standard errors, 15 degrees of freedom.
    off = (found.value[0] - bells.mean(1)).abs()
    assert bool((off <= 5 * found.stderr[0] + 1e-6 * float(bells.mean(1).max())).all())


def test_few_steps_find_the_edges(loss, dense) -> None:
    values, _ = dense[1]
    found = spectral_density(loss.example(1), steps=40, probes=1)
    ends = found.nodes[0, 0, [0, -1]]
    torch.testing.assert_close(ends, values[[0, -1]], rtol=1e-4, atol=0)


def test_an_example_has_the_same_density_alone(loss) -> None:
    together, alone = spectral_density(loss, steps=5, probes=2), spectral_density(loss.example(1), steps=5, probes=2)
    torch.testing.assert_close(together.nodes[1], alone.nodes[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.weights[1], alone.weights[0], rtol=1e-5, atol=1e-5)


def test_a_linear_loss_has_all_of_its_spectrum_at_zero(loss) -> None:
    class Linear(EmbeddingLoss):
        def __call__(self, X):
            return X.double().sum((1, 2))

        def example(self, index: int) -> "Linear":
            whole = super().example(index)
            return Linear(whole.model, whole.batch, whole.ids)

    found = spectral_density(Linear(loss.model, loss.batch), steps=4, probes=2)
    assert found.weights[:, :, 0].eq(1).all() and found.weights[:, :, 1:].eq(0).all() and found.nodes.eq(0).all()


def test_in_single_precision_too() -> None:
    double, single = (spectral_density(loss_of("llama", dtype), 8, 2) for dtype in (torch.float64, torch.float32))
    scale = float(double.nodes.abs().max())
    for power in (1, 2):
        torch.testing.assert_close(
            single.moment(power).value, double.moment(power).value, rtol=0, atol=1e-4 * scale**power
        )


def test_bad_input_is_named(loss) -> None:
    with pytest.raises(InputError, match="steps and probes must be 1 or more; got 0 and 4"):
        symnoise.spectral_density(loss, steps=0)
    with pytest.raises(InputError, match="width must be above 0"):
        SpectralDensity(torch.zeros(1, 2, 3).double(), torch.zeros(1, 2, 3).double(), torch.tensor([3])).density(
            torch.zeros(1), 0.0
        )
