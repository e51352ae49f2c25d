"""Losses that cannot be measured as they are: too large, random, quantised, not finite. One clear line each."""

import inspect
import warnings
from functools import partial
from itertools import count

import pytest
import torch
from torch import nn
from transformers import HrmTextConfig, HrmTextForCausalLM

import symnoise as sn
from symnoise.core import InputError
from symnoise.curvature import gauss_newton_trace, trace, trace_parts, two_sided_divergence
from symnoise.models import EmbeddingLoss
from symnoise.noise import Noise
from symnoise.norms import layer_growth
from tests.quadratic import Quadratic
from tests.text import batch, lifted, loss_of
from tests.tiny import tiny

METHODS = ("taylor", "hvp", "difference", "hutch++", "xtrace", "exact")


def allocate_too_much() -> None:
    torch.empty(2**56, dtype=torch.float64)  # the allocator's own error and words


def limit_rows(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    logits = EmbeddingLoss.logits

    def limited(self: EmbeddingLoss, X: torch.Tensor) -> torch.Tensor:
        if len(X) > most:
            allocate_too_much()
        return logits(self, X)

    monkeypatch.setattr(EmbeddingLoss, "logits", limited)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "exact"])
def test_out_of_memory_halves_the_batch(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    with lifted(True):
        loss = loss_of("gpt2", rows=3, tokens=5)
        wanted = trace(loss, method, probes=4)
        limit_rows(monkeypatch, 2)
        with pytest.warns(RuntimeWarning, match="out of memory with 3 examples at a time; continuing with 2"):
            found = trace(loss, method, probes=4)
    torch.testing.assert_close(found.value, wanted.value, rtol=1e-9, atol=1e-9)
    # Differences state their rounding error, which is itself of the size of rounding.
    torch.testing.assert_close(found.stderr, wanted.stderr, rtol=1e-4 if method == "difference" else 1e-6, atol=1e-9)


def test_parts_and_targets_are_halved_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with lifted(True):
        loss = loss_of("gpt2", rows=3, tokens=5)
        wanted = trace_parts(loss, "hvp", probes=4, rtol=1.0, max_probes=16)
        limit_rows(monkeypatch, 1)
        with (
            pytest.warns(RuntimeWarning, match="continuing with 2"),
            pytest.warns(RuntimeWarning, match="continuing with 1"),
        ):
            found = trace_parts(loss, "hvp", probes=4, rtol=1.0, max_probes=16)
    for part in ("hessian", "gauss_newton", "rest"):
        torch.testing.assert_close(getattr(found, part).value, getattr(wanted, part).value, rtol=1e-9, atol=1e-9)
        assert getattr(found, part).count == getattr(wanted, part).count


def test_one_example_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    limit_rows(monkeypatch, 0)
    with pytest.warns(RuntimeWarning), pytest.raises(InputError, match="out of memory with 1 example"):
        trace(loss_of("gpt2"), "hvp", probes=2)


def test_other_functions_cannot_be_cut() -> None:
    class Large(Quadratic):
        def __call__(self, X: torch.Tensor) -> torch.Tensor:
            raise MemoryError

    with pytest.raises(InputError, match=r"out of memory with 2 example\(s\)"):
        trace(Large(2))


@pytest.mark.parametrize("method", METHODS)
def test_a_random_loss_is_found_out(method: str) -> None:
    """Each pass has a factor of its own; two that are drawn, as by dropout in evaluation mode, can come out alike."""
    loss, factors = loss_of("llama"), count(1)
    loss.model.model.layers[0].mlp.register_forward_hook(lambda _, __, output: output * next(factors))
    with pytest.raises(InputError, match=r"not deterministic: \S+, then \S+ at example \d"):
        trace(loss, method, probes=4)
    if method in ("taylor", "hvp"):
        with pytest.raises(InputError, match="not deterministic"):
            gauss_newton_trace(loss, method, probes=4)
        with pytest.raises(InputError, match="not deterministic"):
            sn.smoothed_curvature(loss, 0.1, method=method)


def test_a_random_function_is_found_out() -> None:
    passes = count()

    class Random(Quadratic):
        def __call__(self, X: torch.Tensor) -> torch.Tensor:
            return super().__call__(X) + next(passes)

    for measure in (trace, sn.curvature_size, partial(sn.smoothed_curvature, sigmas=0.1)):
        with pytest.raises(InputError, match="not deterministic"):
            measure(Random())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_not_randomness(dtype: torch.dtype) -> None:
    loss = EmbeddingLoss(tiny("llama", dtype), batch())
    for method in ("taylor", "hvp"):
        assert bool(trace(loss, method, probes=2).value.isfinite().all())


class Packed(nn.Module):
    """Integer weights whose kernel knows no derivative: the graph ends here without an error."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.scale = linear.weight.detach().abs().max() / 127
        self.register_buffer("weight", (linear.weight.detach() / self.scale).round().to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.detach() @ self.weight.to(x).T) * self.scale.to(x)


class Dequantised(Packed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.weight.to(x).T) * self.scale.to(x)


class Kernel(Packed):
    """The same through an operation of PyTorch's own that has no derivative."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.float().flatten(0, -2)
        product = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scale.float().repeat(len(self.weight)))
        return product.unflatten(0, x.shape[:-1]).to(x)


@pytest.mark.parametrize("method", ["auto", "hvp", "difference"])
def test_kernels_without_a_derivative(method: str) -> None:
    loss = loss_of("llama")
    loss.model.model.layers[1].mlp.up_proj = Kernel(loss.model.model.layers[1].mlp.up_proj)
    with warnings.catch_warnings(), pytest.raises(InputError, match=r"without the derivatives .* load it unquantised"):
        warnings.simplefilter("ignore")  # "auto" says that Taylor mode has no rule for it
        trace(loss, method, probes=4)


def test_dynamically_quantised_models() -> None:
    """PyTorch only warns, and takes what lies behind such a layer as constant."""
    model = tiny("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        with pytest.raises(InputError, match="quantised"):
            trace(EmbeddingLoss(model, batch()), probes=4)


@pytest.mark.parametrize("method", ["auto", "hvp", "difference", "xtrace"])
def test_quantised_weights_without_a_derivative(method: str) -> None:
    loss = loss_of("llama")
    loss.model.model.layers[1].mlp.up_proj = Packed(loss.model.model.layers[1].mlp.up_proj)
    with pytest.raises(InputError, match=r"quantised weights .* at model.layers.1.mlp.up_proj, a Packed; load"):
        trace(loss, method, probes=4)


def test_quantised_weights_with_a_derivative_are_measured() -> None:
    with lifted(True):
        loss = loss_of("llama")
        loss.model.model.layers[1].mlp.up_proj = Dequantised(loss.model.model.layers[1].mlp.up_proj)
        by_taylor, by_products = (trace(loss, method, probes=4).value for method in ("taylor", "hvp"))
    torch.testing.assert_close(by_taylor, by_products, rtol=1e-9, atol=1e-9)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(context, x: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, gradient: torch.Tensor) -> torch.Tensor:
        return 3 * context.saved_tensors[0] ** 2 * gradient


def test_without_a_second_derivative_it_says_so() -> None:
    class Cubic(Quadratic):
        def __call__(self, X: torch.Tensor) -> torch.Tensor:
            return (Once.apply(X) ** 2).sum((1, 2)) / 2

    loss = Cubic()  # ½x⁶ at ones: tr ∇² = 15·12
    with pytest.raises(InputError, match="without the derivatives that are needed"):
        trace(loss, "hvp")
    assert float(trace(loss, "difference").value) == pytest.approx(180, rel=1e-6)


def test_a_curvature_that_is_not_finite_names_the_example() -> None:
    class Kink(Quadratic):
        def __call__(self, X: torch.Tensor) -> torch.Tensor:
            return (X**1.5).sum((1, 2))

    loss = Kink(2)
    loss.embeddings[1, 0, 0] = 0  # a finite loss and slope, no second derivative
    for method in ("hvp", "hutch++"):
        with pytest.raises(InputError, match=r"(curvature of example 1 is NaN or infinite|QR)"):
            trace(loss, method, probes=4)


def test_what_is_refused_by_name() -> None:
    loss = loss_of("llama")
    with pytest.raises(InputError, match="unknown directions 'orthogonl': did you mean 'orthogonal'"):
        trace(loss, directions="orthogonl")
    with pytest.raises(InputError, match=r"did you mean 'hutch\+\+'"):
        trace(loss, "hutch+")
    with pytest.raises(InputError, match=r"coefficients=torch.bfloat16 is for method='taylor'; method='hvp' has none"):
        trace(loss, "hvp", coefficients=torch.bfloat16)
    with pytest.raises(InputError, match="floating-point dtype"):
        trace(loss, coefficients=torch.int8)
    with pytest.raises(InputError, match="needs an EmbeddingLoss"):
        trace(Quadratic(), coefficients=torch.bfloat16)
    with pytest.raises(InputError, match="unknown method"):
        trace_parts(loss, "xtrace")


def test_bfloat16_coefficients_err_by_little() -> None:
    """Rounding to 8 bits, 0.4 % an operation, random over some 10,000 entries: 3 % of the largest trace here."""
    loss = loss_of("llama", dtype=torch.float32)
    fine, coarse = (trace_parts(loss, "taylor", coefficients=c) for c in (None, torch.bfloat16))
    for part in ("hessian", "gauss_newton"):
        a, b = getattr(fine, part).value, getattr(coarse, part).value
        assert float((a - b).abs().max()) < 0.03 * float(a.abs().max())
        assert not torch.equal(a, b)


@pytest.mark.parametrize(
    "measure",
    [
        sn.trace, sn.gauss_newton_trace, sn.trace_parts, sn.spectrum, sn.spectral_density, sn.EmbeddingHessian.__init__,
        lambda model: inspect.unwrap(sn.hvp)(model, torch.zeros(1, 2, 3)),
        lambda model: inspect.unwrap(sn.hvp_difference)(model, torch.zeros(1, 2, 3)),
        lambda model: inspect.unwrap(sn.smoothed_curvature)(model, 0.01),
        lambda model: inspect.unwrap(sn.finite_curvature)(model, torch.ones(1)),
        sn.curvature_size,
        lambda model: inspect.unwrap(two_sided_divergence)(model, torch.ones(1)),
        lambda model: inspect.unwrap(layer_growth)(model, Noise.symnoise(1.0)),
    ],
)  # fmt: skip
def test_a_model_is_not_a_loss(measure) -> None:
    """As a user meets it, without this suite's checker of types around the function."""
    bare = inspect.unwrap(measure)
    with pytest.raises(InputError, match=r"such as EmbeddingLoss\(model, batch\), not LlamaForCausalLM"):
        bare(None, tiny("llama")) if "self" in inspect.signature(bare).parameters else bare(tiny("llama"))


def test_one_sigma_is_a_number() -> None:
    loss = loss_of("llama")
    one, several = (sn.smoothed_curvature(loss, sigmas, draws=2) for sigmas in (0.01, [0.01, 0.02]))
    assert one.C.value.shape == (1, 2) and torch.equal(one.C.value[0], several.C.value[0])
    for sigma in (0.01, torch.tensor([0.01], dtype=torch.float64), [0.01, 0.01]):
        torch.testing.assert_close(sn.finite_curvature(loss, sigma, draws=2).value, one.C.value[0])


def test_what_is_near_a_model_a_batch_or_a_sigma_is_said_in_words() -> None:
    loss, model = loss_of("llama"), tiny("llama")
    with pytest.raises(InputError, match=r"takes a model, not Loaded; give its \.model"):
        EmbeddingLoss(type("Loaded", (), {"model": model})(), batch())
    with pytest.raises(InputError, match=r"such as encode\(rows, tokenizer, max_length=128\), not list"):
        inspect.unwrap(EmbeddingLoss.__init__)(object.__new__(EmbeddingLoss), model, ["text"])
    with pytest.raises(InputError, match=r"sigmas are numbers above 0, .*; got 'symnoise'"):
        inspect.unwrap(sn.smoothed_curvature)(loss, "symnoise")


def test_a_part_that_runs_without_gradients_is_for_taylor_mode_alone() -> None:
    """HRM-Text's early cycles: derivatives took them for constant, and `exact` said so with an error of 0."""
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4}
    ids = torch.arange(3, 8)[None]
    model = HrmTextForCausalLM(HrmTextConfig(**sizes)).double().eval()
    loss = EmbeddingLoss(model, {"input_ids": ids, "labels": ids})
    for method in ("hvp", "exact", "difference"):
        with pytest.raises(InputError, match=r"a part of itself .* without gradients.*method='taylor'"):
            trace(loss, method=method, probes=4)
    with lifted(True):
        found = trace(loss, method="taylor", probes=64)
        losses = sn.finite_curvature(loss, 1e-3 * float(loss.mean_square.sqrt()[0]), draws=64)
    difference = found - losses
    assert abs(float(difference.value[0])) < 4 * float(difference.stderr[0])
