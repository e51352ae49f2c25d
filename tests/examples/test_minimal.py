"""examples/minimal.py against the library: the same Hessian, the same probes, and a pair's gradient."""

import ast
import importlib.util
import sys

import pytest
import torch

import symnoise as sn
from result_schema.files import ROOT
from symnoise.noise import directions

PATH = ROOT / "examples" / "minimal.py"
TIGHT = {"rtol": 1e-10, "atol": 1e-10}  # float64, about 1e4 operations deep


@pytest.fixture(scope="module")
def minimal():
    specification = importlib.util.spec_from_file_location("minimal", PATH)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


class Loss:
    """The toy as the library takes a function of one's own."""

    def __init__(self, model, ids):
        self.model, self.tokens = model, ids
        self.embeddings = model.table[ids].detach()
        self.mask = torch.ones_like(ids)
        self.ids = tuple(range(len(ids)))

    def __call__(self, X):
        return self.model.loss(X, self.tokens)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def loss(minimal, request):
    model = minimal.Toy(vocabulary=7, length=6, d=8, tied=request.param, seed=3).double()
    random = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():  # gains off 1, so that no term is left out unnoticed
            parameter += 0.2 * torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)
    return Loss(model, minimal.counting(vocabulary=7, length=6, examples=3))


def test_the_file_is_short_and_needs_torch_alone():
    text = PATH.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    assert "python examples/minimal.py" in text[:200]
    nodes = list(ast.walk(ast.parse(text)))
    names = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    assert {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) == {"torch"}


def test_the_dense_hessian_has_the_library_s_trace(minimal, loss):
    X, ids = loss.embeddings, loss.tokens
    dense = [minimal.dense_hessian(loss.model, X[b : b + 1], ids[b : b + 1]) for b in range(len(ids))]
    torch.testing.assert_close(torch.stack([H.trace() for H in dense]), sn.trace(loss, "exact").value, **TIGHT)


def test_equal_probes_give_equal_estimates(minimal, loss):
    arguments = (loss.model, loss.embeddings, loss.tokens)
    V = directions(loss.embeddings, loss.mask, loss.ids, 8, seed=5)
    library = sn.trace(loss, "hvp", probes=8, seed=5).value
    torch.testing.assert_close(minimal.hessian_products(*arguments, V).mean(0), library, **TIGHT)
    torch.testing.assert_close(minimal.taylor(*arguments, V).x2 / 8, library, **TIGHT)


def test_taylor_mode_has_the_value_and_the_slopes_too(minimal, loss):
    arguments = (loss.model, loss.embeddings, loss.tokens)
    V = directions(loss.embeddings, loss.mask, loss.ids, 2, seed=6)
    found, h = minimal.taylor(*arguments, V), 1e-5
    torch.testing.assert_close(found.x0, loss(loss.embeddings).detach(), **TIGHT)
    with torch.no_grad():
        slopes = torch.stack([(loss(loss.embeddings + h * v) - loss(loss.embeddings - h * v)) / (2 * h) for v in V])
    torch.testing.assert_close(found.x1, slopes, rtol=1e-6, atol=1e-7)  # h² of truncation, eps/h of rounding


def test_a_pair_is_the_library_s_noise_and_its_gradient_the_mean_of_both_sides(minimal, loss):
    model, ids, alpha = loss.model, loss.tokens, 2.0
    plus, minus = minimal.mirrored_pair(loss.embeddings, alpha, torch.Generator().manual_seed(7))
    sigma = sn.Noise.symnoise(alpha).sigma(ids.shape[1], loss.embeddings.shape[-1])
    torch.testing.assert_close(plus.abs(), sigma.expand_as(plus), **TIGHT)
    assert torch.equal(minus, -plus)

    parameters = list(model.parameters())
    of_pair = minimal.pair_loss(model, ids, alpha, torch.Generator().manual_seed(7)).sum()
    sides = [model.loss(model.table[ids] + epsilon, ids).sum() for epsilon in (plus, minus)]
    whole, *parts = (torch.autograd.grad(value, parameters) for value in (of_pair, *sides))
    for gradient, one, other in zip(whole, *parts, strict=True):
        torch.testing.assert_close(gradient, (one + other) / 2, **TIGHT)


def test_it_runs_and_trains(minimal, capsys):
    before, after = minimal.main(probes=4, steps=10)
    assert after < before
    said = capsys.readouterr().out
    assert "row 3" in said and "nats per token" in said
