"""Doubling batches, and the lengths that noise is scaled by."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from symnoise.core import InputError, generator
from symnoise.noise import Noise
from symnoise.training import attach, document_lengths, double_batch
from symnoise.training.pairs import first_side, layout
from tests.tiny import tiny, without_dropout
from tests.training.ragged import collate, flattened, rows


def test_rows_are_doubled_side_by_side_and_the_batch_left_alone():
    batch = {**collate(rows()[:3]), "use_cache": False, "count": torch.tensor(5), "none": None}
    before = dict(batch)
    doubled = double_batch(batch)
    for key in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(doubled[key][0::2], batch[key])
        assert torch.equal(doubled[key][1::2], batch[key])
    assert doubled["use_cache"] is False
    assert doubled["none"] is None
    assert doubled["count"] is batch["count"]
    assert all(batch[key] is before[key] for key in batch)


def test_a_flattened_batch_is_doubled_along_its_tokens():
    batch = {
        "input_ids": torch.arange(5)[None],
        "labels": torch.tensor([[7, 1, 2, -100, 4]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1]]),
        "cu_seq_lens_q": torch.tensor([0, 3, 5], dtype=torch.int32),
        "cu_seq_lens_k": torch.tensor([0, 3, 5], dtype=torch.int32),
        "max_length_q": 3,
        "max_length_k": 3,
        "seq_idx": torch.tensor([[0, 0, 0, 1, 1]], dtype=torch.int32),
    }
    doubled = double_batch(batch)
    assert layout(batch) == "tokens"
    assert doubled["cu_seq_lens_q"].tolist() == doubled["cu_seq_lens_k"].tolist() == [0, 3, 5, 8, 10]
    assert doubled["cu_seq_lens_q"].dtype is torch.int32
    assert doubled["seq_idx"].tolist() == [[0, 0, 0, 1, 1, 2, 2, 2, 3, 3]]
    assert doubled["position_ids"].tolist() == [[0, 1, 2, 0, 1] * 2]
    assert doubled["input_ids"].tolist() == [[0, 1, 2, 3, 4] * 2]
    assert doubled["labels"].tolist() == [[7, 1, 2, -100, 4, -100, 1, 2, -100, 4]]  # no label at the seam
    assert batch["labels"].tolist() == [[7, 1, 2, -100, 4]]
    assert doubled["max_length_q"] == 3 and doubled["use_cache"] is False
    assert torch.equal(first_side(doubled["input_ids"], "tokens"), batch["input_ids"])


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_the_sides_of_one_document_do_not_see_each_other(name):
    """With positions or without, with a model whose cache is on and a label at the start of the row."""
    model, ids = without_dropout(tiny(name, torch.float64)), torch.randint(3, 60, (1, 8), generator=generator(0, "ids"))
    assert model.config.use_cache
    rows_batch = {"input_ids": ids, "labels": ids.clone()}
    tokens_batch = rows_batch | {"position_ids": torch.arange(8)[None]}
    losses = []
    for batch in (rows_batch, tokens_batch):
        with attach(model, Noise.symnoise(50.0), seed=0):
            model.train()
            losses.append(float(model(**double_batch(batch)).loss.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("name", ["opt", "gpt2", "llama"])
def test_packed_pairs_need_a_model_that_keeps_documents_apart(name):
    """OPT's attention does not read positions: in a packed row X − ε would be read after X + ε."""
    model, packed = tiny(name).train(), flattened(rows()[:2])
    noise, before = Noise.symnoise(5.0), [module.training for module in model.modules()]
    with attach(model, noise, seed=0) as attached:
        if name == "llama":
            model(**double_batch(packed))
            assert attached.fired == 1
        elif name == "opt":
            with pytest.raises(InputError, match="OPTForCausalLM lets the documents of a packed row see each other"):
                model(**double_batch(packed))
        else:
            model(**double_batch(packed))
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("pixel_values", torch.zeros(7, 3)), ("position_ids", torch.zeros(1, 9)), ("names", ["a", "b", "c"])],
)
def test_a_key_that_is_not_the_batch_is_named(key, value):
    with pytest.raises(InputError, match=key):
        double_batch({**collate(rows()[:3]), key: value})


def test_boundaries_with_several_rows_are_refused():
    with pytest.raises(InputError, match="one row"):
        double_batch({"input_ids": torch.zeros(2, 3), "cu_seq_lens_q": torch.tensor([0, 3])})


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4), st.booleans())
def test_document_lengths_from_positions(packed, left):
    """Rows of documents, padded left or right: each real token gets its document's length, padding 0."""
    width = max(sum(row) for row in packed)
    positions, mask, wanted = [], [], []
    for row in packed:
        parts = [list(range(length)) for length in row]
        flat = [position for part in parts for position in part]
        lengths = [len(part) for part in parts for _ in part]
        gap = [0] * (width - len(flat))
        order = (lambda real: gap + real) if left else (lambda real: real + gap)  # noqa: B023
        positions.append(order(flat))
        mask.append(order([1] * len(flat)))
        wanted.append(order(lengths))
    batch = {key: torch.tensor(value) for key, value in (("input_ids", mask), ("attention_mask", mask))}
    assert document_lengths({**batch, "position_ids": torch.tensor(positions)}).tolist() == wanted
    one_document = [[sum(row) * m for m in line] for row, line in zip(packed, mask, strict=True)]
    assert document_lengths(batch).tolist() == one_document


def test_every_token_s_own_values_are_doubled_with_it():
    batch = {"input_ids": torch.arange(5)[None], "cu_seq_lens_q": torch.tensor([0, 3, 5], dtype=torch.int32)}
    batch |= {"position_ids": torch.tensor([[0, 1, 2, 0, 1]]), "weights": torch.arange(15.0).reshape(1, 5, 3)}
    doubled = double_batch(batch)
    assert torch.equal(doubled["weights"], torch.cat([batch["weights"]] * 2, 1))
