"""Pairs stay exact in every way of running a Trainer: streams, epochs cut short, resuming, other losses."""

import pytest
import torch
from datasets import IterableDataset
from torch.nn import functional as F
from transformers import TrainingArguments

from symnoise.core import generator
from symnoise.noise import Noise
from symnoise.training import NoiseOptions, SymNoiseTrainer
from symnoise.training.trackers import NoiseTracker
from tests.tiny import tiny
from tests.training.ragged import PLAIN_SGD, Gradients, collate, difference, in_order, rows

NOISE = Noise.symnoise(5.0)


def run(folder, *, steps, data=None, size=2, accumulation=2, resume=None, loss=None, **arguments):
    """A run in order; its gradients, and what the model has become."""
    gradients = Gradients()
    given = {"save_strategy": "no", **PLAIN_SGD, **arguments}
    trainer = SymNoiseTrainer(
        model=tiny("llama"),
        args=TrainingArguments(
            str(folder),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            max_steps=steps,
            **given,
        ),
        train_dataset=rows() if data is None else data,
        data_collator=collate,
        callbacks=[gradients],
        noise=NOISE,
        noise_seed=3,
        compute_loss_func=loss,
    )
    if data is None:
        in_order(trainer)
    trainer.train(resume_from_checkpoint=resume)
    return gradients.steps, trainer.model


def by_hand(batches, step, loss_of, model=None):
    """The gradient of a step: the sum over micro-batches of the mean over sides of loss_of(logits, labels)."""
    model = (model or tiny("llama")).train()
    model.zero_grad()
    for micro, batch in enumerate(batches):
        table = model.get_input_embeddings()
        like = torch.empty(*batch["input_ids"].shape, 32)
        random = generator(3, "noise", 0, step, micro)
        for epsilon in NOISE.sample_pair(like, batch["attention_mask"], generator=random):
            embeddings = table(batch["input_ids"]) + epsilon
            logits = model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"]).logits
            (loss_of(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()) / 2).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def count(batches):
    return sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)


def cut(examples, size=2):
    return [collate(examples[i : i + size]) for i in range(0, len(examples), size)]


def mean_loss(batches, smoothing=0.0):
    """Σ over scored tokens of the cross-entropy, over how many there are in the whole step."""
    scored = count(batches)
    options = {"reduction": "sum", "ignore_index": -100, "label_smoothing": smoothing}
    return lambda logits, labels: F.cross_entropy(logits, labels, **options) / scored


def test_a_stream_gives_the_gradients_of_the_rows(tmp_path):
    stream = IterableDataset.from_generator(lambda: iter(rows()))
    found, _ = run(tmp_path, steps=2, data=stream)
    first = cut(rows())[:2]
    assert difference(found[0], by_hand(first, 0, mean_loss(first))) < 1e-5
    kept, _ = run(tmp_path, steps=2)
    assert difference(found[1], kept[1]) < 1e-6


def test_steps_beyond_an_epoch_and_a_ragged_end_of_it(tmp_path):
    """Seven rows: an epoch ends with a micro-batch of one row, in a step of its own size, and the next begins anew."""
    data = rows()[:7]
    found, _ = run(tmp_path, steps=3, data=data, learning_rate=0.0, train_sampling_strategy="sequential")
    batches = cut(data)
    for step, part in enumerate((batches[:2], batches[2:], batches[:2])):
        assert difference(found[step], by_hand(part, step, mean_loss(part))) < 1e-5
    assert difference(found[0], found[2]) > 1e-3  # the same rows under another draw


def test_a_resumed_run_is_the_run_that_was_never_stopped(tmp_path):
    kept = {"save_strategy": "steps", "save_steps": 2}
    whole, model = run(tmp_path / "whole", steps=4, **kept)
    run(tmp_path / "part", steps=2, **kept)
    rest, resumed = run(tmp_path / "part", steps=4, resume=str(tmp_path / "part" / "checkpoint-2"), **kept)
    assert [difference(one, other) for one, other in zip(rest, whole[2:], strict=True)] == [0, 0]
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])


def test_a_schedule_over_other_steps_than_the_run_s(tmp_path):
    """Four steps of eight: α falls to five eighths, not to a quarter."""
    found = []
    for steps, wanted in ((8, [1, 7 / 8, 6 / 8, 5 / 8]), (None, [1, 3 / 4, 2 / 4, 1 / 4])):
        arguments = TrainingArguments(
            str(tmp_path), max_steps=4, per_device_train_batch_size=2, save_strategy="no", **PLAIN_SGD
        )
        trainer = SymNoiseTrainer(
            model=tiny("llama"), args=arguments, train_dataset=rows(), data_collator=collate,
            callbacks=[NoiseTracker(1)], noise=Noise.symnoise(5.0),
            noise_options=NoiseOptions(schedule="linear", steps=steps),
        )  # fmt: skip
        in_order(trainer).train()
        found = [line["noise/mean_square_norm"] for line in trainer.state.log_history if "noise/alpha" in line]
        assert found == pytest.approx([(5 * part) ** 2 / 3 for part in wanted], rel=1e-5)


def test_label_smoothing(tmp_path):
    found, _ = run(tmp_path, steps=1, label_smoothing_factor=0.2)
    batches = cut(rows())[:2]
    assert difference(found[0], by_hand(batches, 0, mean_loss(batches, 0.2))) < 1e-5
    assert difference(found[0], by_hand(batches, 0, mean_loss(batches))) > 1e-2


def squared(outputs, labels, num_items_in_batch=None):
    """A loss of one's own: Σ over scored tokens of (1 − p)², over how many there are."""
    logits, labels = outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    p = logits.softmax(-1).gather(-1, labels.clamp(min=0)[:, None])[:, 0]
    return ((1 - p).square() * (labels != -100)).sum() / num_items_in_batch


@pytest.mark.filterwarnings("error::UserWarning")
def test_a_loss_of_one_s_own_over_tokens(tmp_path):
    """It is a mean over rows, so the trial of the first step finds nothing."""
    found, _ = run(tmp_path, steps=1, loss=squared)
    batches = cut(rows())[:2]
    scored = count(batches)

    def by_token(logits, labels):
        p = logits.softmax(-1).gather(-1, labels.clamp(min=0)[:, None])[:, 0]
        return ((1 - p).square() * (labels != -100)).sum() / scored

    assert difference(found[0], by_hand(batches, 0, by_token)) < 1e-5
