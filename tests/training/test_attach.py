"""Noise in any loop: where it goes, when, how much, and what is refused."""

import copy
import warnings
from dataclasses import replace

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM
from transformers.integrations.neftune import activate_neftune, deactivate_neftune, neftune_post_forward_hook

from symnoise.core import InputError, generator
from symnoise.models import EmbeddingLoss
from symnoise.noise import Noise
from symnoise.training import NoiseOptions, PairedCollator, attach
from symnoise.training.attach import require_noise
from symnoise.training.target import find_target, unwrapped
from tests.tiny import NAMES, tiny, without_dropout
from tests.training.ragged import collate, flattened, rows

NOISE = Noise.neftune(5.0)


def batch(size: int = 4) -> dict[str, torch.Tensor]:
    return collate(rows()[:size])


def noised(model: nn.Module, inputs: dict, noise: Noise | None = NOISE, **settings) -> torch.Tensor:
    """What the noise added to the embeddings in one training forward, seen where the next module would see it."""
    seen = []
    model.train()
    embedding = find_target(model).embedding
    with attach(model, noise, **settings):
        late = embedding.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
        try:
            model(**inputs)
        finally:
            late.remove()
    with torch.no_grad():
        return seen[0] - embedding(inputs["input_ids"])


def bart() -> nn.Module:
    config = AutoConfig.for_model(
        "bart", vocab_size=97, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=64, scale_embedding=True,
    )  # fmt: skip
    return AutoModelForSeq2SeqLM.from_config(config)


@pytest.mark.parametrize("name", [*NAMES, "bart"])
def test_fires_once_on_every_model_and_adds_what_noise_draws(name):
    model = bart() if name == "bart" else tiny(name)
    inputs = batch()
    epsilon = noised(model, inputs, seed=7)
    table = find_target(model).embedding
    random = generator(7, "noise", 0, 0, 0)
    wanted = NOISE.sample(table(inputs["input_ids"]), inputs["attention_mask"], generator=random)
    # The embedding was added and subtracted again: its rounding remains (Gemma's are √32 times larger).
    assert torch.allclose(epsilon, wanted, atol=1e-6)


def test_transformers_neftune_does_nothing_on_t5_where_we_fire():
    model = tiny("t5").train()
    handle = activate_neftune(model, 5.0)
    calls = []
    spy = model.get_input_embeddings().register_forward_hook(lambda *_: calls.append(1))
    model(**batch())
    spy.remove()
    deactivate_neftune(model, handle)
    assert calls == []
    with attach(model, NOISE) as noise:
        model(**batch())
    assert noise.fired == 1


def test_padded_length_is_transformers_neftune_bit_for_bit():
    model, inputs = tiny("llama").train(), batch()
    with attach(model, NOISE, seed=3, options=NoiseOptions(length="padded")):
        ours = model(**inputs).logits
    table = model.get_input_embeddings()
    table.neftune_noise_alpha = 5.0
    hook = table.register_forward_hook(neftune_post_forward_hook)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator(3, "noise", 0, 0, 0).get_state())
        theirs = model(**inputs).logits
    hook.remove()
    del table.neftune_noise_alpha
    assert torch.equal(ours, theirs)


def test_true_length_is_the_code_behind_the_neftune_paper():
    """experiment_code/train.py of the NEFTune repository: delta·mask·α/√(L_i·d), given as inputs_embeds."""
    model, inputs = tiny("llama").train(), batch()
    with attach(model, NOISE, seed=3):
        ours = model(**inputs).logits
    mask, embeddings = inputs["attention_mask"], model.get_input_embeddings()(inputs["input_ids"])
    random = generator(3, "noise", 0, 0, 0)
    delta = torch.zeros_like(embeddings).uniform_(-1, 1, generator=random) * mask.unsqueeze(2)
    magnitude = 5.0 / torch.sqrt(mask.sum(1) * embeddings.size(-1))
    delta = (delta * magnitude.view(-1, 1, 1)).detach()
    theirs = model(inputs_embeds=embeddings + delta, attention_mask=mask).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, model(**inputs).logits, atol=1e-2)


@pytest.mark.parametrize("name", ["llama", "gemma", "gemma2", "gemma3"])
def test_alpha_speaks_of_the_embeddings_as_the_first_layer_gets_them(name):
    """Gemma multiplies by √d inside its embedding: the noise is added after that, so ‖ε‖² is α²/3 there too."""
    model, inputs, received = tiny(name), batch(), []
    model.train()
    layer = model.base_model.layers[0]
    hook = layer.register_forward_pre_hook(lambda module, args: received.append(args[0].detach()))
    with attach(model, Noise("rademacher", 5.0)):
        model(**inputs)
    model(**inputs)
    hook.remove()
    square = (received[0] - received[1]).square().sum((1, 2))
    assert torch.allclose(square, torch.full_like(square, 25 / 3), rtol=1e-4)


@pytest.mark.parametrize("name", ["granite", "pegasus", "recurrent_gemma", "t5gemma"])
def test_alpha_means_the_same_where_the_model_multiplies_after_the_embedding(name):
    model, inputs, received = without_dropout(tiny(name)).train(), batch(), []
    stack = model.get_encoder() if name in ("pegasus", "t5gemma") else model.base_model
    hook = stack.layers[0].register_forward_pre_hook(lambda _, args: received.append(args[0].detach()))
    with attach(model, Noise("rademacher", 5.0)):
        model(**inputs)
    model(**inputs)
    hook.remove()
    square = (received[0] - received[1]).square().sum((1, 2))
    assert torch.allclose(square, torch.full_like(square, 25 / 3), rtol=1e-3)  # RecurrentGemma's factor is bfloat16


@pytest.mark.parametrize("name", ["llama", "granite"])
def test_both_draws_of_an_independent_pair_have_alpha_as_the_first_layer_gets_it(name):
    """Granite multiplies each side by 12: both draws are divided by it."""
    model, inputs, received = tiny(name).train(), batch(), []
    hook = model.base_model.layers[0].register_forward_pre_hook(lambda _, args: received.append(args[0].detach()))
    with attach(model, Noise.named("independent-pair", 5.0)) as noise:
        plan = noise.plan(inputs, (0, 0))
        for side in ("first", "second", "none"):
            with noise.using(replace(plan, side=side)):
                model(**inputs)
    hook.remove()
    first, second = (noisy - received[2] for noisy in received[:2])
    for epsilon in (first, second):
        square = epsilon.square().sum((1, 2))
        assert torch.allclose(square, torch.full_like(square, 25 / 3), rtol=1e-3)
    assert not any(torch.allclose(first, sign * second, atol=1e-3) for sign in (1, -1))


def test_the_second_side_of_an_unpaired_noise_is_the_mirror_of_its_draw():
    """Mirroring is a property of pairs: what a single draw says of it means nothing, and dials need ±ε."""
    inputs, sides = batch(), {}
    for mirrored in (True, False):
        with attach(tiny("llama"), Noise("rademacher", 5.0, mirrored=mirrored)) as noise:
            plan = noise.plan(inputs, (0, 0))
            sides[mirrored] = [noise.epsilon(replace(plan, side=side), 32) for side in ("first", "second")]
    assert torch.equal(sides[False][1], -sides[False][0])
    assert torch.equal(sides[False][0], sides[True][0])


@pytest.mark.parametrize("boundaries", [False, True])
def test_packed_noise_is_that_of_each_document(boundaries):
    documents, model = rows((5, 9, 3)), tiny("llama")
    packed = flattened(documents)
    if boundaries:
        packed["cu_seq_lens_q"] = packed["cu_seq_lens_k"] = torch.tensor([0, 5, 14, 17], dtype=torch.int32)
        packed["max_length_q"] = packed["max_length_k"] = 9
    epsilon = noised(model, packed, Noise("rademacher", 5.0))
    for part in epsilon[0].split([5, 9, 3]):
        assert float(part.square().sum()) == pytest.approx(25 / 3, rel=1e-4)
    whole = noised(model, packed, Noise("rademacher", 5.0), options=NoiseOptions(length="padded"))
    assert float(whole.square().sum()) == pytest.approx(25 / 3, rel=1e-4)  # Transformers': one α² for all three


@pytest.mark.parametrize("where", ["prompt", "response"])
def test_noise_on_a_part_of_the_tokens_keeps_the_rest_as_it_was(where):
    model, inputs = tiny("llama"), batch()
    everywhere, part = noised(model, inputs), noised(model, inputs, options=NoiseOptions(where=where))
    scored = (inputs["labels"] != -100) & (inputs["attention_mask"] != 0)
    chosen = scored if where == "response" else ~scored & (inputs["attention_mask"] != 0)
    assert torch.equal(part, everywhere * chosen[:, :, None])
    with pytest.raises(InputError, match="needs labels"):
        noised(model, {k: v for k, v in inputs.items() if k != "labels"}, options=NoiseOptions(where=where))


@pytest.mark.parametrize(("schedule", "halfway", "quarter"), [("linear", 0.5, 0.75), ("cosine", 0.5, 0.853553)])
def test_schedules_scale_alpha(schedule, halfway, quarter):
    model, inputs = tiny("llama").train(), batch()
    drawn = []
    with attach(model, Noise("rademacher", 5.0), options=NoiseOptions(schedule=schedule, steps=8)) as noise:
        noise.on_draw = lambda epsilon, *_: drawn.append(float(epsilon[0].square().sum().sqrt()))
        for step in (0, 2, 4, 8, 9):
            noise.at(step)
            model(**inputs)
    fractions = [value / drawn[0] for value in drawn]
    assert fractions == pytest.approx([1, quarter, halfway, 0, 0], abs=1e-6)
    with (
        pytest.raises(InputError, match="number of steps"),
        attach(model, NOISE, options=NoiseOptions(schedule=schedule)),
    ):
        model(**inputs)


def test_a_schedule_needs_to_be_told_the_steps():
    model, inputs = tiny("llama").train(), batch()
    with attach(model, NOISE, options=NoiseOptions(schedule="linear", steps=8)) as noise:
        model(**inputs)
        with pytest.raises(InputError, match=r"needs to know the step: call at\(step\)"):
            model(**inputs)
        for _ in range(2):  # micro-steps of a step that was told
            noise.at(1)
            model(**inputs), model(**inputs)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_a_part_of_the_model_called_for_training_is_refused(name):
    """Its embedding got no noise in silence."""
    model, inputs = tiny(name).train(), batch()
    part = model.get_encoder() if name == "t5" else model.base_model
    with attach(model, NOISE) as noise:
        for _ in range(2):
            with pytest.raises(InputError, match=r"ran outside a forward of .*: let the loss call"):
                part(inputs["input_ids"])
            model(**inputs)
        with noise.paused():
            part(inputs["input_ids"])
        with torch.no_grad():
            part(inputs["input_ids"])
        part.eval()
        part(inputs["input_ids"])
    assert noise.fired == 2
    part.train()(inputs["input_ids"])


def test_draws_are_keyed_and_leave_the_global_generator_alone():
    model, inputs = tiny("llama").train(), batch()
    before = torch.get_rng_state()

    def logits(step: int, **settings: int) -> list[torch.Tensor]:
        with attach(model, NOISE, **settings) as noise:
            noise.at(step)
            return [model(**inputs).logits, model(**inputs).logits]

    one, again = logits(5), logits(5)
    torch.manual_seed(123)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert torch.equal(one[0], logits(5)[0])
    others = [one[1], logits(6)[0], logits(5, rank=1)[0], logits(5, seed=1)[0]]
    assert not any(torch.equal(one[0], other) for other in others)
    torch.set_rng_state(before)
    logits(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_bfloat16_gets_the_float32_draw_rounded_once():
    inputs = batch()
    drawn = []
    for dtype in (torch.float32, torch.bfloat16):
        model = tiny("llama", dtype).train()
        with attach(model, NOISE) as noise:
            noise.on_draw = lambda epsilon, *_: drawn.append(epsilon)
            model(**inputs)
    assert drawn[1].dtype is torch.bfloat16
    assert torch.equal(drawn[0].bfloat16(), drawn[1])


def test_only_in_training_and_gone_afterwards():
    model, inputs = tiny("llama"), batch()
    clean = model(**inputs).logits
    with attach(model, NOISE) as noise:
        with pytest.warns(UserWarning, match="in evaluation mode"):
            assert torch.equal(model.eval()(**inputs).logits, clean)
        assert noise.fired == 0
        model.train()(**inputs)
        model.eval().generate(inputs["input_ids"][:1], max_new_tokens=2, do_sample=False)
        assert noise.fired == 1
    assert torch.equal(model.train()(**inputs).logits, clean)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_gradients_in_evaluation_mode_are_warned_of_once():
    """What `from_pretrained` gives is in evaluation mode: a loop without model.train() would train without noise."""
    model, inputs = tiny("llama"), batch()
    with attach(model, NOISE) as noise:
        with pytest.warns(UserWarning, match=r"call model\.train\(\)"):
            model(**inputs).loss.backward()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(**inputs)
        assert noise.fired == 0
    with warnings.catch_warnings(), attach(model, NOISE), torch.no_grad():
        warnings.simplefilter("error")
        model(**inputs)
    with warnings.catch_warnings(), attach(model, NOISE):  # measuring a loss is no training
        warnings.simplefilter("error")
        loss = EmbeddingLoss(model, inputs)
        loss(loss.embeddings.requires_grad_()).sum().backward()


def test_paused_forwards_are_clean_and_take_no_draw_from_the_others():
    model, inputs = tiny("llama").train(), batch()
    clean = model(**inputs).logits
    with attach(model, NOISE) as noise:
        wanted = [model(**inputs).logits for _ in range(2)]
        plan = noise.plan(inputs, (0, 1))
        with noise.paused(), noise.using(plan):  # the inner one counts
            assert torch.equal(model(**inputs).logits, wanted[1])
        with noise.using(plan), noise.paused():
            assert torch.equal(model(**inputs).logits, clean)
    with attach(model, NOISE) as noise:
        found = [model(**inputs).logits]
        with noise.paused():
            assert torch.equal(model(**inputs).logits, clean)
            model(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]))
        found.append(model(**inputs).logits)
        assert noise.fired == 2
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    with attach(model, None) as nothing, nothing.paused():
        assert torch.equal(model(**inputs).logits, clean)


def test_removed_on_an_exception_and_not_attached_twice():
    model = tiny("llama").train()
    with pytest.raises(KeyError), attach(model, NOISE):
        raise KeyError
    first = attach(model, NOISE)
    with pytest.raises(InputError, match="already has noise"):
        attach(model, NOISE)
    first.remove()
    first.remove()
    with attach(model, NOISE) as noise:
        model(**batch())
    assert noise.fired == 1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_out_of_place():
    model, inputs = tiny("llama").train(), batch()
    before = copy.deepcopy(model.state_dict())
    kept = []
    early = model.get_input_embeddings().register_forward_hook(lambda m, a, output: kept.append(output))
    with attach(model, NOISE):
        model(**inputs)
    early.remove()
    assert torch.equal(kept[0], model.get_input_embeddings()(inputs["input_ids"]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_refused():
    model, inputs = tiny("llama").train(), batch()
    handle = activate_neftune(model, 5.0)
    with pytest.raises(InputError, match="neftune_noise_alpha"):
        attach(model, NOISE)
    deactivate_neftune(model, handle)
    with pytest.raises(InputError, match="DataParallel"):
        attach(nn.DataParallel(model), NOISE)
    with pytest.raises(InputError, match="no text-embedding table"):
        attach(nn.Linear(2, 2), NOISE)
    with pytest.raises(InputError, match="did you mean 'padded'"):
        NoiseOptions(length="paded")
    with pytest.raises(InputError, match="encoder-decoder"):
        attach(tiny("t5"), NOISE, options=NoiseOptions(where="prompt"))
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    with attach(model, NOISE), pytest.raises(InputError, match="inputs_embeds"):
        model(inputs_embeds=embeddings)
    with attach(model, Noise.symnoise(5.0)), pytest.raises(InputError, match="PairedCollator"):
        model(**inputs)


def test_a_training_forward_without_a_draw_is_an_error():
    class Bypass(nn.Module):
        """Looks its embeddings up without calling the table, as a fused kernel might."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(97, 8)

        def get_input_embeddings(self) -> nn.Module:
            return self.table

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.table.weight[input_ids]

    model = Bypass()
    with attach(model, NOISE), pytest.raises(InputError, match="without a draw"):
        model(torch.ones(2, 3, dtype=torch.long))


def test_paired_collator_in_a_loop_of_ones_own():
    model, examples = tiny("llama").train(), rows()[:3]
    doubled = PairedCollator(collate)(examples)
    assert doubled["input_ids"].shape == (6, 9)
    epsilon = noised(model, doubled, Noise.symnoise(5.0))
    assert torch.allclose(epsilon[0::2], -epsilon[1::2], atol=1e-6)  # exact but for the embedding's rounding
    single = noised(model, collate(examples), Noise("rademacher", 5.0))
    assert torch.allclose(epsilon[0::2], single, atol=1e-6)


@pytest.mark.parametrize("name", ["AfmoeForCausalLM", "CTRLLMHeadModel"])
def test_noise_has_its_size_behind_a_factor_that_stands_in_the_forward(name):
    """‖ε‖ = α/√3 for ±1 noise, where the first layer receives it; without the factor it was √d times as large."""
    sizes = {"vocab_size": 97, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    afmoe = {"num_attention_heads": 2, "head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1, "mup_enabled": True}
    afmoe |= {"moe_intermediate_size": 16, "num_dense_layers": 1, "num_key_value_heads": 2}
    ctrl = {"vocab_size": 97, "n_embd": 16, "dff": 16, "n_layer": 1, "n_head": 2, "resid_pdrop": 0, "embd_pdrop": 0}
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**(sizes | afmoe if name.startswith("Afmoe") else ctrl))).train()
    inputs = {"input_ids": batch()["input_ids"], "output_hidden_states": True}
    with torch.no_grad():
        plain = model(**inputs).hidden_states[0]
        with attach(model, Noise("rademacher", 5.0)):
            noisy = model(**inputs).hidden_states[0]
    sizes = (noisy - plain).flatten(1).norm(dim=1)
    torch.testing.assert_close(sizes, torch.full_like(sizes, 5 / 3**0.5), rtol=1e-3, atol=0)


def test_big_birds_factor_is_found_where_it_is_asked_for():
    for asked in (False, True):
        config = transformers.BigBirdConfig(
            vocab_size=97, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            rescale_embeddings=asked, is_decoder=True, attention_type="original_full",
        )  # fmt: skip
        target = find_target(transformers.BigBirdForCausalLM(config))
        assert target.multiplier == (4.0 if asked else 1.0)


def test_checkpointing_the_whole_model_repeats_the_draw():
    """Gradient checkpointing from outside runs the embedding again in the backward."""
    from torch.utils.checkpoint import checkpoint

    model, inputs = tiny("llama").train(), batch()
    gradients = []
    for again in (False, True):
        for reentrant in (False, True) if again else (False,):
            model.zero_grad()
            with attach(model, NOISE) as noise:
                loss = 0.0
                for micro in range(2):  # both forwards before either backward
                    ids, mask = inputs["input_ids"][micro::2].clone(), inputs["attention_mask"][micro::2]
                    # the reentrant form wants an input that requires a gradient
                    call = lambda ids, mask, _: model(input_ids=ids, attention_mask=mask).logits  # noqa: E731
                    probe = torch.ones((), requires_grad=True)
                    out = (
                        checkpoint(call, ids, mask, probe, use_reentrant=reentrant) if again else call(ids, mask, probe)
                    )
                    loss = loss + out.logsumexp(-1).sum()
                loss.backward()
                assert noise.fired == 2
            gradients.append(model.get_input_embeddings().weight.grad.clone())
    assert torch.allclose(gradients[0], gradients[1], atol=1e-5)
    assert torch.allclose(gradients[0], gradients[2], atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # TorchDynamo's
def test_compiled_before_or_after_and_again():
    """A small module: tracing a Transformers model takes 5 s a time and meets nothing else of ours."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(97, 8), nn.Linear(8, 97)

        def get_input_embeddings(self) -> nn.Module:
            return self.table

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.head(torch.tanh(self.table(input_ids) * attention_mask[:, :, None]))

    model, inputs = Small().train(), {k: v for k, v in batch().items() if k != "labels"}
    with attach(model, NOISE):
        wanted = model(**inputs)
    compiled = torch.compile(model, backend="eager")
    clean = compiled(**inputs)
    for _ in range(2):
        with attach(compiled, NOISE) as noise:
            assert torch.allclose(compiled(**inputs), wanted, atol=1e-6)
            assert noise.fired == 1
        assert torch.allclose(compiled(**inputs), clean, atol=1e-6)
    assert not torch.allclose(wanted, clean, atol=1e-3)
    torch.compiler.reset()


class Wrapper(nn.Module):
    """As torch.compile and DDP wrap a model."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.module = inner


def test_a_wrapper_is_told_from_a_model_with_a_part_called_module():
    inner = tiny("llama")
    assert unwrapped(Wrapper(inner)) is inner and unwrapped(inner) is inner
    inner.module = nn.Linear(1, 1)
    assert unwrapped(inner) is inner


def test_what_is_no_noise_is_said():
    with pytest.raises(InputError, match=r"noise must be a Noise, .*got 'symnoise'"):
        require_noise("symnoise")
