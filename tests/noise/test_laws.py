"""A law is one definition: what is asked of a law is asked of the object, and of its name nothing."""

import pytest
import torch

from symnoise.cli.moments import moments
from symnoise.core import generator
from symnoise.finetune.card import noise_of
from symnoise.finetune.settings import TrainSettings
from symnoise.models import EmbeddingLoss
from symnoise.noise import LAWS, Law, Noise, directions, law, noise_names, sampled_moments, scale_of
from symnoise.theory import (
    Ridges,
    check_least_variance,
    check_moments,
    check_norms,
    check_smoothing_analytically,
    check_smoothing_sampled,
    tiny_llama,
)
from symnoise.training import attach
from symnoise.training.draws import draw

LAPLACE = Law(
    name="laplace",
    label="Laplace",
    description="two-sided exponential",
    variance=2.0,
    kurtosis=6.0,
    quantile=lambda p: torch.where(p < 0.5, (2 * p).log(), -(2 - 2 * p).log()),
    characteristic_less_1=lambda t: -t.square() / (2 + t.square()),
)
SEED = (3, "bits")


@pytest.fixture
def laplace(monkeypatch: pytest.MonkeyPatch) -> Law:
    monkeypatch.setitem(LAWS, "laplace", LAPLACE)
    return LAPLACE


def test_a_new_law_is_drawn_named_and_has_its_moments(laplace: Law) -> None:
    assert law("laplace") is laplace
    assert Noise.named("laplace", 4.0) == Noise("laplace", 4.0) and Noise("laplace", 4.0).name == "laplace"
    pair = Noise.named("laplace-pair", 4.0)
    assert pair.paired and pair.name == "laplace-pair"
    noise, mask = Noise("laplace", 4.0), torch.tensor([[1, 1, 1], [1, 1, 0]])
    epsilon = noise.sample(torch.zeros(2, 3, 5), mask, generator=generator(*SEED))
    assert bool(epsilon[mask == 1].all()) and not epsilon[mask == 0].any()
    found, expected = sampled_moments(noise, 3, 4, 50_000), noise.moments(3, 4)
    assert expected.mean_square_norm == pytest.approx(16 / 3) and expected.kurtosis == 6
    for quantity in ("mean_square_norm", "var_square_norm"):  # 4.5 standard errors
        estimate = getattr(found, quantity)
        assert abs(float(estimate.value) - getattr(expected, quantity)) < 4.5 * float(estimate.stderr)
    z = directions(torch.zeros(1, 40, 40), torch.ones(1, 40, dtype=torch.long), [0], 20, seed=0, law_name="laplace")
    assert float(z.square().mean()) == pytest.approx(1, abs=4.5 * (5 / z.numel()) ** 0.5)


def test_the_checks_that_range_over_laws_have_rows_for_a_new_one(laplace: Law) -> None:
    subject = Ridges.drawn().subject()
    model, text = tiny_llama()
    found = (
        check_moments(draws=20_000)
        + check_smoothing_analytically()
        + check_smoothing_sampled(subject, 0.1, 20_000)
        + check_least_variance(subject, 20_000)
        + check_norms(EmbeddingLoss(model, text), 1.0, 200, where="tiny")
    )
    keys = {row.key: row.verdict for row in found.rows if "laplace" in row.key}
    assert set(keys) == {
        "M1.mean-square-norm.laplace",
        "M2.var-square-norm.laplace",
        "M2.mean-norm.laplace",
        "S1.order.laplace",
        "S1.C.laplace",
        "P3.variance.laplace",
        "P3.least.laplace",
        "N1.growth.laplace",
    }
    assert "fails" not in keys.values()


def test_a_new_law_trains_and_is_said_in_words(laplace: Law, tmp_path, capsys) -> None:
    model, text = tiny_llama()
    noise, seen = Noise("laplace", 5.0), []
    with attach(model.train(), noise, seed=0) as handle:
        handle.on_draw = lambda epsilon, *_: seen.append(epsilon)
        model(**text)
    (epsilon,) = seen
    assert len(epsilon.unique()) == epsilon.numel()
    card = noise_of(TrainSettings(noise="laplace"))
    assert "Laplace" in card and "two-sided exponential" in card
    moments(law="laplace", alpha=5.0, length=4, dim=4, draws=100, seed=0, json=tmp_path / "moments.json", figure=None)
    assert "laplace" in capsys.readouterr().out and "laplace" in noise_names()


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_characteristic_function_less_1_does_not_cancel(law: Law) -> None:
    """−t²/2 + κt⁴/24 for small t; and by quadrature of cos(tz) over the law where nothing cancels."""
    t = torch.tensor([1e-8, 1e-5, 1e-3, 1e-2], dtype=torch.float64)
    small = -t.square() / 2 * (1 - law.kurtosis * t.square() / 12)
    torch.testing.assert_close(law.characteristic_less_1(t), small, rtol=1e-8, atol=0)
    t = torch.tensor([0.05, 0.0577, 0.058, 0.1, 1.0, 4.0], dtype=torch.float64)  # 0.1/√3 is where the series ends
    middle = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    expected = (t[:, None] * law.standardised(middle)).cos().mean(1) - 1
    torch.testing.assert_close(law.characteristic_less_1(t), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_torch_s_own_from_the_same_seed(dtype: torch.dtype) -> None:
    """Published runs rest on these bits."""
    shape = (3, 17, 5)
    empty = lambda: torch.empty(shape, dtype=dtype)  # noqa: E731
    plain = {
        "uniform": empty().uniform_(-1, 1, generator=generator(*SEED)),
        "gaussian": empty().normal_(generator=generator(*SEED)),
        "rademacher": empty().bernoulli_(0.5, generator=generator(*SEED)).mul_(2).sub_(1),
    }
    for name, expected in plain.items():
        assert torch.equal(law(name).sample(shape, generator=generator(*SEED), dtype=dtype), expected)


@pytest.mark.parametrize("name", ["uniform", "gaussian", "gaussian-raw", "rademacher"])
def test_noise_has_the_bits_it_always_had(name: str) -> None:
    """`Noise.sample` and the two draws of training against their formulas written out."""
    noise, dim = Noise.named(name, 5.0), 6
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    u = law(noise.law).sample((2, 5, dim), generator=generator(*SEED))
    lengths, amount = mask.sum(1), noise.calibration * noise.alpha
    scale = (amount / (lengths.double() * dim).sqrt()).float()
    expected = u * (scale[:, None] * mask)[:, :, None]
    found = noise.sample(torch.zeros(2, 5, dim), mask, generator=generator(*SEED))
    assert torch.equal(found, expected)
    each = lengths[:, None] * mask
    assert torch.equal(draw(noise, each, dim, generator=generator(*SEED)), expected)
    size = float(amount / torch.sqrt(torch.tensor(5 * dim)))
    if name == "uniform":
        u = torch.empty(2, 5, dim).uniform_(-size, size, generator=generator(*SEED))
    else:
        u = u * torch.tensor(size)
    padded = draw(noise, 5 * mask, dim, generator=generator(*SEED), padded=True)
    assert torch.equal(padded, u * mask[:, :, None])


@pytest.mark.parametrize("name", ["uniform", "gaussian", "rademacher"])
def test_directions_have_the_bits_they_always_had_by_any_number_of_threads(name: str) -> None:
    """Direction k is the first draw of its own stream, scaled to unit variance."""
    mask, before = torch.tensor([[1, 1, 1], [0, 1, 1]]), torch.get_num_threads()
    expected = torch.zeros(5, 2, 3, 4)
    for k in range(5):
        for b, example in enumerate((7, 3)):
            out = torch.empty(int(mask[b].sum()), 4)
            law(name).draw(out, 1.0, generator(2, "direction", example, 6 + k))
            expected[k, b, mask[b] != 0] = out / law(name).variance ** 0.5
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found = directions(torch.zeros(2, 3, 4), mask, [7, 3], 5, seed=2, first=6, law_name=name)
            assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


def test_directions_by_threads_in_inference_mode_and_where_a_draw_fails(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    where = (torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=torch.long), [0], 4)
    with torch.inference_mode():
        found = directions(*where, seed=0)
    assert torch.equal(found, directions(*where, seed=0))

    def fails(self, *_: object, **__: object) -> None:
        raise RuntimeError("no draw")

    monkeypatch.setattr(Law, "draw", fails)
    with pytest.raises(RuntimeError, match="no draw"):
        directions(*where, seed=0)


def test_one_function_has_the_scale() -> None:
    lengths = torch.tensor([[4, 4, 0], [9, 9, 9]])
    expected = torch.where(lengths > 0, 5 / (lengths.clamp(min=1) * 16).double().sqrt(), 0)
    assert torch.equal(scale_of(5.0, lengths, 16), expected)
    assert torch.equal(Noise.neftune(5.0).scale(lengths[:, 0], 16), expected[:, 0])


@pytest.mark.parametrize("name", ["rademacher", "gaussian", "uniform"])
def test_directions_do_not_depend_on_the_default_dtype(name) -> None:
    X, mask = torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.long)
    plain = directions(X, mask, [0], 2, seed=0, law_name=name)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(directions(X, mask, [0], 2, seed=0, law_name=name), plain)
    finally:
        torch.set_default_dtype(torch.float32)
