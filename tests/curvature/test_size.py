"""E|zᵀHz|, ‖H‖_F and the two-sided divergence against the dense Hessian and the Gauss-Newton trace."""

import pytest
import torch

from symnoise.core import InputError
from symnoise.curvature import curvature_size, dense_hessian, gauss_newton_trace, random_probes, two_sided_divergence
from symnoise.models import EmbeddingLoss, float64_throughout
from symnoise.theory import tiny_llama
from tests.quadratic import Quadratic
from tests.text import lifted, loss_of


@pytest.fixture(scope="module")
def loss() -> EmbeddingLoss:
    return EmbeddingLoss(*tiny_llama(seed=3))


def test_sizes_are_those_of_the_dense_hessian(loss) -> None:
    count = 400
    with float64_throughout():
        hessian, found = dense_hessian(loss)[0], curvature_size(loss, count)
        z = torch.cat([random_probes(loss, 1, seed=0, first=k)[0].flatten(1) for k in range(count)]).double()
    forms = ((z @ hessian) * z).sum(1)
    assert float(found.absolute.value[0]) == pytest.approx(float(forms.abs().mean()), rel=1e-9)
    assert float(found.absolute.stderr[0]) == pytest.approx(float(forms.abs().std()) / count**0.5, rel=1e-9)
    root = float(hessian.square().sum().sqrt())
    # Five standard errors: one run in two million is further off, and the probes are fixed.
    assert abs(float(found.frobenius.value[0]) - root) < 5 * float(found.frobenius.stderr[0]) < 0.2 * root
    by_hand = (z @ hessian).square().sum(1)
    assert float(found.frobenius.stderr[0]) == pytest.approx(
        float(by_hand.std()) / count**0.5 / (2 * float(by_hand.mean()) ** 0.5), rel=1e-9
    )
    assert float(found.square.value[0]) == pytest.approx(float(by_hand.mean()), rel=1e-9)
    assert float(found.square.stderr[0]) == pytest.approx(float(by_hand.std()) / count**0.5, rel=1e-9)


@pytest.mark.parametrize("quantity", ["frobenius", "square"])
def test_stated_intervals_cover_the_frobenius_norm_and_its_square(quantity: str) -> None:
    """400 seeds of 16 products, eigenvalues of both signs: 95 ± 2 %."""
    quadratic = Quadratic(400, torch.linspace(-2, 5, 60))
    truth = float(quadratic.A.square().sum()) ** (1 if quantity == "square" else 0.5)
    low, high = getattr(curvature_size(quadratic, 16), quantity).interval(0.95)
    assert 0.93 <= float(((low <= truth) & (truth <= high)).double().mean()) <= 0.97


def test_a_single_eigenvalue_makes_its_squares_skewed_and_the_interval_covers_less() -> None:
    """‖Hz‖² is then λ²(uᵀz)², about χ² with one degree: the stated exception."""
    quadratic = Quadratic(400, torch.nn.functional.one_hot(torch.tensor(0), 60).double())
    low, high = curvature_size(quadratic, 16).square.interval(0.95)
    assert 0.8 < float(((low <= 1) & (high >= 1)).double().mean()) < 0.93


def test_signs_that_cancel_in_the_trace_do_not_cancel_in_the_size(loss) -> None:
    with float64_throughout():
        hessian, found = dense_hessian(loss)[0], curvature_size(loss, 16)
    assert float(found.absolute.value[0]) > abs(float(hessian.trace())) * 0.5
    assert float(found.frobenius.value[0]) > 0


def test_the_divergence_is_the_gauss_newton_part_for_small_noise(loss) -> None:
    draws, sigma = 64, 1e-4
    with float64_throughout():
        found = two_sided_divergence(loss, torch.tensor([sigma]), draws)
        products = gauss_newton_trace(loss, "hvp", probes=draws)  # the same probes
    assert float(found.value[0]) / (2 * sigma**2) == pytest.approx(float(products.value[0]), rel=1e-5)


def test_the_divergence_is_by_hand_that_of_two_predictions(loss) -> None:
    sigma = torch.tensor([0.25])
    with float64_throughout():
        found = two_sided_divergence(loss, sigma, 1, seed=5)
        (z,) = random_probes(loss, 1, seed=5)
        p, q = (loss.logits(loss.embeddings + s * 0.25 * z).softmax(-1) for s in (1, -1))
    both = (p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)
    assert float(found.value[0]) == pytest.approx(float(both.mean()) / 2, rel=1e-9)


def test_sizes_that_cannot_be_are_refused(loss) -> None:
    with pytest.raises(InputError, match="1 or more"):
        curvature_size(loss, 0)
    for sigma, draws in ((0.0, 1), (float("nan"), 1), (1.0, 0)):
        with pytest.raises(InputError, match="above 0"):
            two_sided_divergence(loss, torch.tensor([sigma]), draws)


def test_in_parts_it_is_the_same(monkeypatch) -> None:
    """The second row is shorter; the gradient keeps the shape of the whole batch."""
    with lifted(True):
        text = loss_of("llama")
        whole = curvature_size(text, 2)
        logits = EmbeddingLoss.logits

        def limited(self: EmbeddingLoss, X: torch.Tensor) -> torch.Tensor:
            if len(X) > 1:
                raise MemoryError
            return logits(self, X)

        monkeypatch.setattr(EmbeddingLoss, "logits", limited)
        with pytest.warns(RuntimeWarning, match="out of memory with 2 examples at a time; continuing with 1"):
            found = curvature_size(text, 2)
    for name in ("absolute", "frobenius", "square"):
        torch.testing.assert_close(getattr(found, name).value, getattr(whole, name).value, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.gradient, whole.gradient, rtol=1e-9, atol=1e-12)


def test_one_product_has_a_value_and_no_error() -> None:
    found = curvature_size(Quadratic(), 1)
    assert float(found.absolute) > 0 and bool(found.absolute.stderr.isnan().all())
