"""Losses with a term over the rows of a batch: a pair's gradient is still the mean of that of its sides."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM, TrainingArguments

from symnoise.core import generator
from symnoise.noise import Noise
from symnoise.training import Dials, SymNoiseTrainer, attach
from symnoise.training.coupled import one_after_the_other, sides_apart, without_dropout
from tests.tiny import VOCABULARY, tiny
from tests.training.ragged import PLAIN_SGD, Gradients, collate, difference, in_order, rows

NOISE = Noise.symnoise(10.0)
PAIR = Dials(1.0, 0.0)
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def mixture(kind):
    """A tiny mixture of experts whose router loss counts as much as its cross-entropy."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, output_router_logits=True, router_aux_loss_coef=1.0, decoder_sparse_step=1,
        **_EXPERTS,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def run(folder, model, noise=NOISE, *, accumulation=1, mode="doubled", loss=None, dials=None):
    gradients = Gradients()
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=8 // accumulation, gradient_accumulation_steps=accumulation,
        max_steps=1, save_strategy="no", **PLAIN_SGD,
    )  # fmt: skip
    trainer = SymNoiseTrainer(
        model=model, args=arguments, train_dataset=rows(), data_collator=collate, callbacks=[gradients], noise=noise,
        noise_seed=3, pair_mode=mode, compute_loss_func=loss, dials=dials,
    )  # fmt: skip
    in_order(trainer).train()
    return gradients.steps[0]


def by_sides(model, accumulation, loss, dials=PAIR):
    """Every side as inputs_embeds, each micro-batch and side a backward pass of its own, without Trainer and hooks."""
    model.train().zero_grad()
    size = 8 // accumulation
    batches = [collate(rows()[i * size : (i + 1) * size]) for i in range(accumulation)]
    scored = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
    for micro, batch in enumerate(batches):
        table = model.get_input_embeddings()
        like = torch.empty(*batch["input_ids"].shape, 32)
        random = generator(3, "noise", 0, 0, micro)
        epsilon = NOISE.sample(like, batch["attention_mask"], generator=random)
        sign = 1 - 2 * int(torch.randint(2, (), generator=generator(3, "dial", 0, 0, micro)))
        halves = [(dials.even + side * sign * dials.odd) / 2 for side in (1, -1)]
        for side, weight in ((0, 1 - dials.even), (1, halves[0]), (-1, halves[1])):
            inputs = {**batch, "inputs_embeds": table(batch["input_ids"]) + side * epsilon}
            del inputs["input_ids"]
            if loss is None:
                value = model(**inputs, num_items_in_batch=scored).loss
            else:
                value = loss(model(**inputs), batch["labels"], scored)
            (weight * value).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_router_losses(tmp_path, kind, mode, accumulation):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a kind that is known is no surprise
        found = run(tmp_path, mixture(kind), accumulation=accumulation, mode=mode)
    assert difference(found, by_sides(mixture(kind), accumulation, None)) < 1e-5


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
@pytest.mark.parametrize(("even", "odd"), [(0.5, 0.0), (1.0, 0.7), (2.5, -3.0)])
def test_router_losses_by_dials(tmp_path, mode, even, odd, accumulation):
    """The router loss of each side is that side's own."""
    dials = Dials(even, odd)
    found = run(tmp_path, mixture("mixtral"), accumulation=accumulation, mode=mode, dials=dials)
    assert difference(found, by_sides(mixture("mixtral"), accumulation, None, dials)) < 1e-5


def log_sum_exp(outputs, labels, num_items_in_batch=None):
    """A loss over rows: log Σ_b exp(mean logit of row b)."""
    return outputs.logits.mean((1, 2)).logsumexp(0) * 1.0  # which the Trainer scales in place


def test_a_loss_of_one_s_own_that_couples_rows_is_found_on_the_first_step(tmp_path):
    with pytest.warns(UserWarning, match="not the mean of the losses of its sides"):
        found = run(tmp_path, tiny("llama"), loss=log_sum_exp)
    assert difference(found, by_sides(tiny("llama"), 1, log_sum_exp)) < 1e-5


def little_over_rows(outputs, labels, num_items_in_batch=None):
    """A loss over tokens, and a thousandth of one over rows."""
    per_token = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return per_token / num_items_in_batch + 1e-3 * log_sum_exp(outputs, labels)


def test_a_small_term_over_rows_is_found(tmp_path):
    with pytest.warns(UserWarning, match="not the mean of the losses of its sides"):
        run(tmp_path, tiny("llama"), loss=little_over_rows)


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
@pytest.mark.parametrize(("even", "odd", "warned"), [(0.5, 0.0, True), (1.0, 0.7, False)])
def test_a_loss_of_one_s_own_that_couples_rows_by_dials(tmp_path, mode, even, odd, warned):
    """Where the sides weigh the same they are tried in one batch, else they never are in one."""
    dials = Dials(even, odd)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = run(tmp_path, tiny("llama"), mode=mode, loss=log_sum_exp, dials=dials)
    said = [str(warning.message) for warning in caught if "not the mean of the losses" in str(warning.message)]
    assert len(said) == (warned and mode == "doubled")
    assert difference(found, by_sides(tiny("llama"), 1, log_sum_exp, dials)) < 1e-5


def test_the_trial_leaves_nothing_behind_and_dropout_does_not_alarm_it(tmp_path):
    """Two runs with dropout from one state of the global generator: with the trial, and without it."""
    kept = []
    for trial in (True, False):
        model = tiny("gpt2")
        seen = []
        model.register_forward_pre_hook(lambda module, _, seen=seen: seen.append(torch.is_grad_enabled()))
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("error", UserWarning)
            if not trial:
                patch.setattr("symnoise.training.mixin.couples_rows", lambda *_: False)
            kept.append(run(tmp_path, model))
        assert seen == [False] * 3 * trial + [True]
    assert difference(*kept) == 0


def test_the_processes_agree_on_their_own_device_whether_rows_are_coupled(monkeypatch):
    """On GPUs nccl takes no tensor of the CPU; "meta" stands for a device that is not the CPU."""
    sent = []

    def reduce(tensor):
        sent.append(tensor)
        return torch.tensor(0.5)  # the mean of two processes, of which one found it so

    monkeypatch.setattr("symnoise.training.mixin.couples_rows", lambda *_: False)
    trainer = SimpleNamespace(
        model=tiny("llama"), _coupled=None, is_fsdp_enabled=False, is_deepspeed_enabled=False,
        args=SimpleNamespace(world_size=2, device=torch.device("meta")), accelerator=SimpleNamespace(reduce=reduce),
    )  # fmt: skip
    with attach(trainer.model.train(), NOISE) as noise:
        batch = collate(rows()[:2])
        plain = lambda inputs, num_items_in_batch=None: trainer.model(**inputs).loss  # noqa: E731
        SymNoiseTrainer._doubled(trainer, plain, noise, noise.plan(batch, (0, 0)), batch, None)
    assert [tensor.device.type for tensor in sent] == ["meta"]
    assert trainer._coupled is True


def test_without_dropout_the_noise_stays_on_and_modes_are_put_back():
    """Of a model in evaluation mode but for one layer; within, only what is named is in training mode."""
    model, batch = tiny("gpt2"), collate(rows()[:2])
    model.transformer.h[0].train()
    before = [part.training for part in model.modules()]
    assert any(before) and not all(before)
    with attach(model, NOISE) as noise, pytest.raises(KeyError), without_dropout(model, noise.model):
        assert [name for name, part in model.named_modules() if part.training] == [""]
        with noise.using(noise.plan(batch, (0, 0))):
            assert torch.equal(model(**batch).logits, model(**batch).logits)
        assert noise.fired == 2
        raise KeyError
    assert [part.training for part in model.modules()] == before


def test_two_passes_give_the_mean_loss_and_the_outputs_of_the_first_side():
    model, batch = tiny("llama").train(), collate(rows()[:2])

    def plain(inputs, num_items_in_batch=None):
        found = model(**inputs)
        return found.loss.detach(), found.logits.detach(), "the rest"

    with attach(model, NOISE, seed=0) as noise:
        plan = noise.plan(batch, (0, 0))
        loss, logits, rest = one_after_the_other(plain, noise, plan, batch, None)
        alone = []
        for side in ("first", "second"):
            with noise.using(replace(plan, side=side)):
                alone.append(plain(dict(batch)))
    assert float(loss) == pytest.approx(float(alone[0][0] + alone[1][0]) / 2) and rest == "the rest"
    assert torch.equal(logits, alone[0][1]) and not torch.equal(logits, alone[1][1])


@pytest.mark.parametrize(
    ("keys", "apart"),
    [
        (["input_ids"], False),
        (["input_ids", "decoder_input_ids"], False),
        (["input_ids", "KL_completion_input_ids"], True),  # KTO's
        (["prompt_input_ids"], True),
        (["prompts"], True),  # GRPO's
    ],
)
def test_sides_go_apart_where_the_trainer_builds_the_batch(keys, apart):
    inputs = dict.fromkeys(keys, torch.zeros(1, 2, dtype=torch.long))
    assert sides_apart(SimpleNamespace(model=tiny("llama")), inputs) is apart
