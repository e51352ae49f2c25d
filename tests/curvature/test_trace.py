import sys
import time
import warnings
from functools import cache
from typing import Any

import pytest
import torch

from symnoise.core import InputError
from symnoise.curvature import (
    SmoothedCurvature,
    dense_hessian,
    exact_trace,
    finite_curvature,
    gauss_newton_trace,
    smoothed_curvature,
    trace,
    trace_parts,
)
from symnoise.curvature.taylor import UnsupportedOperation, taylor_quadratics
from symnoise.models import EmbeddingLoss
from tests.quadratic import Quadratic
from tests.text import batch, lifted, loss_of
from tests.tiny import tiny


def test_the_exact_trace_of_a_quadratic() -> None:
    loss = Quadratic()
    estimate = trace(loss, "exact")
    assert float(estimate.value) == pytest.approx(float(loss.A.trace()), rel=1e-12)
    assert float(estimate.stderr) == 0


@pytest.mark.parametrize(
    ("method", "directions", "probes"),
    [
        ("hvp", "rademacher", 16),
        ("hvp", "gaussian", 16),
        ("hvp", "orthogonal", 16),  # blocks of 4 in 12 dimensions
        ("hvp", "orthogonal", 32),  # blocks of 8: errors that took the probes for independent would be 1.7 times wide
        ("difference", "rademacher", 16),
        ("difference", "orthogonal", 32),
    ],
)
def test_stated_errors_cover_the_truth(method: str, directions: str, probes: int) -> None:
    """1,000 copies, each with probes of its own: a 90 % interval's coverage has a standard error of 0.95 %; four."""
    loss = Quadratic(1_000)
    low, high = trace(loss, method, probes=probes, directions=directions).interval(0.9)
    truth = loss.A.trace()
    assert abs(float(((low <= truth) & (truth <= high)).double().mean()) - 0.9) < 0.038


@cache
def exact_trace_of_the_first(name: str) -> torch.Tensor:
    return exact_trace(loss_of(name).example(0))


@pytest.mark.parametrize(
    ("name", "method", "directions"),
    [
        ("llama", "taylor", "rademacher"),
        ("gpt2", "taylor", "rademacher"),
        ("llama", "taylor", "orthogonal"),
        ("llama", "hvp", "rademacher"),
        ("gpt2", "hvp", "gaussian"),
    ],
)
def test_stated_errors_cover_the_truth_on_a_model(name: str, method: str, directions: str) -> None:
    """500 copies of an example, each with its own probes: four standard errors of the coverage are 5.4 %."""
    text = {key: value[:1].repeat(500, 1) for key, value in batch().items()}
    loss = EmbeddingLoss(tiny(name, torch.float64), text)
    truth = exact_trace_of_the_first(name)
    low, high = trace(loss, method, probes=16, directions=directions).interval(0.9)
    assert abs(float(((low <= truth) & (truth <= high)).double().mean()) - 0.9) < 0.054


def test_orthogonal_probes_have_the_variance_of_frames() -> None:
    """2n(n − m)/(m(n − 1)(n + 2))·(‖A‖² − (tr A)²/n) a block of m; a variance over 2,000 copies errs by 3.2 %."""
    loss = Quadratic(2_000)
    n, m, A = 12, 8, loss.A
    variance = 2 * n * (n - m) / (m * (n - 1) * (n + 2)) * float((A * A).sum() - A.trace() ** 2 / n) / 4
    estimate = trace(loss, "hvp", probes=4 * m, directions="orthogonal")
    assert float((estimate.value - A.trace()).square().mean()) == pytest.approx(variance, rel=4.5 * 0.032)
    assert float(estimate.stderr.square().mean()) == pytest.approx(variance, rel=4.5 * 0.032)
    assert estimate.dof == 3


def test_a_whole_frame_gives_the_trace_itself() -> None:
    estimate = trace(Quadratic(2), "hvp", probes=48, directions="orthogonal")
    torch.testing.assert_close(estimate.value, Quadratic().A.trace().expand(2), rtol=1e-12, atol=0)
    assert float(estimate.stderr.max()) < 1e-12


@pytest.mark.parametrize(("probes", "dof"), [(1, 0), (2, 1), (6, 2), (7, 6), (16, 3), (25, 4)])
def test_taylor_mode_s_error_has_one_degree_less_than_groups(probes: int, dof: int) -> None:
    estimate = trace(loss_of("gpt2"), "taylor", probes=probes)
    assert (estimate.dof, estimate.probes) == (dof, probes)
    assert bool(estimate.stderr.isfinite().all()) == (dof > 0)


@pytest.mark.parametrize("directions", ["rademacher", "gaussian", "orthogonal"])
def test_methods_agree_on_the_same_probes(directions: str) -> None:
    with lifted(True):
        loss = loss_of("llama")
        by_taylor, by_products = (
            trace_parts(loss, method, probes=8, seed=3, directions=directions) for method in ("taylor", "hvp")
        )
        for part in ("hessian", "gauss_newton", "rest"):
            torch.testing.assert_close(
                getattr(by_taylor, part).value, getattr(by_products, part).value, rtol=1e-9, atol=1e-9
            )
        by_differences = trace(loss, "difference", probes=8, seed=3, directions=directions)
        torch.testing.assert_close(by_differences.value, by_products.hessian.value, rtol=1e-6, atol=1e-6)


def test_gauss_newton_against_its_definition() -> None:
    with lifted(True):
        loss = loss_of("gpt2").example(0)
        J = torch.autograd.functional.jacobian(loss.logits, loss.embeddings).flatten(2)  # (scored, vocabulary, n)
        p = loss.logits(loss.embeddings).softmax(-1)
        W = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        exact = float(torch.einsum("svn,svw,swn->", J, W, J)) / len(p)
        estimate = gauss_newton_trace(loss, "hvp", probes=400)
    assert abs(float(estimate.value) - exact) < 4.5 * float(estimate.stderr)
    assert float(estimate.stderr) < 0.05 * exact


def test_parts_add_up() -> None:
    parts = trace_parts(loss_of("opt"), "hvp", probes=4)
    torch.testing.assert_close(parts.gauss_newton.value + parts.rest.value, parts.hessian.value)


def test_an_example_s_trace_does_not_depend_on_its_batch() -> None:
    with lifted(True):
        loss = loss_of("llama")
        both = trace(loss, "hvp", probes=4)
        alone = trace(loss.example(1), "hvp", probes=4)
    torch.testing.assert_close(both.value[1:], alone.value, rtol=1e-9, atol=1e-12)


def test_auto_falls_back_with_a_warning_and_taylor_does_not(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UnsupportedOperation("aten.fancy")

    monkeypatch.setattr(sys.modules["symnoise.curvature.estimators.sampler"], "taylor_quadratics", refuse)
    loss = loss_of("llama")
    with pytest.warns(UserWarning, match=r"aten\.fancy"):
        estimate = trace(loss, "auto", probes=2)
    assert estimate.method == "hvp"
    with pytest.raises(UnsupportedOperation, match=r"aten\.fancy"):
        trace(loss, "taylor", probes=2)


def test_other_functions_go_by_products_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trace(Quadratic(), probes=2).method == "hvp"
    with pytest.raises(InputError, match="needs an EmbeddingLoss"):
        trace(Quadratic(), "taylor")


def test_bad_input() -> None:
    loss = loss_of("llama")
    with pytest.raises(InputError, match="did you mean 'taylor'"):
        trace(loss, "tailor")
    with pytest.raises(InputError, match="probes must be 1 or more"):
        trace(loss, probes=0)
    with pytest.raises(InputError, match="unknown method"):
        trace_parts(loss, "exact")
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[int(batch()["labels"][0, 2])] = torch.nan
    for method in ("taylor", "hvp", "difference", "exact"):
        with pytest.raises(InputError, match=r"loss is nan at example 0, token \d"):
            trace(EmbeddingLoss(model, batch()), method, probes=1)
    with pytest.raises(InputError, match=r"loss is nan at example 0, token \d"):
        gauss_newton_trace(EmbeddingLoss(model, batch()), "hvp", probes=1)


def test_smoothing_of_a_quadratic_is_exact_at_every_sigma() -> None:
    loss = Quadratic()
    found = smoothed_curvature(loss, torch.tensor([0.01, 1.0, 100.0]), draws=6)
    torch.testing.assert_close(found.T.value, torch.ones(3, 1).double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.C.value, found.forms.mean(0).expand(3, 1), rtol=1e-6, atol=0)
    slope = loss.A @ loss.embeddings.flatten().double()
    assert float(found.gradient_square_norm) == pytest.approx(float(slope @ slope))


@cache
def dense_trace() -> torch.Tensor:
    with lifted(True):
        return dense_hessian(loss_of("llama").example(0))[0].trace()


@pytest.mark.parametrize("law", ["uniform", "gaussian", "rademacher"])
def test_smoothing_tends_to_the_hessian(law: str) -> None:
    with lifted(True):
        found = smoothed_curvature(loss_of("llama").example(0), torch.tensor([1e-4]), law, draws=64)
    assert float(found.T.value) == pytest.approx(1, abs=1e-3)
    assert abs(float(found.C.value - dense_trace())) < 4.5 * float(found.C.stderr)


def test_smoothing_by_taylor_mode_and_in_batches_is_the_same() -> None:
    text, sigmas = batch(rows=4, tokens=9), torch.tensor([0.05, 0.4], dtype=torch.float64)
    model = tiny("llama", torch.float64)
    with lifted(True):
        whole = smoothed_curvature(EmbeddingLoss(model, text), sigmas, draws=3)
        parts = [
            smoothed_curvature(
                EmbeddingLoss(model, {k: v[ids] for k, v in text.items()}, ids), sigmas, draws=3, method="taylor"
            )
            for ids in (range(3), range(3, 4))
        ]
    joined = SmoothedCurvature.joined(parts)
    for name in ("sigmas", "pair", "odd", "forms", "loss", "gradient_square_norm", "second_order"):
        torch.testing.assert_close(getattr(joined, name), getattr(whole, name), rtol=1e-7, atol=1e-9)
    for name in ("C", "T"):
        torch.testing.assert_close(getattr(joined, name).value, getattr(whole, name).value, rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="unknown method"):
        smoothed_curvature(Quadratic(), sigmas, method="tailor")
    with pytest.raises(InputError, match="needs an EmbeddingLoss"):
        smoothed_curvature(Quadratic(), sigmas, method="taylor")


def test_smoothing_by_auto_takes_taylor_mode_or_products_with_a_warning(
    monkeypatch,
) -> None:
    loss, taken = loss_of("llama"), []

    def counted(*arguments: Any, **options: Any) -> object:
        taken.append(1)
        return taylor_quadratics(*arguments, **options)

    def refuse(*_: object, **__: object) -> None:
        raise UnsupportedOperation("aten.fancy")

    by_products = smoothed_curvature(loss, 0.1, draws=2, method="hvp")
    monkeypatch.setattr(sys.modules["symnoise.curvature.smoothing"], "taylor_quadratics", counted)
    torch.testing.assert_close(smoothed_curvature(loss, 0.1, draws=2).forms, by_products.forms, rtol=1e-5, atol=1e-5)
    assert taken == [1]
    monkeypatch.setattr(sys.modules["symnoise.curvature.smoothing"], "taylor_quadratics", refuse)
    with pytest.warns(UserWarning, match=r"aten\.fancy; .* falling back"):
        assert torch.equal(smoothed_curvature(loss, 0.1, draws=2).forms, by_products.forms)
    with pytest.raises(UnsupportedOperation, match=r"aten\.fancy"):
        smoothed_curvature(loss, 0.1, draws=2, method="taylor")


def test_finite_curvature_is_c_of_the_same_draws() -> None:
    loss = loss_of("llama")
    sigma = torch.linspace(0.1, 0.3, len(loss.ids), dtype=torch.float64)
    alone, beside = finite_curvature(loss, sigma, draws=3), smoothed_curvature(loss, sigma[None], draws=3).C
    torch.testing.assert_close(alone.value, beside.value[0])
    torch.testing.assert_close(alone.stderr, beside.stderr[0])
    with pytest.raises(InputError, match="above 0"):
        finite_curvature(loss, 0 * sigma)


def test_the_rounding_of_the_loss_is_in_the_error_of_smoothing() -> None:
    """All draws share it, so that their spread, which shrinks with their number, does not show it."""
    text, sigma = batch(rows=16, tokens=12), torch.full((16,), 3e-5, dtype=torch.float64)
    single, double = (EmbeddingLoss(tiny("llama", dtype), text) for dtype in (torch.float32, torch.float64))
    found = smoothed_curvature(single, sigma[None], draws=64)
    with lifted(True):
        wanted = smoothed_curvature(double, sigma[None], draws=64)
    for name in ("C", "T"):
        low, high = getattr(found, name).interval(0.95)
        true = getattr(wanted, name).value
        assert int(((low <= true) & (true <= high)).sum()) >= 15
    spread = (2 * found.pair[0] / sigma**2).std(0) / 8
    assert float(((found.C.value - wanted.C.value)[0].abs() / spread).mean()) > 1.5  # where it matters


def test_smoothing_refuses_bad_sigmas() -> None:
    for sigmas in ([0.0], [-1.0], [float("nan")]):
        with pytest.raises(InputError, match="above 0"):
            smoothed_curvature(Quadratic(), torch.tensor(sigmas))
    with pytest.raises(InputError, match="one for each of 2"):
        smoothed_curvature(Quadratic(2), torch.ones(1, 3))
    with pytest.raises(InputError, match="one for each of 2"):
        finite_curvature(Quadratic(2), torch.ones(3))


class Square:
    """ℓ = ½‖x‖² + 100: by sign probes, every mirrored pair of draws has the same excess."""

    embeddings = torch.ones(2, 4, 3, dtype=torch.float64)
    mask, ids = torch.ones(2, 4, dtype=torch.long), range(2)

    def __call__(self, X: torch.Tensor) -> torch.Tensor:
        return X.square().sum((1, 2)) / 2 + 100


def test_where_draws_agree_rounding_is_the_whole_error_of_smoothing() -> None:
    """One unit in the last place of ℓ = 106 in 2(E ℓ − ℓ)/σ², and in the sum whose ratio to ½σ²·12 is T."""
    found, ulp = smoothed_curvature(Square(), [2.0, 4.0], draws=4), 106 * torch.finfo(torch.float64).eps
    for k, sigma in enumerate((2.0, 4.0)):
        assert found.C.value[k].tolist() == [12, 12] and found.T.value[k].tolist() == [1, 1]
        assert found.C.stderr[k].tolist() == pytest.approx([2 * ulp / sigma**2] * 2, rel=1e-9)
        assert found.T.stderr[k].tolist() == pytest.approx([ulp / (sigma**2 * 6)] * 2, rel=1e-9)
        alone = finite_curvature(Square(), torch.full((2,), sigma), draws=4)
        assert alone.stderr.tolist() == pytest.approx([2 * ulp / sigma**2] * 2, rel=1e-9)
    assert (found.C.dof, found.C.count, found.T.dof) == (3, 4, 3)


def test_the_seconds_are_those_of_the_measurement() -> None:
    started = time.perf_counter()
    found = trace(Quadratic(), "hvp", probes=4)
    assert 0 < found.seconds <= time.perf_counter() - started
