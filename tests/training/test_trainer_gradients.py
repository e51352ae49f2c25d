"""The Trainer's loss and gradient are the mean of the two sides, against sums worked out by hand."""

import pytest
import torch
from transformers import TrainingArguments

from symnoise.noise import Noise
from symnoise.training import SymNoiseTrainer
from tests.tiny import tiny
from tests.training.ragged import PLAIN_SGD, Gradients, collate, difference, expected, in_order, rows

# Gradients are sums of float32 terms in two orders: a few times 1e-7 of the largest entry.
TOLERANCE = 1e-6


def run(tmp_path, *, accumulation, size, steps=1, name="llama", data=None, model=None, kind=SymNoiseTrainer, **more):
    gradients = Gradients()
    model = model or tiny(name)
    extra, callbacks = more.pop("arguments", {}), more.pop("more_callbacks", [])
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        max_steps=steps,
        save_strategy="no",
        **(PLAIN_SGD | extra),
    )
    trainer = kind(
        model=model,
        args=arguments,
        train_dataset=data or rows(),
        data_collator=collate,
        callbacks=[gradients, *callbacks],
        **more,
    )
    in_order(trainer).train()
    return trainer, gradients


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
@pytest.mark.parametrize(("accumulation", "size"), [(1, 8), (4, 2)])
@pytest.mark.parametrize("name", ["symnoise", "independent-pair", "uniform"])
def test_gradient_is_the_mean_of_the_sides(tmp_path, mode, accumulation, size, name):
    noise = Noise.named(name, 5.0)
    trainer, gradients = run(tmp_path, accumulation=accumulation, size=size, noise=noise, noise_seed=3, pair_mode=mode)
    batches = [(collate(rows()[i * size : (i + 1) * size]), (0, 0, i)) for i in range(accumulation)]
    loss, gradient = expected(tiny("llama").train(), batches, noise, 3)
    assert difference(gradients.steps[0], gradient) < TOLERANCE
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-6)


def test_other_noise_gives_another_gradient(tmp_path):
    """The comparison above can fail: another seed is far outside its tolerance."""
    _, one = run(tmp_path, accumulation=1, size=8, noise=Noise.symnoise(5.0), noise_seed=0)
    _, other = run(tmp_path, accumulation=1, size=8, noise=Noise.symnoise(5.0), noise_seed=1)
    assert difference(one.steps[0], other.steps[0]) > 1e-3


def test_no_noise_is_the_plain_trainer_and_so_is_a_pair_of_alpha_zero(tmp_path):
    _, plain = run(tmp_path, accumulation=2, size=4, noise=None)
    _, doubled = run(tmp_path, accumulation=2, size=4, noise=Noise.symnoise(0.0))
    assert difference(doubled.steps[0], plain.steps[0]) < TOLERANCE


def test_gradient_checkpointing_sees_the_same_draw(tmp_path):
    _, plain = run(tmp_path, accumulation=2, size=4, noise=Noise.symnoise(5.0))
    _, checkpointed = run(
        tmp_path,
        accumulation=2,
        size=4,
        noise=Noise.symnoise(5.0),
        arguments={"gradient_checkpointing": True},
    )
    assert difference(checkpointed.steps[0], plain.steps[0]) < TOLERANCE


def test_two_passes_recompute_the_second_side_where_gradients_are_new(tmp_path):
    """Forward passes of a layer: one a side, and one more for the second side of the first micro-batch alone, after
    which plain training would hold gradients too."""
    for accumulation, size, expected_calls in ((1, 8, 2 + 1), (4, 2, 8 + 1)):
        model, calls = tiny("llama"), []
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        noise = Noise.symnoise(5.0)
        run(tmp_path, accumulation=accumulation, size=size, noise=noise, pair_mode="two-pass", model=model)
        assert len(calls) == expected_calls
        assert not model.is_activation_checkpointing


def test_encoder_decoder_pairs(tmp_path):
    """T5, whose encoder alone is noised: the doubled batch against one side after the other, and against no noise."""
    kept = []
    for noise, mode in ((Noise.symnoise(5.0), "doubled"), (Noise.symnoise(5.0), "two-pass"), (None, "doubled")):
        model = tiny("t5")
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0  # the sides would differ by it
            elif isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        _, gradients = run(tmp_path, accumulation=2, size=4, noise=noise, pair_mode=mode, model=model)
        kept.append(gradients.steps[0])
    assert difference(kept[0], kept[1]) < 2 * TOLERANCE
    assert difference(kept[0], kept[2]) > 1e-3
