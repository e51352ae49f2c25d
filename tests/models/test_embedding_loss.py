import copy
import inspect

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertLMHeadModel,
    FNetConfig,
    FNetForMaskedLM,
    LlamaConfig,
    Mamba2Config,
    Mamba2ForCausalLM,
    MobileBertConfig,
    MobileBertForMaskedLM,
)
from transformers.modeling_outputs import CausalLMOutput

from symnoise.core import InputError
from symnoise.curvature import trace
from symnoise.models import EmbeddingLoss, evaluation_mode
from symnoise.models.inlet import replaced
from symnoise.noise import Noise
from symnoise.training import attach
from tests.text import batch, lifted, loss_of
from tests.tiny import NAMES, tiny


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_model_s_own_row_by_row(name: str) -> None:
    model, text = tiny(name, torch.float64), batch()
    loss = EmbeddingLoss(model, text)
    found = loss(loss.embeddings)
    for row in range(2):
        with torch.no_grad():
            alone = model(**{key: value[row : row + 1] for key, value in text.items()}).loss
        # Transformers takes the cross-entropy of a causal model in float32.
        assert float(found[row]) == pytest.approx(float(alone), rel=3e-7)


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma2", "t5"])
def test_padding_changes_nothing_and_examples_do_not_meet(name: str) -> None:
    with lifted(True):
        loss = loss_of(name)
        both = loss(loss.embeddings)
        for row in range(2):
            alone = loss.example(row)
            assert alone.shape[1] == int(loss.lengths[row])
            torch.testing.assert_close(alone(alone.embeddings), both[row : row + 1], rtol=1e-12, atol=0)


def test_a_mask_that_is_none_is_all_ones() -> None:
    model, text = tiny("llama"), {key: value for key, value in batch(rows=1).items() if key != "attention_mask"}
    for given in (text, text | {"attention_mask": None}):
        assert inspect.unwrap(EmbeddingLoss)(model, given).mask.tolist() == [[1] * text["input_ids"].shape[1]]


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_some_rows_keep_their_losses_and_ids(name: str) -> None:
    """Short rows lose their padding; an encoder-decoder's labels, along other tokens, lose nothing."""
    with lifted(True):
        text = batch(rows=3)
        if name == "t5":
            text["labels"] = text["labels"].clamp(min=3)  # targets longer than the shorter inputs
        loss = EmbeddingLoss(tiny(name, torch.float64), text, ids=(4, 5, 6))
        some = loss.rows([2, 1])
        assert some.ids == (6, 5) and some.shape[1] == 4
        torch.testing.assert_close(some(some.embeddings), loss(loss.embeddings)[[2, 1]], rtol=1e-12, atol=0)


def test_left_padding_is_read_like_right_padding() -> None:
    model, right = tiny("gpt2", torch.float64), batch()
    left = {key: value.clone() for key, value in right.items()}
    for key in left:
        left[key][1] = right[key][1].roll(2)
    values = [loss(loss.embeddings) for loss in (EmbeddingLoss(model, text) for text in (right, left))]
    torch.testing.assert_close(*values, rtol=1e-12, atol=0)


def test_gemma_s_embeddings_are_taken_after_their_scaling() -> None:
    model = tiny("gemma", torch.float64)
    loss = EmbeddingLoss(model, batch())
    plain = model.get_input_embeddings().weight[batch()["input_ids"]]
    torch.testing.assert_close(loss.embeddings, plain.detach() * 32**0.5, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("name", "factor"), [("granite", 12.0), ("pegasus", 32**0.5), ("recurrent_gemma", 32**0.5)])
def test_embeddings_are_taken_after_the_model_s_multiplier(name: str, factor: float) -> None:
    """Granite multiplies what it is given once more, Pegasus does not: either way the loss is the model's own."""
    with lifted(True):
        model, text = tiny(name, torch.float64), batch()
        loss = EmbeddingLoss(model, text)
        stack = model.get_encoder() if name == "pegasus" else model
        plain = stack.get_input_embeddings().weight[text["input_ids"]].detach()
        # RecurrentGemma keeps its factor in bfloat16.
        rtol = 2e-4 if name == "recurrent_gemma" else 1e-12
        torch.testing.assert_close(loss.embeddings, plain * factor, rtol=rtol, atol=0)
        with torch.no_grad():
            alone = model(**{key: value[:1] for key, value in text.items()}).loss
        assert float(loss(loss.embeddings)[0]) == pytest.approx(float(alone), rel=3e-7)


def test_padding_says_nothing_of_the_multiplier() -> None:
    """A row that begins with padding, whose embedding is 0, as of a table made with `padding_idx`."""
    model = tiny("granite")
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = 0
    ids, mask = torch.tensor([[0, 0, 9, 10], [5, 6, 7, 8]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    labels = ids.masked_fill(mask == 0, -100)
    loss = EmbeddingLoss(model, {"input_ids": ids, "attention_mask": mask, "labels": labels})
    assert bool(loss(loss.embeddings).isfinite().all())


def test_a_token_is_scored_where_it_and_the_one_before_are_real() -> None:
    """Labels that were not set to −100 at padding: on the right they are no tokens, on the left nothing is before."""
    model, ids = tiny("llama", torch.float64), torch.tensor([[9, 10, 11, 0, 0, 0]])
    loose = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids}
    strict = loose | {"labels": ids.masked_fill(ids == 0, -100)}
    one, other = EmbeddingLoss(model, loose), EmbeddingLoss(model, strict)
    assert one.scored_tokens.tolist() == [2]
    torch.testing.assert_close(one(one.embeddings), other(other.embeddings))
    left = torch.tensor([[0, 0, 9, 10]])
    with pytest.raises(InputError, match="no scored token"):
        EmbeddingLoss(
            model,
            {
                "input_ids": left,
                "attention_mask": (left != 0).long(),
                "labels": torch.tensor([[-100, -100, 9, -100]]),
            },
        )


def test_a_table_with_lora_is_a_table() -> None:
    adapted = get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=["embed_tokens"]))
    loss = EmbeddingLoss(adapted, batch())
    assert bool(loss(loss.embeddings).isfinite().all())


def test_what_is_measured_is_what_training_noise_moves() -> None:
    """σ and C(σ) are in one unit: the noise that `attach` adds changes the loss as the same ε on X does."""
    model, text, noise = tiny("granite", torch.float64), batch(rows=1), Noise("rademacher", 5.0)
    with attach(model.train(), noise, seed=3) as noised:
        trained = model(**text).loss.item()
        plan = noised.plan(text, (0, 0))
        epsilon = noised.epsilon(plan, 32, torch.float64) * 12  # as the layers get it
    loss = EmbeddingLoss(model, text)
    assert float(loss(loss.embeddings + epsilon)) == pytest.approx(trained, rel=1e-6)
    assert float(epsilon.square().sum()) == pytest.approx(25 / 3, rel=1e-6)


def test_a_model_that_reads_embeddings_otherwise_is_measured_as_it_is_trained() -> None:
    """What it makes of inputs_embeds is not what training moves."""
    model, text = tiny("granite", torch.float64), batch(rows=1)
    expected = EmbeddingLoss(model, text)
    value = expected(expected.embeddings)
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: (
            (args, kwargs | {"inputs_embeds": kwargs["inputs_embeds"] + 1})
            if kwargs.get("inputs_embeds") is not None
            else None
        ),
        with_kwargs=True,
    )
    loss = EmbeddingLoss(model, text)
    assert torch.equal(loss(loss.embeddings), value)


class Patched(nn.Module):
    """A language model of one layer, with something wrong in how it takes its embeddings."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.config = fault, LlamaConfig()
        self.table, self.head = nn.Embedding(97, 8), nn.Linear(8, 97)
        self.calls = 0

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(self, input_ids, attention_mask=None, use_cache=None) -> CausalLMOutput:
        looked_up = self.table.weight[input_ids]
        taken = {
            "bypassed": lambda: looked_up,
            "thrown away": lambda: self.table(input_ids) * 0 + looked_up,
            "looked up twice": lambda: self.table(input_ids) + self.table(input_ids).roll(self.calls, -1),
            "not causal": lambda: self.table(input_ids) + self.table(input_ids).sum(1, keepdim=True),
        }[self.fault]()
        self.calls += 1
        return CausalLMOutput(logits=self.head(torch.tanh(taken)))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("bypassed", "Patched does not call its text embedding"),
        ("thrown away", "does not depend on its text embedding"),
        ("looked up twice", "computes something else with its embeddings in place"),
        ("not causal", "sees the tokens that it is to predict: give a causal language model"),
    ],
)
def test_models_that_cannot_be_measured_are_refused_on_first_use(fault: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        EmbeddingLoss(Patched(fault), batch())
    assert "\n" not in str(error.value)


def encoder(task: str, **more) -> nn.Module:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=97, num_labels=3, **sizes, **more)
    torch.manual_seed(0)
    return {"masked": BertForMaskedLM, "sequence": BertForSequenceClassification, "token": BertForTokenClassification}[
        task
    ](config).eval()


@pytest.mark.parametrize("task", ["masked", "sequence", "token"])
def test_encoders_and_classifiers_are_measured_per_example(task: str) -> None:
    """The model's own loss row by row, with segments; each example's curvature is that of the example alone."""
    model, text = encoder(task).double(), batch()
    text["token_type_ids"] = (torch.arange(6) > 2).long().expand(2, 6)
    text["labels"] = {
        "masked": text["labels"],
        "sequence": torch.tensor([2, 0]),
        "token": text["labels"].where(text["labels"] == -100, text["labels"] % 3),
    }[task]
    loss = EmbeddingLoss(model, text)
    found = loss(loss.embeddings)
    traces = trace(loss, "taylor", probes=4).value
    for row in range(2):
        with torch.no_grad():
            alone = model(**{key: value[row : row + 1] for key, value in text.items()}).loss
        assert float(found[row]) == pytest.approx(float(alone), rel=3e-7)
        one = loss.example(row)
        assert one.task == task and one.shape[1] == int(loss.lengths[row])
        torch.testing.assert_close(trace(one, "hvp", probes=4).value, traces[row : row + 1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("task", "more", "change", "message"),
    [
        ("sequence", {}, {"labels": torch.zeros(2, 6).long()}, r"must be one class per example, \(2,\)"),
        ("sequence", {}, {"labels": torch.zeros(2)}, "must be one class per example"),
        ("sequence", {"problem_type": "regression"}, {"labels": torch.zeros(2)}, "regression and several labels"),
        ("sequence", {}, {"labels": torch.tensor([0, -100])}, "example 1 has no scored token"),
        ("token", {}, {"position_ids": torch.arange(6).expand(2, 6)}, "the batch has 'position_ids', which a loss"),
    ],
)
def test_what_classifiers_cannot_be_measured_on(task: str, more: dict, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        EmbeddingLoss(encoder(task, **more), batch() | change)


def test_an_encoder_with_a_causal_head_is_refused() -> None:
    """BERT that was not told to be a decoder: a fresh one mixes tokens by some thousandths only."""
    torch.manual_seed(0)
    config = BertConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    with pytest.raises(InputError, match="BertLMHeadModel sees the tokens that it is to predict"):
        EmbeddingLoss(BertLMHeadModel(config).eval(), batch())
    config.is_decoder = True
    loss = EmbeddingLoss(BertLMHeadModel(config).eval(), batch())
    assert bool(loss(loss.embeddings).isfinite().all())


def test_virtual_tokens_are_refused() -> None:
    """Prompt tuning puts outputs before those of the tokens: labels would be held against others."""
    model = get_peft_model(tiny("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(InputError, match="computes 9 outputs for 6 tokens"):
        loss = EmbeddingLoss(model, batch())
        loss(loss.embeddings)


def state(model: nn.Module) -> list:
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    return [
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        hooks,
        model.config._attn_implementation,
        torch.backends.cuda.flash_sdp_enabled(),
    ]


def test_the_model_is_left_as_found_also_after_an_error() -> None:
    model = tiny("llama")
    model.train()
    model.model.layers[0].eval()
    next(model.parameters()).requires_grad_(False)
    before, weights = state(model), copy.deepcopy(model.state_dict())
    loss = EmbeddingLoss(model, batch())
    loss(loss.embeddings)
    assert state(model) == before
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever Transformers raises for a wrong width
        loss(loss.embeddings[:, :, :-1])
    assert state(model) == before
    with pytest.raises(RuntimeError, match="on purpose"), evaluation_mode(model):
        assert not model.training and not any(p.requires_grad for p in model.parameters())
        raise RuntimeError("on purpose")
    assert state(model) == before
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


def test_what_is_measured_during_mixed_precision_training_is_float32() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    model = tiny("llama")
    loss = EmbeddingLoss(model, batch())
    expected = loss(loss.embeddings)
    AcceleratorState._reset_state(reset_partial_state=True)  # a Trainer in another test may have left one
    try:
        Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
        wrapped = model.forward
        with torch.no_grad():  # the wrapper is there: bfloat16 rounds by 2⁻⁹
            assert not torch.equal(model(**batch()).loss, model._original_forward(**batch()).loss)
        assert torch.equal(loss(loss.embeddings), expected)
        assert model.forward is wrapped
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_dropout_is_off_inside() -> None:
    model = tiny("gpt2").train()
    loss = EmbeddingLoss(model, batch())
    assert torch.equal(loss(loss.embeddings), loss(loss.embeddings))


def test_attention_without_a_second_derivative_is_exchanged_for_the_call() -> None:
    model = tiny("llama", torch.float64)
    expected = EmbeddingLoss(model, batch())
    value = expected(expected.embeddings)
    model.set_attn_implementation("flex_attention")
    seen = []
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, _: seen.append(module.config._attn_implementation)
    )
    loss = EmbeddingLoss(model, batch())
    torch.testing.assert_close(loss(loss.embeddings), value, rtol=1e-6, atol=0)
    assert seen == ["eager"] and model.config._attn_implementation == "flex_attention"


def test_logits_are_formed_at_scored_positions_only() -> None:
    loss = loss_of("llama")
    assert loss.logits(loss.embeddings).shape == (int(loss.scored_tokens.sum()), 97)
    assert loss.scored_tokens.tolist() == [4, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b | {"labels": torch.full_like(b["labels"], -100)}, "example 0 has no scored token"),
        (lambda b: b | {"labels": b["labels"][:, 1:]}, "must have the shape of input_ids"),
        (lambda b: {key: value[:, :1] for key, value in b.items()}, "length 1 or less"),
        (lambda b: b | {"input_ids": b["input_ids"] + 1000}, "outside the model's 97 embeddings"),
        (lambda b: b | {"attention_mask": b["attention_mask"][:, 1:]}, "attention_mask"),
        (lambda b: b | {"input_ids": b["input_ids"] - 50}, "token id -.* is outside the model's 97 embeddings"),
        (
            lambda b: b | {"labels": torch.where(b["labels"] < 0, -100, 97)},
            "label 97 is outside the model's 97 outputs",
        ),
        (
            lambda b: b | {"labels": torch.where(b["labels"] < 0, -100, -1)},
            "label -1 is outside the model's 97 outputs",
        ),
        (lambda b: b | {"labels": b["labels"].float()}, "must be integers"),
        (lambda b: b | {"input_ids": b["input_ids"].float()}, "must be integers"),
        (lambda b: {key: value[:0] for key, value in b.items()}, "the batch has no rows"),
    ],
)
def test_bad_batches_are_refused_in_one_line(change, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        EmbeddingLoss(tiny("llama"), change(batch()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ids", [(7,), (7, 8, 9)])
def test_every_row_has_an_id(ids: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=rf"ids must be one number for each of 2 examples; got {len(ids)}"):
        EmbeddingLoss(tiny("llama"), batch(), ids=ids)


@pytest.mark.parametrize(("chosen", "message"), [([2], "no example 2"), ([-1], "no example -1"), ([], "no examples")])
def test_examples_that_are_not_there_are_refused(chosen: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EmbeddingLoss(tiny("llama"), batch()).rows(chosen)


def test_a_recurrent_model_that_reads_padding_is_refused_left_padding() -> None:
    right = batch()
    left = {key: value.clone() for key, value in right.items()}
    for key in left:
        left[key][1] = right[key][1].roll(2)
    model = tiny("recurrent_gemma")
    EmbeddingLoss(model, right)
    with pytest.raises(InputError, match="RecurrentGemmaForCausalLM reads padding on the left as text"):
        EmbeddingLoss(model, left)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_longest_row_are_refused(kind: str) -> None:
    """Below the limit nothing is scaled. Rows all beyond it share longrope's factors, but not a dynamic base."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4} if kind == "longrope" else {}
    scaling = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 5} | factors
    config = tiny("llama").config.to_dict() | {"rope_parameters": scaling, "max_position_embeddings": 5}
    model = type(tiny("llama"))(type(tiny("llama").config)(**config)).eval()
    text, short = batch(), {key: value[1:, :4] for key, value in batch().items()}
    assert EmbeddingLoss(model, short).lengths.tolist() == [4]
    with pytest.raises(InputError, match=rf"beyond 5 tokens \({kind}\)"):
        EmbeddingLoss(model, text)
    long = {key: value[:1] for key, value in text.items()}
    if kind == "longrope":
        assert EmbeddingLoss(model, long).lengths.tolist() == [6]
    else:
        with pytest.raises(InputError, match="give rows of at most 5 tokens"):
            EmbeddingLoss(model, long)


def test_what_a_model_does_to_its_embeddings_in_place_stays_inside() -> None:
    from transformers import CTRLConfig, CTRLLMHeadModel

    sizes = {"vocab_size": 97, "n_positions": 32, "n_embd": 16, "dff": 16, "n_layer": 1, "n_head": 2}
    loss = EmbeddingLoss(CTRLLMHeadModel(CTRLConfig(**sizes)).eval(), batch())
    before = loss.embeddings.clone()
    first = loss(loss.embeddings)
    assert torch.equal(loss.embeddings, before) and torch.equal(loss(loss.embeddings), first)


def test_derivatives_that_embeddings_carry_are_not_copied() -> None:
    """A copy of a Taylor tensor takes its coefficients' dtype, and residual sums lose the precision of the first."""

    class Carrier(torch.Tensor):
        pass

    given, table = torch.zeros(1, 2, 3).as_subclass(Carrier), torch.nn.Embedding(4, 3)
    with replaced(table, given, "never called"):
        assert table(torch.tensor([[0, 1]])) is given


def test_models_without_head_or_table_are_refused() -> None:
    with pytest.raises(InputError, match="no language-model head"):
        EmbeddingLoss(tiny("llama").model, batch())
    model = tiny("llama")
    model.get_input_embeddings = lambda: None
    with pytest.raises(InputError, match="no token-embedding table"):
        EmbeddingLoss(model, batch())


def test_a_loss_that_is_not_finite_names_example_and_token() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.lm_head.weight[int(batch()["labels"][1, 2])] = torch.nan
    loss = EmbeddingLoss(model, batch())
    with pytest.raises(InputError, match=r"loss is nan at example \d, token \d"):
        loss.token_losses()


def test_padding_on_the_right_does_not_change_the_positions_of_a_row_in_silence() -> None:
    """longrope takes the factors of the batch's width: rows padded beyond its limit were others than alone."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 8}
    scaling = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0} | factors
    config = tiny("llama").config.to_dict() | {"rope_parameters": scaling, "max_position_embeddings": 16}
    model = type(tiny("llama"))(type(tiny("llama").config)(**config)).eval()
    text = batch()
    assert EmbeddingLoss(model, text).shape[1] <= 8
    wide = {key: nn.functional.pad(value, (0, 9), value=-100 * (key == "labels")) for key, value in text.items()}
    with pytest.raises(InputError, match=r"beyond 8 tokens \(longrope\) and its padding"):
        EmbeddingLoss(model, wide)


def test_padding_in_the_midst_of_a_row_is_tried_apart_from_padding_before_it() -> None:
    sizes = {
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_heads": 4,
        "head_dim": 16,
        "state_size": 8,
    }
    model, right = Mamba2ForCausalLM(Mamba2Config(**sizes, n_groups=1, chunk_size=8)).eval(), batch()
    pads = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    left = {key: nn.functional.pad(value[:1], (3, 0), value=pads[key]) for key, value in right.items()}
    middle = {
        key: torch.cat([value[:1, :3], torch.full((1, 3), pads[key]), value[:1, 3:]], 1) for key, value in right.items()
    }
    EmbeddingLoss(model, left)
    with pytest.raises(InputError, match="Mamba2ForCausalLM reads padding on the middle as text"):
        EmbeddingLoss(model, middle)
    EmbeddingLoss(tiny("llama"), middle)


def test_a_masked_model_that_reads_padding_is_refused_it() -> None:
    sizes = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32}
    sizes |= {"max_position_embeddings": 32, "pad_token_id": 0}
    text = batch()
    model = FNetForMaskedLM(FNetConfig(**sizes)).eval()
    with pytest.raises(InputError, match="FNetForMaskedLM reads padding on the right as text: give rows of one length"):
        EmbeddingLoss(model, text)
    EmbeddingLoss(model, {key: value[:1] for key, value in text.items()})
    EmbeddingLoss(BertForMaskedLM(BertConfig(**sizes, num_attention_heads=2)).eval(), text)


def test_examples_with_one_id_are_refused() -> None:
    with pytest.raises(InputError, match="ids must differ: two examples with one id would get the same probes"):
        EmbeddingLoss(tiny("llama"), batch(), ids=[7, 7])
    assert EmbeddingLoss(tiny("llama"), batch(), ids=[7, 8]).rows([1, 1]).ids == (8, 8)


def test_a_head_that_is_not_called_is_no_head() -> None:
    """MobileBERT multiplies by its weight itself: the logits of one example were scored against all labels."""
    sizes = {"vocab_size": 97, "hidden_size": 32, "embedding_size": 16, "num_hidden_layers": 1, "intermediate_size": 32}
    sizes |= {"num_attention_heads": 4, "true_hidden_size": 16, "intra_bottleneck_size": 16}
    model, text = MobileBertForMaskedLM(MobileBertConfig(**sizes)).eval(), batch()
    loss = EmbeddingLoss(model, {key: value[:1] for key, value in text.items()})
    with pytest.raises(InputError, match="MobileBertForMaskedLM does not call its head"):
        loss(loss.embeddings)
