"""Hidden states as the variable, against a model that begins at that layer."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AlbertConfig, AlbertForMaskedLM, PreTrainedModel

from symnoise.core import InputError
from symnoise.curvature import dense_hessian, random_probes, trace, trace_parts
from symnoise.models import EmbeddingLoss
from symnoise.noise import Noise
from symnoise.norms import layer_growth
from tests.text import batch, lifted
from tests.tiny import NAMES, tiny


def blocks(model: PreTrainedModel) -> torch.nn.ModuleList:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


def beginning_at(model: PreTrainedModel, layer: int) -> PreTrainedModel:
    """A model without the blocks before `layer`, which takes its states as inputs_embeds."""
    shorter = copy.deepcopy(model)
    del blocks(shorter)[:layer]
    if hasattr(shorter, "transformer"):  # positions are in the states already
        with torch.no_grad():
            shorter.transformer.wpe.weight.zero_()
    return shorter


def logits_of(model: PreTrainedModel, loss: EmbeddingLoss, X: Tensor) -> Tensor:
    rows, places = loss.targeted.rows, loss.targeted.positions
    return model(inputs_embeds=X, attention_mask=loss.mask, use_cache=False).logits[rows, places]


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_both_engines_give_both_traces_of_the_dense_matrices(name: str, layer: int) -> None:
    """On the same probes, so to rounding; the oracle is autograd through a model that begins there."""
    with lifted(True):
        model = tiny(name, torch.float64)
        loss = EmbeddingLoss(model, batch(), layer=layer).example(0)
        rest, X, n = beginning_at(model, layer).requires_grad_(False), loss.embeddings, loss.embeddings.numel()
        model.config._attn_implementation = rest.config._attn_implementation = "eager"  # differentiable twice

        def value(X: Tensor) -> Tensor:
            return F.cross_entropy(logits_of(rest, loss, X), loss.targets)

        H = torch.autograd.functional.hessian(value, X).reshape(n, n)
        J = torch.autograd.functional.jacobian(lambda X: logits_of(rest, loss, X), X).flatten(2)
        p = logits_of(rest, loss, X).softmax(-1)
        G = torch.einsum("svn,svw,swm->nm", J, torch.diag_embed(p) - p[:, :, None] * p[:, None], J) / len(p)
        torch.testing.assert_close(dense_hessian(loss)[0], H, rtol=1e-9, atol=1e-9 * float(H.abs().max()))
        z = random_probes(loss, 4, seed=0)[:, 0].flatten(1)
        for method in ("taylor", "hvp"):
            found = trace_parts(loss, method, probes=4)
            for one, A in ((found.hessian, H), (found.gauss_newton, G)):
                assert float(one.value) == pytest.approx(float(((z @ A) * z).sum(1).mean()), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_at_the_model_s_own_states_is_the_model_s_own(name: str, layer: int) -> None:
    """And what its first layers receive does not matter; t5's layers are the encoder's."""
    with lifted(True):
        model = tiny(name, torch.float64)
        plain, loss = EmbeddingLoss(model, batch()), EmbeddingLoss(model, batch(), layer=layer)
        torch.testing.assert_close(loss(loss.embeddings), plain(plain.embeddings), rtol=1e-12, atol=0)
        if layer < 2:  # the last of `hidden_states` is after the final norm
            torch.testing.assert_close(loss.embeddings, plain.hidden_states(plain.embeddings)[layer])
        assert bool((loss(loss.embeddings + torch.linspace(0, 1, 32)) != plain(plain.embeddings)).all())
        one, other = (trace(loss, method, probes=2) for method in ("taylor", "hvp"))
        torch.testing.assert_close(one.value, other.value, rtol=1e-9, atol=1e-12)


def test_rows_and_padding_keep_the_layer() -> None:
    with lifted(True):
        model, right = tiny("llama", torch.float64), batch()
        left = {key: value.clone() for key, value in right.items()}
        for key in left:
            left[key][1] = right[key][1].roll(2)
        loss = EmbeddingLoss(model, right, layer=1)
        alone, padded = loss.example(1), EmbeddingLoss(model, left, layer=1)
        assert (alone.layer, alone.shape[1]) == (1, 4)
        torch.testing.assert_close(alone.embeddings, loss.embeddings[1:, :4])
        torch.testing.assert_close(alone.embeddings, padded.embeddings[1:, 2:])
        for one in (loss.mean_square[1:], padded.mean_square[1:], alone.mean_square):
            torch.testing.assert_close(one, alone.embeddings.square().mean((1, 2)))
        expected = trace(loss, "hvp", probes=2)[1:].value
        torch.testing.assert_close(trace(alone, "taylor", probes=2).value, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(trace(padded, "hvp", probes=2)[1:].value, expected, rtol=1e-9, atol=1e-12)


def test_growth_begins_where_the_noise_enters() -> None:
    """Recorded states have X at its layer: no growth before, and there the noise's own."""
    with lifted(True):
        loss = EmbeddingLoss(tiny("llama", torch.float64), batch(rows=1), layer=1)
        found = layer_growth(loss, Noise("rademacher", 5.0), draws=1)
    assert float(found.displacement.value[0]) == 0
    expected = 25 / 3 / float(loss.embeddings.square().sum())
    assert float(found.displacement.value[1]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("layer", [-1, 3, 99, True])
def test_a_layer_that_is_not_there(layer: int) -> None:
    with pytest.raises(InputError, match=r"LlamaForCausalLM has no layer .*: give a number from 0 .* to 2"):
        EmbeddingLoss(tiny("llama"), batch(), layer=layer)


def test_layers_that_are_not_a_list() -> None:
    """ALBERT runs one block many times."""
    sizes = {"hidden_size": 16, "embedding_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    model = AlbertForMaskedLM(AlbertConfig(vocab_size=97, num_hidden_layers=3, **sizes)).eval()
    with pytest.raises(InputError, match="layers of AlbertForMaskedLM are not one list"):
        EmbeddingLoss(model, batch(), layer=1)


@contextmanager
def left_as_found(model: PreTrainedModel) -> Iterator[None]:
    def state() -> list[object]:
        return [
            *((m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()),
            *(p.requires_grad for p in model.parameters()),
            model.config._attn_implementation,
        ]

    before = state()
    yield
    assert state() == before


def test_the_model_is_left_as_found_also_after_an_error() -> None:
    model = tiny("llama").train()
    EmbeddingLoss(model, batch())  # tried once before
    with left_as_found(model):
        loss = EmbeddingLoss(model, batch(), layer=1)
        trace(loss, "taylor", probes=1)
        trace(loss, "hvp", probes=1)

    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    hook = blocks(model)[1].register_forward_pre_hook(fail)
    with left_as_found(model):
        for attempt in (lambda: loss(loss.embeddings), lambda: EmbeddingLoss(model, batch(), layer=2)):
            with pytest.raises(RuntimeError, match="out of order"):
                attempt()
    hook.remove()


def test_a_block_that_is_not_run_or_hands_on_something_else() -> None:
    model = tiny("llama")
    loss = EmbeddingLoss(model, batch(), layer=1)
    first = blocks(model)[0]
    folded = first.register_forward_hook(lambda block, arguments, output: output[None])
    unfolded = blocks(model)[1].register_forward_pre_hook(lambda block, arguments: (arguments[0][0], *arguments[1:]))
    with (
        left_as_found(model),
        pytest.raises(InputError, match=r"is not one \(batch, token, dim\)"),
    ):
        EmbeddingLoss(model, batch(), layer=1)
    folded.remove()
    unfolded.remove()
    blocks(model)[0] = blocks(tiny("llama", seed=1))[0]  # the loss has the block that was there
    with left_as_found(model), pytest.raises(InputError, match="does not run the block before layer 1"):
        loss(loss.embeddings)
