"""Every public call leaves the model as it found it, also when it fails at any of its steps."""

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

import symnoise as sn
from symnoise.core import generator
from symnoise.curvature import METHODS
from tests.text import batch
from tests.tiny import tiny

SIGMAS = torch.tensor([[0.01, 0.02]], dtype=torch.float64)  # one strength, two examples


class InjectedError(Exception):
    """The failure that a test plants."""


def _loss(model: Any) -> sn.EmbeddingLoss:
    return sn.EmbeddingLoss(model, batch())


def _noise(model: Any) -> None:
    with sn.attach(model, sn.Noise.neftune(5.0)):
        model(**batch())


def _dynamic(model: Any) -> None:
    along = sn.DynamicTrace(probes=4, start_probes=4)
    along.measure(_loss(model))
    along.measure(_loss(model))


def _direction(model: Any) -> torch.Tensor:
    loss = _loss(model)
    return torch.randn(loss.embeddings.shape, generator=generator(0, "v"), dtype=loss.embeddings.dtype)


CALLS: dict[str, Callable[[Any], object]] = {
    "loss": lambda model: _loss(model)(_loss(model).embeddings),
    **{
        f"trace, {method}": lambda model, method=method: sn.trace(_loss(model), method, probes=4)
        for method in METHODS
        if method not in ("exact", "two-level")  # one is slow, the other for float32 alone
    },
    "gauss_newton_trace": lambda model: sn.gauss_newton_trace(_loss(model), probes=4),
    "gauss_newton_trace, hvp": lambda model: sn.gauss_newton_trace(_loss(model), "hvp", probes=4),
    "trace_parts": lambda model: sn.trace_parts(_loss(model), probes=4, rtol=10.0, max_probes=8),
    "DynamicTrace": _dynamic,
    "EmbeddingLoss, layer": lambda model: sn.trace(sn.EmbeddingLoss(model, batch(), layer=1), "taylor", probes=4),
    "gauss_newton_trace, xnystrace": lambda model: sn.gauss_newton_trace(_loss(model), "xnystrace", probes=4),
    "token_traces": lambda model: sn.token_traces(_loss(model), 2),
    "diagonal": lambda model: sn.diagonal(_loss(model), probes=2),
    "curvature_size": lambda model: sn.curvature_size(_loss(model), 2),
    "hvp": lambda model: sn.hvp(_loss(model), _direction(model)),
    "directional_curvature": lambda model: sn.directional_curvature(_loss(model), _direction(model)),
    "hvp_difference": lambda model: sn.hvp_difference(_loss(model), _direction(model)),
    "smoothed_curvature": lambda model: sn.smoothed_curvature(_loss(model), SIGMAS, draws=2),
    "finite_curvature": lambda model: sn.finite_curvature(_loss(model), SIGMAS[0], draws=2),
    "spectrum": lambda model: sn.spectrum(_loss(model).example(0), k=1, tolerance=0.5),
    "spectral_density": lambda model: sn.spectral_density(_loss(model).example(0), probes=2, steps=3),
    "EmbeddingHessian": lambda model: sn.EmbeddingHessian(_loss(model), example=0) @ torch.ones(6 * 32).double(),
    "layer_growth": lambda model: sn.layer_growth(_loss(model), sn.Noise.neftune(5.0)),
    "radial_identity": lambda model: sn.radial_identity(_loss(model)),
    "attach": _noise,
    "variance_budget": lambda model: sn.variance_budget(model, [batch(1, seed=i) for i in range(3)], [5.0], draws=3),
}


def found(model: Any) -> dict[str, Any]:
    """All that a call could leave behind on the model, and in PyTorch."""
    modules = dict(model.named_modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "dtypes": {name: value.dtype for name, value in model.state_dict().items()},
        "modes": {name: module.training for name, module in modules.items()},
        "frozen": {name: weight.requires_grad for name, weight in model.named_parameters()},
        "gradients": {name: weight.grad is not None for name, weight in model.named_parameters()},
        "hooks": {name: [list(getattr(module, kind)) for kind in hooks] for name, module in modules.items()},
        "tensor hooks": {name: bool(weight._backward_hooks) for name, weight in model.named_parameters()},
        "own attributes": {name: set(module.__dict__) for name, module in modules.items()},
        "classes": {name: type(module) for name, module in modules.items()},
        "config": model.config.to_dict() | {"attention": model.config._attn_implementation},
        "random": torch.get_rng_state(),
        "default dtype": torch.get_default_dtype(),
        "gradients on": torch.is_grad_enabled(),
        "kernels": (
            torch.backends.cuda.math_sdp_enabled(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.backends.cuda.mem_efficient_sdp_enabled(),
        ),
        "modules' call": nn.Module.__call__,
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what differs."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        return bool(a == b)

    return [name for name in before if not same(before[name], after[name])]


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, at: int | None):
    """Fail at step number `at`: a module's forward pass, or a backward pass. Yields the list of steps made."""
    steps: list[str] = []

    def counted(name: str, real: Callable) -> Callable:
        def step(*args: Any, **kwargs: Any) -> Any:
            if len(steps) == at:
                raise InjectedError(name)
            steps.append(name)
            return real(*args, **kwargs)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "_call_impl", counted("forward", nn.Module._call_impl))
        patch.setattr(torch.autograd, "grad", counted("grad", torch.autograd.grad))
        yield steps


def as_trained(name: str) -> Any:
    """A model in the midst of training: in training mode but for one module, one weight frozen, one with a gradient."""
    model = tiny(name, torch.float64).train()
    modules, weights = list(model.modules()), list(model.parameters())
    modules[-1].eval()
    weights[0].requires_grad_(False)
    weights[1].grad = torch.ones_like(weights[1])
    return model


@pytest.mark.parametrize("call", CALLS)
def test_nothing_is_left_behind(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = as_trained("llama")
    before = found(model)
    CALLS[call](model)  # what is checked once for a model
    with failing(monkeypatch, None) as steps:
        CALLS[call](model)
    assert changed(before, found(model)) == []
    assert len(steps) > 1
    shares = range(0, len(steps), max(1, len(steps) // 7))
    for at in sorted({*shares, len(steps) - 1}):
        with failing(monkeypatch, at), pytest.raises(InjectedError):
            CALLS[call](model)
        assert changed(before, found(model)) == [], f"after a failure at step {at} of {len(steps)}"


def test_every_public_call_on_a_model_is_tried() -> None:
    """A new public name has to be added above, or here with a reason."""
    no_model = {
        *("Estimate", "InputError", "generator", "Law", "Moments", "Noise", "realised_moments", "encode", "load_data"),
        *("load_model", "expected_square_norm", "Dials", "VarianceBudget", "plot", "float64_throughout"),
        *("SymNoiseMixin", "SymNoiseSFTTrainer", "SymNoiseTrainer", "CurvatureTracker", "NormTracker"),  # they train it
    }
    tried = {name.split(",")[0] for name in CALLS}
    assert set(sn.__all__) - no_model <= tried


def test_what_is_left_behind_is_seen() -> None:
    faults: dict[str, Callable[[Any], object]] = {
        "weights": lambda model: model.get_input_embeddings().weight.data.mul_(1.01),
        "modes": lambda model: model.eval(),
        "frozen": lambda model: next(model.parameters()).requires_grad_(True),
        "gradients": lambda model: model.zero_grad(),
        "hooks": lambda model: model.model.layers[0].register_forward_hook(lambda *_: None),
        "tensor hooks": lambda model: list(model.parameters())[1].register_hook(lambda g: g),
        "own attributes": lambda model: setattr(model, "kept", 1),
        "config": lambda model: model.set_attn_implementation("eager"),
        "random": lambda _: torch.rand(1),
    }
    for name, fault in faults.items():
        model = as_trained("llama")
        before = found(model)
        fault(model)
        assert name in changed(before, found(model))
