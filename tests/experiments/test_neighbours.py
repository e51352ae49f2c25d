"""R3F and NSO as arms: gradients against objectives written out, weights as before, and a run that resumes."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from experiments.study import neighbours
from experiments.study.neighbours import (
    DEVIATION,
    R3FTrainer,
    WeightPairTrainer,
    matching_deviation,
    symmetric_divergence,
    weights_shifted,
)
from experiments.study.train import train
from symnoise.core import generator
from symnoise.noise import Noise
from symnoise.training import SymNoiseTrainer
from tests.tiny import tiny
from tests.training.ragged import collate, difference, mean_of_sides, rows
from tests.training.test_trainer_gradients import TOLERANCE, run

SEED = 3
SPLITS = [(1, 8), (4, 2)]


def test_the_divergence_is_that_of_torch_in_both_directions() -> None:
    one, other = torch.randn(2, 5, 7, generator=generator(0, "logits"), dtype=torch.float64)
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    wanted = F.kl_div(p, q, reduction="none", log_target=True) + F.kl_div(q, p, reduction="none", log_target=True)
    torch.testing.assert_close(symmetric_divergence(one, other).double(), wanted.sum(-1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("accumulation", "size"), SPLITS)
def test_gradient_of_r3f(tmp_path, accumulation, size) -> None:
    """Loss and divergence are both means over the scored tokens of all micro-batches."""
    noise = Noise.named("rademacher", 5.0)
    trainer, gradients = run(
        tmp_path, accumulation=accumulation, size=size, kind=R3FTrainer, noise=noise, noise_seed=SEED
    )
    model, total, scored = tiny("llama").train(), 0.0, 0
    for i in range(accumulation):
        batch = collate(rows()[i * size : (i + 1) * size])
        clean = model.get_input_embeddings()(batch["input_ids"])
        epsilon = noise.sample(clean, batch["attention_mask"], generator=generator(SEED, "noise", 0, 0, i))
        at, targets = batch["labels"][:, 1:] != -100, batch["labels"][:, 1:]
        p, q = (
            model(inputs_embeds=x, attention_mask=batch["attention_mask"]).logits[:, :-1].log_softmax(-1)
            for x in (clean, clean + epsilon)
        )
        apart = (p.exp() * (p - q) + q.exp() * (q - p)).sum(-1)
        total = total - p.gather(-1, targets.clamp(min=0)[..., None])[..., 0][at].sum() + apart[at].sum()
        scored += int(at.sum())
    loss = total / scored
    loss.backward()
    gradient = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert difference(gradients.steps[0], gradient) < TOLERANCE
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize(("accumulation", "size"), SPLITS)
def test_gradient_of_a_pair_in_the_weights(tmp_path, accumulation, size, monkeypatch) -> None:
    """The mean of the gradients at W + U and W − U, another U for each micro-batch, from the same W each step."""
    monkeypatch.setattr(neighbours, "DEVIATION", 0.02)
    settings = {"kind": WeightPairTrainer, "noise": None, "noise_seed": SEED, "arguments": {"learning_rate": 0.0}}
    trainer, gradients = run(tmp_path, accumulation=accumulation, size=size, steps=2, **settings)
    model = tiny("llama").train()
    for (name, after), before in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(after, before), name
    batches = [collate(rows()[i * size : (i + 1) * size]) for i in range(accumulation)]
    scored = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
    loss, gradient = 0.0, {}
    for i, batch in enumerate(batches):
        for sign in (1, -1):
            shifted, random = tiny("llama").train(), generator(SEED, "weights", 0, 2 * i)
            with torch.no_grad():
                for weight in shifted.parameters():
                    weight += sign * 0.02 * torch.randn(weight.shape, generator=random)
            value, found = mean_of_sides(shifted, [(batch, (0.0,))])
            loss += value * scored[i] / sum(scored) / 2
            for name, part in found.items():
                gradient[name] = gradient.get(name, 0) + part * scored[i] / sum(scored) / 2
    assert difference(gradients.steps[0], gradient) < TOLERANCE
    assert difference(gradients.steps[1], gradient) > 1e-3  # another U
    assert trainer.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-5)


def test_weights_are_as_before_to_the_bit_even_after_an_exception() -> None:
    model = tiny("llama")
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(KeyError), weights_shifted(model, 0.1, generator(0, "weights")):
        assert not any(torch.equal(p, before[name]) for name, p in model.named_parameters())
        raise KeyError
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_the_deviation_raises_the_loss_as_much_as_the_noise(study, folder) -> None:
    """With the deviation found, the loss with noise in the weights is that with noise in the embeddings."""
    small, large = (replace(study, alpha=alpha) for alpha in (5.0, 50.0))
    found = [matching_deviation(one, folder) for one in (small, large)]
    assert 0 < found[0] < found[1]
    source = neighbours.base_model(study, folder)
    texts = neighbours.training_rows(study, 0, source.tokenizer, source.model)
    batches = [batch for _, batch in neighbours.in_batches(texts, source.tokenizer, 4)]
    noisy = neighbours._loss_in_noise(source.model, batches, Noise.named("rademacher", 50.0))
    assert neighbours._loss_of_weights(source.model, batches, found[1]) == pytest.approx(noisy, rel=1e-3)


@pytest.mark.parametrize("name", ["r3f_a10_s0", "weight-pair_a0_s0", "draw-at-pair-size_a10_s0"])
def test_an_interrupted_run_of_another_method_ends_as_if_it_had_not_been(
    study,
    folder,
    tmp_path,
    monkeypatch,
    name,
) -> None:
    study = replace(study, arms=("symnoise", "r3f", "draw-at-pair-size"), controls=("none", "weight-pair"))
    run, place = study.run(name), tmp_path / "runs"
    shutil.copytree(folder.parent / study.base, tmp_path / study.base)
    train(study, run, place)
    whole = json.loads((place / name / "train.json").read_text())
    shutil.rmtree(place / name)
    real = SymNoiseTrainer.training_step

    def killed(self, *args):
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(SymNoiseTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(study, run, place)
    train(study, run, place)
    again = json.loads((place / name / "train.json").read_text())
    assert (again["curve"], again["train_loss"]) == (whole["curve"], whole["train_loss"])
    plain = study.run("none_a0_s0")
    train(study, plain, place)
    assert json.loads((place / plain.name / "train.json").read_text())["curve"] != whole["curve"]
    assert DEVIATION > 0
