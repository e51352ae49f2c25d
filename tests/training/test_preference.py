"""TRL's preference and reinforcement Trainers with the mixin: the policy is noisy, the reference is not."""

import warnings
from contextlib import nullcontext

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from symnoise.core import generator
from symnoise.noise import Noise
from symnoise.training import SymNoiseMixin, attach
from symnoise.training.attach import NoisePlan
from symnoise.training.target import find_target
from tests.tiny import tiny, tiny_tokenizer
from tests.training.ragged import PLAIN_SGD, Gradients, collate, difference, in_order, rows

PROMPTS = ["one and", "two", "three or", "four"]
PREFERENCES = Dataset.from_dict(
    {
        "prompt": PROMPTS,
        "chosen": [" more", " is even so", " less", " five"],
        "rejected": [" no", " odd", " nothing at all", " what"],
    }
)
JUDGED = Dataset.from_dict(
    {"prompt": PROMPTS, "completion": [" more", " is even so", " less", " five"], "label": [True, False, True, False]}
)
LORA = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, lora_dropout=0.0)


class Seen(SymNoiseMixin):
    """Keeps what the first loss was made of."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.first = getattr(self, "first", inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)


class NoisyDPO(Seen, DPOTrainer):
    pass


class NoisyKTO(Seen, KTOTrainer):
    pass


class NoisyORPO(Seen, ORPOTrainer):
    pass


class NoisyGRPO(Seen, GRPOTrainer):
    pass


def arguments(kind, folder, **more):
    plain = {"per_device_train_batch_size": 4, "max_steps": 1, "save_strategy": "no", "bf16": False}
    return kind(str(folder), **{**plain, **PLAIN_SGD, "gradient_checkpointing": False, **more})


def train(made, settings, noise, *, peft=False, data=PREFERENCES, model=None, **more):
    """One step in order; the Trainer, its gradients and its first logged loss."""
    gradients = Gradients()
    model = model or tiny("llama")
    if peft:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = get_peft_model(model, LORA)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = made(
            model=model,
            args=settings,
            train_dataset=data,
            processing_class=tiny_tokenizer(),
            callbacks=[gradients],
            noise=noise,
            noise_seed=3,
            **more,
        )
    trainer.remove_callback(PrinterCallback)
    in_order(trainer).train()
    return trainer, gradients, trainer.state.log_history[0]["loss"]


def log_probabilities(model, inputs, epsilon):
    """Σ log p of each row's completion, with `epsilon` on the embeddings, which no hook takes part in."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    table = find_target(model).embedding
    with torch.no_grad():
        logits = model(inputs_embeds=table(ids) + epsilon, attention_mask=mask).logits[:, :-1]
    each = F.log_softmax(logits.float(), -1).gather(-1, ids[:, 1:, None])[..., 0]
    return (each * inputs["completion_mask"][:, 1:]).sum(1)


def dpo_loss(policy, reference, beta=0.1):
    chosen, rejected = (policy - reference).chunk(2)
    return float(-F.logsigmoid(beta * (chosen - rejected)).mean())


@pytest.mark.parametrize("reference", ["disabled", "ref"])
def test_dpo_with_peft_has_a_noisy_policy_and_a_clean_reference(tmp_path, reference):
    """The reference is the same model with its adapter disabled, or with a copy of it, "ref", where one was trained."""
    noise, beta = Noise.neftune(40.0), 0.1
    settings = arguments(DPOConfig, tmp_path, beta=beta, learning_rate=0.0)
    # TRL copies an adapter that a model comes with, and disables one that it makes itself.
    how = {"peft": True} if reference == "ref" else {"peft_config": LORA}
    trainer, _, found = train(NoisyDPO, settings, noise, **how)
    model, inputs = trainer.model.eval(), trainer.first
    like = torch.empty(*inputs["input_ids"].shape, 32)
    epsilon = noise.sample(like, inputs["attention_mask"], generator=generator(3, "noise", 0, 0, 0))
    policy = log_probabilities(model, inputs, epsilon)
    if reference == "ref":
        model.set_adapter("ref")
    with nullcontext() if reference == "ref" else model.disable_adapter():
        clean, both = (log_probabilities(model, inputs, shift) for shift in (0.0, epsilon))
    assert abs(dpo_loss(policy, both, beta) - dpo_loss(policy, clean, beta)) > 0.01  # else nothing could be seen
    assert found == pytest.approx(dpo_loss(policy, clean, beta), rel=1e-5)


def test_attach_leaves_a_forward_with_disabled_adapters_clean_and_draws_no_number_for_it():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = get_peft_model(tiny("llama"), LORA).train()
    inputs = collate(rows()[:2])
    with torch.no_grad(), model.disable_adapter():
        clean = model(**inputs).logits
    with attach(model, Noise.neftune(5.0), seed=1) as noise:
        first, second = model(**inputs).logits, model(**inputs).logits
        assert noise.fired == 2
    with attach(model, Noise.neftune(5.0), seed=1) as noise:
        again = model(**inputs).logits
        with torch.no_grad(), model.disable_adapter():
            assert torch.equal(model(**inputs).logits, clean)
        assert torch.equal(again, first) and torch.equal(model(**inputs).logits, second)
        assert noise.fired == 2


def both_sides(made, settings, **more):
    """The gradient of a pair, and the mean of the gradients of its sides trained on alone."""
    noise, gradients = Noise.symnoise(60.0), []
    _, pair, _ = train(made, settings, noise, **more)
    for sign in (1, -1):

        class OneSide(made):
            def compute_loss(self, model, inputs, *args, **kwargs):
                if self._attached is None:
                    handle = self.attached(model)
                    draw = handle.epsilon
                    handle.epsilon = lambda *a: sign * draw(*a)  # noqa: B023
                return super().compute_loss(model, inputs, *args, **kwargs)

        _, one, _ = train(OneSide, settings, Noise("rademacher", 60.0, calibrated=True), **more)
        gradients.append(one.steps[0])
    mean = {name: (gradients[0][name] + gradients[1][name]) / 2 for name in gradients[0]}
    assert difference(gradients[0], gradients[1]) > 1e-2
    return pair.steps[0], mean


@pytest.mark.parametrize("loss", ["sigmoid", "aot", "aot_unpaired"])
def test_a_dpo_pair_is_the_mean_of_its_sides(tmp_path, loss):
    """Two of these losses sort over the batch: both sides in one batch would be sorted together. Rows are so near to
    each other that the noise of a side changes their order."""
    settings = arguments(DPOConfig, tmp_path, loss_type=[loss], beta=0.5)
    near = {"prompt": [f"a long prompt of {word}" for word in ("one", "two", "six", "ten")]}
    data = Dataset.from_dict({**near, "chosen": [" a"] * 4, "rejected": [" b"] * 4})
    pair, mean = both_sides(NoisyDPO, settings, data=data, ref_model=tiny("llama", seed=1))
    assert difference(pair, mean) < 1e-5


def test_two_forwards_of_one_loss_have_draws_of_their_own():
    model = tiny("llama").train()
    ids = torch.arange(12)[None]
    drawn = []
    with attach(model, Noise.symnoise(5.0), 3) as noise:
        noise.on_draw = lambda epsilon, *_: drawn.append(epsilon.detach().clone())
        plan = NoisePlan(None, noise.next_plan({"input_ids": ids}).key, "first")
        with noise.using(plan):
            model(input_ids=ids)
            model(input_ids=ids)
    assert len(drawn) == 2 and not torch.equal(*drawn)


@pytest.mark.parametrize("peft", [False, True])
def test_a_kto_pair_is_the_mean_of_its_sides(tmp_path, peft):
    settings = arguments(KTOConfig, tmp_path, train_sampling_strategy="sequential", beta=0.5)
    reference = {"peft": True} if peft else {"ref_model": tiny("llama", seed=1)}
    pair, mean = both_sides(NoisyKTO, settings, data=JUDGED, **reference)
    assert difference(pair, mean) < 1e-5


def test_an_orpo_pair_is_the_mean_of_its_sides(tmp_path):
    settings = arguments(ORPOConfig, tmp_path, max_length=64, remove_unused_columns=False)
    pair, mean = both_sides(NoisyORPO, settings)
    assert difference(pair, mean) < 1e-5


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
def test_a_grpo_pair_is_the_mean_of_its_sides_on_one_sample(tmp_path, mode):
    """Completions are sampled once, without noise, and both sides learn from them."""
    settings = arguments(
        GRPOConfig, tmp_path, num_generations=2, max_completion_length=6, beta=0.1, scale_rewards="none"
    )
    lengths = lambda completions, **_: [float(sum(map(ord, text)) % 7) for text in completions]  # noqa: E731
    drawn = []

    class Counted(NoisyGRPO):
        def attached(self, model):
            handle = super().attached(model)
            drawn.append(handle)
            return handle

    data = Dataset.from_dict({"prompt": PROMPTS})
    pair, mean = both_sides(Counted, settings, data=data, reward_funcs=lengths, peft=True, pair_mode=mode)
    assert difference(pair, mean) < 1e-5
    assert drawn[0].fired == 2  # the loss alone, once for each side
