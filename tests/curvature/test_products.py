"""Hessian products, differences and dense Hessians against torch.func's forward-over-reverse Hessian."""

import math

import pytest
import torch

from symnoise.core import InputError, generator
from symnoise.curvature import (
    EmbeddingHessian,
    dense_hessian,
    directional_curvature,
    exact_trace,
    hvp,
    hvp_difference,
    inner,
    spectrum,
    trace,
)
from symnoise.curvature.operators.exact import LARGEST
from symnoise.curvature.operators.hessian import differentiable
from symnoise.models import EmbeddingLoss
from tests.quadratic import Quadratic
from tests.text import batch, lifted, loss_of
from tests.tiny import NAMES, tiny


def oracle(loss: EmbeddingLoss, example: int) -> torch.Tensor:
    """Dense Hessian of one example by torch.func: forward mode over reverse mode, eager attention."""
    loss.model.set_attn_implementation("eager")
    x, others = loss.embeddings[example], loss.embeddings

    def of_the_example(row: torch.Tensor) -> torch.Tensor:
        return loss(torch.cat([others[:example], row[None], others[example + 1 :]]))[example]

    return torch.func.hessian(of_the_example)(x).reshape(x.numel(), x.numel())


def directions(loss: EmbeddingLoss, count: int) -> torch.Tensor:
    return torch.randn((count, *loss.shape), generator=generator(0, "v"), dtype=torch.float64)


# Transformers' norms, rotary angles and softmax compute in float32 on the stock class; lifted, nothing does.
CASES = [(name, True, 1e-9) for name in NAMES] + [(name, False, 1e-5) for name in ("llama", "gpt2", "opt")]


@pytest.mark.parametrize(("name", "lift", "tolerance"), CASES)
def test_products_match_the_dense_hessian(name: str, lift: bool, tolerance: float) -> None:
    with lifted(lift):
        loss = loss_of(name, tokens=5)
        V = directions(loss, 3)
        products, dense = hvp(loss, V), dense_hessian(loss)
        for example in range(2):
            H = oracle(loss, example)
            expected = (V[:, example].flatten(1) @ H).reshape(V[:, example].shape)
            torch.testing.assert_close(products[:, example], expected, rtol=0, atol=tolerance * float(expected.norm()))
            torch.testing.assert_close(dense[example], H, rtol=0, atol=tolerance * float(H.abs().max()))


@pytest.mark.parametrize(("lift", "tolerance"), [(True, 1e-9), (False, 1e-5)])
def test_the_exact_trace_is_the_dense_one_s(lift: bool, tolerance: float) -> None:
    with lifted(lift):
        loss = loss_of("llama", tokens=5)
        for example, trace in enumerate(exact_trace(loss)):
            H = oracle(loss, example)
            assert abs(float(trace - H.trace())) < tolerance * float(H.diagonal().abs().sum())


def test_the_hessian_is_symmetric_and_zero_at_padding() -> None:
    with lifted(True):
        H = dense_hessian(loss_of("llama"))
    torch.testing.assert_close(H, H.mT, rtol=0, atol=1e-12 * float(H.abs().max()))
    assert float(H[1, 4 * 32 :].abs().max()) == 0


def test_one_direction_or_many() -> None:
    loss = loss_of("gpt2")
    V = directions(loss, 2)
    torch.testing.assert_close(hvp(loss, V)[1], hvp(loss, V[1]))
    with pytest.raises(InputError, match="V must be"):
        hvp(loss, V[:, :, :-1])


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_differences_err_by_what_they_say(name: str) -> None:
    with lifted(True):
        loss = loss_of(name)
        (v,) = directions(loss, 1) * (loss.mask != 0)[:, :, None]
        found, exact = hvp_difference(loss, v), hvp(loss, v)
        error = inner(found.product - exact, found.product - exact).sqrt()
    assert bool((error <= 3 * found.error).all())  # an estimate of size, not a bound to the digit
    assert bool((found.error < 1e-4 * inner(exact, exact).sqrt()).all())


def test_directional_curvature_is_a_rayleigh_quotient() -> None:
    with lifted(True):
        loss = loss_of("llama").example(0)
        values, vectors = torch.linalg.eigh(dense_hessian(loss)[0])
        top = vectors[:, -1].reshape(loss.shape)
        assert float(directional_curvature(loss, 7 * top)[0]) == pytest.approx(float(values[-1]), rel=1e-10)


def test_directional_curvature_does_not_count_padding() -> None:
    """A row's value is the same alone and in a batch that pads it, whatever stands at the padding."""
    loss = loss_of("llama")
    V = torch.randn(loss.shape, generator=generator(0, "direction"))
    together = directional_curvature(loss, V)
    assert int(loss.lengths.min()) < loss.shape[1]
    for b, length in enumerate(loss.lengths.tolist()):
        alone = loss.example(b)
        real = V[b][loss.mask[b] != 0].reshape(1, length, -1)
        assert float(directional_curvature(alone, real)[0]) == pytest.approx(float(together[b]), rel=1e-4)


def test_exact_refuses_what_is_too_large() -> None:
    model = tiny("llama")
    loss = EmbeddingLoss(model, batch(rows=1, tokens=100))
    loss.embeddings = torch.zeros(1, LARGEST // 32 + 1, 32)
    with pytest.raises(InputError, match=rf"limit of {LARGEST:,}"):
        exact_trace(loss)


def test_the_operator_speaks_scipy_s_language() -> None:
    with lifted(True):
        loss = loss_of("llama")
        operator = EmbeddingHessian(loss, example=1)
        H = dense_hessian(loss)[1, : 4 * 32, : 4 * 32]  # the real tokens of the shorter example
        assert operator.shape == (128, 128)
        eye = torch.eye(128, dtype=torch.float64)
        torch.testing.assert_close(operator @ eye, H, rtol=0, atol=1e-12 * float(H.abs().max()))
        torch.testing.assert_close(torch.from_numpy(operator.to_scipy() @ eye.numpy()), operator @ eye)
    with pytest.raises(InputError, match="not in a batch of 2"):
        EmbeddingHessian(loss, example=2)


@pytest.mark.parametrize("which", ["algebraic", "magnitude", "smallest"])
def test_spectrum_agrees_with_the_dense_one(which: str) -> None:
    with lifted(True):
        loss = loss_of("gpt2")
        found = spectrum(loss, k=4, which=which, tolerance=1e-10)
        for example in range(2):
            n = int(loss.lengths[example]) * 32
            values = torch.linalg.eigvalsh(dense_hessian(loss)[example, :n, :n])
            order = {
                "algebraic": values.argsort(descending=True),
                "magnitude": values.abs().argsort(descending=True),
                "smallest": values.argsort(),
            }[which][:4]
            expected = values[order].sort(descending=True).values
            torch.testing.assert_close(found.values[example], expected, rtol=0, atol=1e-8 * float(values.abs().max()))
            assert found.vectors[example].shape == (4, int(loss.lengths[example]), 32)
    assert float(found.residuals.max()) < 1e-6
    with pytest.raises(InputError, match="k must be between"):
        spectrum(loss, k=0)
    with pytest.raises(InputError, match="did you mean 'magnitude'"):
        spectrum(loss, which="magnitud")


def test_eigenvalues_of_a_bfloat16_model() -> None:
    """Its products are rounded to 8 bits: the largest eigenvalue is float32's to a few per cent."""
    rough, fine = (
        spectrum(EmbeddingLoss(tiny("llama", dtype), batch()).example(0), k=1, tolerance=0.05).values
        for dtype in (torch.bfloat16, torch.float32)
    )
    torch.testing.assert_close(rough, fine, rtol=0.1, atol=0)


class Exponential:
    """ℓ = Σ exp(λ(x − 1)) over the first three tokens; the fourth is padding of another size."""

    def __init__(self, rate: float, padding: float = 1.0) -> None:
        self.rate = rate
        self.embeddings = torch.ones(1, 4, 3, dtype=torch.float64)
        self.embeddings[:, 3] = padding
        self.mask, self.ids = torch.tensor([[1, 1, 1, 0]]), [0]

    def __call__(self, X: torch.Tensor) -> torch.Tensor:
        return (self.rate * (X[:, :3] - 1)).exp().sum((1, 2))


@pytest.mark.parametrize("padding", [1.0, 1e6])
def test_the_error_of_differences_is_a_third_of_what_halving_the_step_changes(padding: float) -> None:
    """D(h) = λ² sinh(λh)/(λh) in each coordinate, at the step h = ε^(1/3) of embeddings that are 1 along a v of 1s."""
    loss, v = Exponential(1e3, padding), torch.ones(1, 4, 3, dtype=torch.float64)
    v[:, 3] = 0
    found, reach = hvp_difference(loss, v), 1e3 * torch.finfo(torch.float64).eps ** (1 / 3)
    near, far = (1e6 * math.sinh(k * reach) / (k * reach) for k in (1, 2))
    torch.testing.assert_close(found.product[0, :3], torch.full((3, 3), near, dtype=torch.float64), rtol=1e-10, atol=0)
    assert not found.product[0, 3].any()
    assert float(found.error) == pytest.approx((far - near) / 3 * 3, rel=1e-3)  # of nine coordinates, √9 = 3


def test_the_error_of_differences_where_nothing_is_truncated_is_rounding() -> None:
    """ε‖∇ℓ‖/h of a quadratic, whose differences are exact but for rounding, which is of that size too."""
    loss, v = Quadratic(), torch.ones(1, 4, 3, dtype=torch.float64)
    found, eps = hvp_difference(loss, v), torch.finfo(torch.float64).eps
    slope = float((loss.A @ torch.ones(12, dtype=torch.float64)).norm())
    assert eps ** (2 / 3) * slope <= float(found.error) * (1 + 1e-6)
    assert float(found.error) < 2 * eps ** (2 / 3) * slope


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ("derivative for aten::_thing is not implemented\nmore", True),
        ("element 0 of tensors does not require grad and does not have a grad_fn", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_errors_about_derivatives_are_explained_and_others_are_left_alone(said: str, ours: bool) -> None:
    with pytest.raises(InputError if ours else RuntimeError) as caught, differentiable(Quadratic()):
        raise RuntimeError(said)
    assert ("load the model unquantised" in str(caught.value)) is ours


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_differences_are_refused_where_they_would_be_rounding(dtype: torch.dtype) -> None:
    """In bfloat16 the step is a fifth of the embeddings' size: traces were off by up to 11 stated errors."""
    with pytest.raises(InputError, match=r"differences of gradients in b?float16 are mostly rounding"):
        trace(EmbeddingLoss(tiny("llama", dtype), batch()), "difference")
