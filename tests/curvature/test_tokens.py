"""Traces of tokens' blocks: against the dense Hessian's, on known spectra, and by position."""

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from symnoise.core import InputError, generator
from symnoise.curvature import dense_hessian, random_probes, token_traces, tokens, trace
from symnoise.models import EmbeddingLoss
from tests.curvature.gauss_newton import dense_gauss_newton
from tests.quadratic import Quadratic
from tests.text import batch, lifted, loss_of
from tests.tiny import tiny


@pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_forms_are_those_of_the_dense_matrix_token_by_token(name: str, matrix: str) -> None:
    """On the same probes, to rounding; and their mean is the trace of the block within 4.5 standard errors."""
    with lifted(True):
        loss = loss_of(name).example(1)
        A = dense_hessian(loss)[0] if matrix == "hessian" else dense_gauss_newton(loss)
        found = token_traces(loss, probes=50, seed=2, matrix=matrix)
        z = random_probes(loss, 50, seed=2)[:, 0]
    forms = (z * (z.flatten(1) @ A).view_as(z)).sum(-1)
    torch.testing.assert_close(found.forms[:, 0], forms, rtol=1e-9, atol=1e-9 * float(forms.abs().max()))
    blocks = A.diagonal().view(4, 32).sum(1)
    assert bool(((found.trace.value[0] - blocks).abs() <= 4.5 * found.trace.stderr[0]).all())  # 0 of the last token
    torch.testing.assert_close(found.trace.stderr[0], forms.std(0) / 50**0.5, rtol=1e-9, atol=1e-12)


def test_the_sum_is_the_trace_of_the_same_probes_and_padding_has_none() -> None:
    with lifted(True):
        loss = loss_of("llama")
        found, whole = token_traces(loss, probes=8, seed=3), trace(loss, "hvp", probes=8, seed=3)
    torch.testing.assert_close(found.total.value, whole.value, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.total.stderr, whole.stderr, rtol=1e-9, atol=0)
    assert found.position.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, -1, -1]]
    assert found.trace.value[1, 4:].tolist() == found.trace.stderr[1, 4:].tolist() == [0, 0]


def test_stated_intervals_cover_the_blocks() -> None:
    """400 seeds, 20 tokens each: 95 ± 2 % of all, as the errors of one seed's tokens are nearly independent."""
    loss = Quadratic(400, torch.linspace(-2, 5, 60))
    low, high = token_traces(loss, probes=16).trace.interval(0.95)
    blocks = loss.A.diagonal().view(20, 3).sum(1)
    assert 0.93 < float(((low <= blocks) & (blocks <= high)).double().mean()) < 0.97


def test_stated_intervals_cover_the_mean_by_position() -> None:
    """400 sets of four examples with probes of their own, of one matrix: each position's mean is its block's trace."""
    A, position = Quadratic(1, torch.linspace(-2, 5, 60)).A, torch.arange(20).repeat(4, 1)
    z = torch.randint(0, 2, (400, 16, 4, 60), generator=generator(0, "signs")).double() * 2 - 1
    blocks, covered = A.diagonal().view(20, 3).sum(1), []
    for forms in (z * (z @ A)).unflatten(-1, (20, 3)).sum(-1):
        mean = tokens.TokenTraces(forms, position).by_position()
        low, high = mean.trace.interval(0.95)
        covered.append((low <= blocks) & (blocks <= high))
    assert 0.93 < float(torch.stack(covered).double().mean()) < 0.97


def test_positions_are_counted_from_the_first_token_or_the_first_scored_one() -> None:
    forms = torch.tensor([[[1.0, 2, 3, 4], [10, 20, 0, 0]], [[3.0, 2, 3, 4], [10, 40, 0, 0]]]).double()
    position = torch.tensor([[0, 1, 2, 3], [0, 1, -1, -1]])
    found = tokens.TokenTraces(forms, position, torch.tensor([2, 0]))
    start, scored = found.by_position(), found.by_position("scored")
    assert (start.position.tolist(), start.examples.tolist()) == ([0, 1, 2, 3], [2, 2, 1, 1])
    assert start.trace.value.tolist() == [6, 16, 3, 4]
    # Draws 5.5 and 6.5, 11 and 21: half their difference is the standard error of the mean of two.
    assert start.trace.stderr.tolist() == pytest.approx([0.5, 5, 0, 0]) and start.trace.dof == 1
    assert (scored.position.tolist(), scored.examples.tolist()) == ([-2, -1, 0, 1], [1, 1, 2, 2])
    assert scored.trace.value.tolist() == [2, 2, 6.5, 17]
    assert scored.to_frame().position.to_list() == [-2, -1, 0, 1]


@pytest.mark.parametrize("side", ["right", "left"])
def test_position_zero_predicts_the_first_scored_token(side: str) -> None:
    """Labels begin at token 2 of each row, which token 1 predicts, wherever the padding is."""
    text = batch()
    if side == "left":
        text = {key: torch.stack([value[0], value[1].roll(2)]) for key, value in text.items()}
    found = token_traces(EmbeddingLoss(tiny("gpt2", torch.float64), text), probes=2)
    assert found.first_scored.tolist() == [1, 1]
    assert found.by_position("scored").position.tolist() == [-1, 0, 1, 2, 3, 4]
    assert found.to_frame().groupby("example").position.apply(list).to_list() == [[*range(6)], [*range(4)]]


def test_where_no_output_is_along_the_tokens() -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    classifier = BertForSequenceClassification(BertConfig(vocab_size=97, **sizes)).eval()
    text = {"input_ids": batch()["input_ids"], "labels": torch.tensor([0, 1])}
    for found in (token_traces(Quadratic(), probes=1), token_traces(EmbeddingLoss(classifier, text), probes=1)):
        assert len(found.by_position().position)
        with pytest.raises(InputError, match="use 'start'"):
            found.by_position("scored")


def test_out_of_memory_the_batch_is_halved_and_parts_get_their_padding_back(monkeypatch) -> None:
    whole = loss_of("llama")

    def small(loss: EmbeddingLoss, matrix: str) -> object:
        if len(loss.embeddings) > 1:
            raise MemoryError("out of memory")
        return products(loss, matrix)

    products = tokens.products
    monkeypatch.setattr(tokens, "products", small)
    with lifted(True):
        with pytest.warns(RuntimeWarning, match="continuing with 1"):
            found = token_traces(whole, probes=2)
        monkeypatch.undo()
        expected = token_traces(whole, probes=2)
    torch.testing.assert_close(found.forms, expected.forms, rtol=1e-9, atol=1e-9)


def test_what_it_refuses() -> None:
    with pytest.raises(InputError, match="1 or more"):
        token_traces(Quadratic(), probes=0)
    with pytest.raises(InputError, match="unknown matrix"):
        token_traces(Quadratic(), matrix="gauss")
    with pytest.raises(InputError, match="EmbeddingLoss"):
        token_traces(Quadratic(), matrix="gauss_newton")
    with pytest.raises(InputError, match="did you mean 'start'"):
        token_traces(Quadratic(), probes=1).by_position("stat")
    assert bool(token_traces(Quadratic(), probes=1).trace.stderr.isnan().all())


def test_what_fits_is_remembered_for_the_rest_of_the_batch(monkeypatch) -> None:
    tried, products = [], tokens.products

    def small(loss: EmbeddingLoss, matrix: str) -> object:
        tried.append(len(loss.embeddings))
        if len(loss.embeddings) > 1:
            raise MemoryError("out of memory")
        return products(loss, matrix)

    monkeypatch.setattr(tokens, "products", small)
    with pytest.warns(RuntimeWarning, match="continuing with 2"), pytest.warns(RuntimeWarning, match="with 1"):
        token_traces(loss_of("llama", rows=4), probes=1)
    assert tried == [4, 2, 1, 1, 1, 1]
