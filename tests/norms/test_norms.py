from contextlib import nullcontext

import pytest
import torch

from symnoise.core import InputError, generator
from symnoise.models import EmbeddingLoss
from symnoise.noise import Noise
from symnoise.norms import expected_square_norm, layer_growth, radial_identity, square_norm
from tests.text import lifted, loss_of
from tests.tiny import NAMES


@pytest.mark.parametrize("name", ["uniform", "gaussian", "rademacher", "gaussian-raw"])
def test_closed_forms_against_draws(name: str) -> None:
    noise = Noise.named(name, 4.0)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    X = torch.randn(2, 4, 8, generator=generator(0), dtype=torch.float64)
    expected, draws = expected_square_norm(X, mask, noise), 20_000
    many, masks = X.repeat(draws, 1, 1), mask.repeat(draws, 1)
    epsilon = noise.sample(many, masks, generator=generator(1))
    plus, minus = square_norm(many + epsilon, masks), square_norm(many - epsilon, masks)
    paired = (plus + minus) / 2
    torch.testing.assert_close(paired, square_norm(many, masks) + square_norm(epsilon, masks))  # N2, exactly
    plus, paired = plus.reshape(draws, 2), paired.reshape(draws, 2)
    assert bool(((plus.mean(0) - expected.mean).abs() < 4.5 * plus.std(0) / draws**0.5).all())
    # The sample variance of 20,000 draws has a relative standard error of 1 %, or 2 % with heavy tails.
    torch.testing.assert_close(plus.var(0), expected.variance, rtol=0.09, atol=0)
    torch.testing.assert_close(paired.var(0), expected.pair_variance, rtol=0.09, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_growth_starts_as_predicted_in_every_class(name: str) -> None:
    loss = loss_of(name)
    noise = Noise.symnoise(2.0)
    growth = layer_growth(loss, noise, draws=3)
    assert growth.clean.shape[0] == 3  # the embeddings and two layers
    if name not in ("gpt2", "opt"):  # whose layer 0 has positions added to X
        predicted = (expected_square_norm(loss.embeddings, loss.mask, noise).mean / square_norm(
            loss.embeddings, loss.mask
        )) - 1  # fmt: skip
        torch.testing.assert_close(growth.growth.value[0], predicted, rtol=1e-6, atol=0)  # a Rademacher pair: exactly
        torch.testing.assert_close(growth.displacement.value[0], predicted, rtol=1e-6, atol=0)
    wanted = expected_square_norm(loss.embeddings, loss.mask, noise).mean
    torch.testing.assert_close(growth.square_norm.value, wanted, rtol=1e-6, atol=0)  # in every class
    assert float(growth.per_token.value[:, 1, 4:].abs().max()) == 0


def test_no_noise_no_growth() -> None:
    growth = layer_growth(loss_of("llama"), Noise.symnoise(0.0), draws=2)
    assert float(growth.growth.value.abs().max()) == 0
    with pytest.raises(InputError, match="draws must be 1"):
        layer_growth(loss_of("llama"), Noise.symnoise(1.0), draws=0)


def test_the_radial_identity_holds_where_scale_does_not_matter_and_fails_where_it_does() -> None:
    inner = loss_of("llama")

    class Normalised:
        embeddings, mask, ids = inner.embeddings, inner.mask, inner.ids

        def __call__(self, X: torch.Tensor) -> torch.Tensor:
            return inner(10 * X / X.square().sum((1, 2), keepdim=True).sqrt())

    with lifted(True):
        invariant, raw = radial_identity(Normalised(), probes=4), radial_identity(inner, probes=4)
    assert float(invariant.defect.value.abs().max()) < 1e-9 * float(invariant.trace.value.abs().max())
    assert bool((raw.defect.value.abs() > 0.1 * raw.trace.value.abs()).all())


def test_the_third_derivative_of_a_gelu_far_from_zero(monkeypatch) -> None:
    """In float32 that of PyTorch's own in float64, which is finite up to 27; Gemma 3 has gates beyond 14."""
    loss = loss_of("gemma", torch.float32)
    gates = [layer.mlp.gate_proj for layer in loss.model.model.layers]
    reached: list[float] = []
    hooks = [gate.register_forward_hook(lambda _, __, out: reached.append(float(out.max()))) for gate in gates]
    with torch.no_grad():
        for gate in gates:
            gate.weight.mul_(7)
    loss = EmbeddingLoss(loss.model, loss.batch, loss.ids)
    coarse = radial_identity(loss, probes=2)
    assert 14 < max(reached) < 27
    for hook in hooks:
        hook.remove()
    monkeypatch.setattr("symnoise.norms.radial._GeluWrittenOut", nullcontext)
    with lifted(True):
        own = radial_identity(EmbeddingLoss(loss.model.double(), loss.batch, loss.ids), probes=2)
    torch.testing.assert_close(coarse.derivative.value, own.derivative.value, rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["uniform", "symnoise"])
def test_layer_0_grows_by_the_norm_of_its_own_draws(name: str) -> None:
    """‖X+ε‖²/‖X‖² − 1 and its error, draw by draw; padding counts neither there nor in the clean norm of a token."""
    loss, noise = loss_of("llama"), Noise.named(name, 5.0)
    found, clean = layer_growth(loss, noise, draws=4), square_norm(loss.embeddings, loss.mask)
    torch.testing.assert_close(found.growth[0].value, found.square_norm.value / clean - 1, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found.growth[0].stderr, found.square_norm.stderr / clean, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found.clean[0], clean / loss.mask.sum(1))
    sums = found.per_token.value.sum(-1) / found.clean / loss.mask.sum(1)
    torch.testing.assert_close(sums, found.growth.value)
    assert not found.per_token.value[:, loss.mask == 0].any()


def test_the_radial_identity_of_a_function_without_a_third_derivative() -> None:
    """H of a quadratic is the same everywhere, and a linear function has none."""

    class Of:
        embeddings, mask, ids = torch.ones(2, 2, 2), torch.ones(2, 2, dtype=torch.long), (0, 1)

        def __init__(self, power: int) -> None:
            self.power = power

        def __call__(self, X: torch.Tensor) -> torch.Tensor:
            return (X.flatten(1) ** self.power @ torch.tensor([1.0, 2.0, 3.0, 4.0])) / 2

    for power, trace in ((1, 0.0), (2, 10.0)):
        found = radial_identity(Of(power), probes=2)
        assert found.derivative.value.tolist() == [0.0, 0.0] and found.trace.value.tolist() == [trace] * 2
        assert found.defect.value.tolist() == [2 * trace] * 2


def test_a_third_derivative_that_is_not_finite_is_said() -> None:
    class Root:
        embeddings, mask, ids = torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.long), (0,)

        def __call__(self, X: torch.Tensor) -> torch.Tensor:
            return (X.abs() ** 2.5).sum((1, 2))

    with pytest.raises(InputError, match="NaN or infinite although the loss is finite"):
        radial_identity(Root(), probes=2)
