import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import gammaln

from symnoise.core import InputError, generator
from symnoise.noise import (
    LAWS,
    Noise,
    directions,
    law,
    noise_names,
    orthogonal_directions,
    realised_moments,
    sampled_moments,
    sparse,
)

DRAWS = 200_000


@pytest.mark.parametrize("name", LAWS)
def test_raw_laws_have_their_moments(name: str) -> None:
    chosen = law(name)
    u = chosen.sample((DRAWS,), generator=generator(0, name), dtype=torch.float64)
    for power, expected in ((1, 0), (2, chosen.variance), (3, 0), (4, chosen.kurtosis * chosen.variance**2)):
        moments = u**power
        # 4.5 standard errors: one false alarm in 150,000. Rademacher's even moments do not vary at all.
        assert abs(float(moments.mean()) - expected) <= 4.5 * float(moments.std()) / DRAWS**0.5 + 1e-12


@pytest.mark.parametrize("name", LAWS)
def test_quantiles_are_the_law_s(name: str) -> None:
    chosen = law(name)
    frozen = {"uniform": stats.uniform(-1, 2), "gaussian": stats.norm(), "rademacher": None}[name]
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    expected = np.where(p < 0.5, -1.0, 1.0) if frozen is None else frozen.ppf(p)
    np.testing.assert_allclose(chosen.quantile(p), expected, rtol=1e-12, atol=1e-14)
    middles = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    z = chosen.standardised(middles)
    assert float(z.square().mean()) == pytest.approx(1, rel=1e-3)  # the tails beyond the last middle hold less
    assert float((z**4).mean()) == pytest.approx(chosen.kurtosis, rel=1e-3)


@pytest.mark.parametrize("kurtosis", [1, 10, 100])
def test_sparse_laws_have_unit_variance_and_the_kurtosis_asked_for(kurtosis: float) -> None:
    chosen = sparse(kurtosis)
    middles = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    z = chosen.standardised(middles)
    assert float(z.mean()) == pytest.approx(0, abs=1e-12) and torch.equal(z, -z.flip(0))
    assert float(z.square().mean()) == pytest.approx(1) and float((z**4).mean()) == pytest.approx(kurtosis)
    u = chosen.sample((DRAWS,), generator=generator(0, chosen.name), dtype=torch.float64)
    for power, expected in ((1, 0), (2, 1), (3, 0), (4, kurtosis)):
        moments = u**power
        assert abs(float(moments.mean()) - expected) <= 4.5 * float(moments.std()) / DRAWS**0.5 + 1e-12
    assert chosen.kurtosis == kurtosis and set(u.abs().unique().tolist()) <= {0.0, kurtosis**0.5}


@pytest.mark.parametrize("kurtosis", [0.9, 0, -1, math.nan, math.inf])
def test_no_law_has_a_kurtosis_below_one(kurtosis: float) -> None:
    with pytest.raises(InputError, match="1 or larger"):
        sparse(kurtosis)


def test_scale_is_neftune_s_and_calibration_equates_the_laws() -> None:
    lengths = torch.tensor([4, 9])
    uniform = Noise.neftune(5.0).scale(lengths, 16)
    torch.testing.assert_close(uniform, 5 / (lengths.double() * 16).sqrt())
    for name in ("gaussian", "rademacher", "symnoise"):
        noise = Noise.named(name, 5.0)
        torch.testing.assert_close(noise.scale(lengths, 16), uniform / math.sqrt(3))
        torch.testing.assert_close(noise.sigma(lengths, 16), Noise.neftune(5.0).sigma(lengths, 16))
    torch.testing.assert_close(Noise.named("gaussian-raw", 5.0).scale(lengths, 16), uniform)


@pytest.mark.parametrize("name", [name for name in noise_names() if name != "none"])
def test_names_go_there_and_back(name: str) -> None:
    assert Noise.named(name, 2.0).name == name


def test_none_is_none_and_symnoise_is_a_calibrated_rademacher_pair() -> None:
    assert Noise.named("none", 5.0) is None
    assert Noise.symnoise(5.0) == Noise("rademacher", alpha=5.0, calibrated=True, paired=True)


def test_true_lengths_count_and_padding_gets_nothing() -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    epsilon = Noise("rademacher", 3.0).sample(torch.zeros(2, 4, 8), mask, generator=generator(0))
    assert torch.equal(epsilon[1, 2:], torch.zeros(2, 8))
    torch.testing.assert_close(epsilon[0].square().sum(), torch.tensor(3.0))  # α²/3 whatever the length
    torch.testing.assert_close(epsilon[1].square().sum(), torch.tensor(3.0))


def test_half_precision_rounds_the_finished_noise_once() -> None:
    noise, mask = Noise.neftune(5.0), torch.ones(2, 8, dtype=torch.long)
    full = noise.sample(torch.zeros(2, 8, 16), mask, generator=generator(0))
    half = noise.sample(torch.zeros(2, 8, 16, dtype=torch.bfloat16), mask, generator=generator(0))
    assert torch.equal(half, full.bfloat16())


@pytest.mark.parametrize("name", ["symnoise", "uniform-pair", "gaussian-pair"])
def test_mirrored_pairs_cancel_exactly(name: str) -> None:
    plus, minus = Noise.named(name, 5.0).sample_pair(
        torch.zeros(2, 8, 16), torch.ones(2, 8, dtype=torch.long), generator=generator(0)
    )
    for power in (1, 3, 5):
        assert torch.equal(plus**power + minus**power, torch.zeros_like(plus))


def test_independent_pairs_do_not_cancel() -> None:
    X, mask = torch.zeros(2, 8, 16), torch.ones(2, 8, dtype=torch.long)
    first, second = Noise.named("independent-pair", 5.0).sample_pair(X, mask, generator=generator(0))
    # The mean of n = 128 products of signs has standard deviation 1/√128; 4.5 of them.
    correlation = (first * second).sum((1, 2)) / first.square().sum((1, 2))
    assert float(correlation.abs().max()) < 4.5 / 128**0.5


@pytest.mark.parametrize(("name", "length", "dim"), [("uniform", 3, 4), ("gaussian", 3, 4), ("rademacher", 5, 2)])
def test_closed_forms_against_draws(name: str, length: int, dim: int) -> None:
    noise = Noise(name, 4.0)
    found, expected = sampled_moments(noise, length, dim, 100_000), noise.moments(length, dim)
    assert expected.mean_square_norm == pytest.approx(16 / 3)
    for quantity in ("mean_square_norm", "var_square_norm", "mean_norm"):
        estimate = getattr(found, quantity)
        # 4.5 standard errors and float32 rounding of the draws; E‖ε‖ of uniform noise is an expansion, to n⁻².
        slack = 1e-6 + (0.3 / (length * dim) ** 2 if name == "uniform" and quantity == "mean_norm" else 0)
        assert abs(float(estimate.value) - getattr(expected, quantity)) < 4.5 * float(estimate.stderr) + slack


def test_the_exact_gaussian_norm() -> None:
    n, noise = 6 * 7, Noise("gaussian", 3.0)
    scale = float(noise.scale(6, 7))
    assert noise.moments(6, 7).mean_norm == pytest.approx(scale * stats.chi(n).mean(), rel=1e-12)
    assert noise.moments(6, 7).mean_norm == pytest.approx(
        scale * math.sqrt(2) * math.exp(gammaln((n + 1) / 2) - gammaln(n / 2))
    )


def test_realised_moments_leave_padding_out() -> None:
    epsilon = torch.tensor([[[1.0, -1.0], [2.0, 0.0], [9.0, 9.0]]])
    found = realised_moments(epsilon, torch.tensor([[1, 1, 0]]))
    assert float(found.square_norm) == 6 and float(found.mean) == 0.5 and float(found.variance) == 1.5
    assert float(found.kurtosis) == pytest.approx(4 * 18 / 36)


def test_directions_belong_to_examples_not_to_batches() -> None:
    X, mask = torch.zeros(2, 5, 3), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    both = directions(X, mask, (7, 8), 3, seed=0)
    alone = directions(X[1:, :3], mask[1:, :3], (8,), 2, seed=0, first=1)
    assert torch.equal(both[1:, 1:, :3], alone)
    assert torch.equal(both[:, 1, 3:], torch.zeros(3, 2, 3))
    assert not torch.equal(both, directions(X, mask, (7, 8), 3, seed=1))


@pytest.mark.parametrize("alpha", [-1.0, math.nan, math.inf])
def test_bad_alpha(alpha: float) -> None:
    with pytest.raises(InputError, match="alpha must be a finite number"):
        Noise("uniform", alpha)


def test_bad_names_and_lengths() -> None:
    with pytest.raises(InputError, match="did you mean 'uniform'"):
        Noise("unifrom", 5.0)
    with pytest.raises(InputError, match="did you mean 'symnoise'"):
        Noise.named("symnois", 5.0)
    with pytest.raises(InputError, match="at least one real token"):
        Noise.neftune(5.0).scale(torch.tensor([0]), 4)
    with pytest.raises(InputError, match="draws must be 2"):
        sampled_moments(Noise.neftune(5.0), 4, 4, 1)


def test_orthogonal_directions_are_frames_of_their_example() -> None:
    X, mask = torch.zeros(2, 4, 3, dtype=torch.float64), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    z = orthogonal_directions(X, mask, (7, 8), 8, seed=0, block=4)
    gram = torch.einsum("kbtd,jbtd->bkj", z, z)
    block = 4 * [0] + 4 * [1]
    together = torch.tensor(block)[:, None] == torch.tensor(block)
    for b, n in enumerate((12, 6)):
        torch.testing.assert_close(gram[b][together], (n * torch.eye(8, dtype=torch.float64))[together])
    assert float(gram[:, ~together].abs().max()) > 0.1  # other blocks are drawn afresh
    assert not z[:, 1, 2:].any()
    alone = orthogonal_directions(X[1:, :2], mask[1:, :2], (8,), 4, seed=0, block=4, first=4)
    torch.testing.assert_close(z[4:, 1:, :2], alone)


def test_orthogonal_directions_are_uniform_on_the_sphere() -> None:
    """E zzᵀ = I and E z_i⁴ = 3n/(n + 2), over 1,000 first directions; 4.5 standard errors."""
    X, mask = torch.zeros(1_000, 1, 3, dtype=torch.float64), torch.ones(1_000, 1, dtype=torch.long)
    z = orthogonal_directions(X, mask, range(1_000), 2, seed=0, block=2)[0, :, 0]
    for power, expected in ((1, 0.0), (2, 1.0), (4, 9 / 5)):
        moments = z**power
        error = moments.std(0) / 1_000**0.5
        assert bool(((moments.mean(0) - expected).abs() < 4.5 * error).all())


def test_sampled_moments_and_their_errors_are_those_of_the_norms() -> None:
    found = sampled_moments(Noise("gaussian", 4.0), 3, 4, 500)
    norms, squares = found.norms, found.norms.square()
    for estimate, draws in ((found.mean_norm, norms), (found.mean_square_norm, squares)):
        assert float(estimate) == pytest.approx(float(draws.mean()), rel=1e-12)
        assert float(estimate.stderr) == pytest.approx(float(draws.std()) / 500**0.5, rel=1e-12)
        assert (estimate.count, estimate.dof) == (500, 499)
    assert float(found.var_square_norm) == pytest.approx(float(squares.var()), rel=1e-12)
    assert float(found.var_square_norm.stderr) ** 2 == pytest.approx(float(stats.kstatvar(squares, 2)), rel=1e-9)


def test_sampled_moments_of_one_coordinate_and_of_none() -> None:
    assert len(sampled_moments(Noise.neftune(5.0), 1, 1, 2).norms) == 2
    for length, dim in ((0, 1), (1, 0)):
        with pytest.raises(InputError, match="length and dim must be 1 or more"):
            sampled_moments(Noise.neftune(5.0), length, dim, 2)
