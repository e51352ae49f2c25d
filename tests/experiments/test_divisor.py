"""AdamW taken apart: PyTorch's own where nothing is exchanged, and each mean of the gradients that it names."""

import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from experiments.study.divisor import DivisorTrainer, DrawAtPairSize, PairAtDrawSize, _Adam
from symnoise.core import InputError, generator
from symnoise.noise import Noise
from symnoise.training import SymNoiseTrainer
from tests.tiny import tiny
from tests.training.ragged import collate, difference, expected, rows
from tests.training.test_trainer_gradients import TOLERANCE, run

SEED = 3
NOISE = Noise.symnoise(5.0)


def test_of_one_gradient_it_is_adamw_without_decay() -> None:
    random = generator(0, "weights")
    start, gradients = torch.randn(5, generator=random), torch.randn(6, 5, generator=random)
    found = {}
    for kind in ("own", "torch"):
        weight = nn.Parameter(start.clone())
        options = {"betas": (0.9, 0.99), "eps": 1e-3}
        optimizer = (
            _Adam([weight], 0.1, draw=True, draw_size=False, **options)
            if kind == "own"
            else torch.optim.AdamW([weight], 0.1, weight_decay=0.0, **options)
        )
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 6)
        for gradient in gradients:
            weight.grad = weight.draw = gradient.clone()
            optimizer.step()
            schedule.step()
        found[kind] = weight.detach()
    torch.testing.assert_close(found["own"], found["torch"])
    assert not torch.allclose(found["own"], start, atol=0.1)


def test_a_step_of_one_gradient_over_a_divisor_as_large_as_the_other_s() -> None:
    """By the definition, entry by entry: one gradient's mean over its own divisor, and that times a ratio of sizes."""
    random = generator(0, "weights")
    start, own, other = (torch.randn(n, 2, 3, generator=random, dtype=torch.float64) for n in (1, 4, 4))
    weight = nn.Parameter(start[0].clone())
    optimizer = _Adam([weight], 0.1, draw=True, draw_size=False, betas=(0.9, 0.99), eps=0.0)
    for draw, pair in zip(own, other / 3, strict=True):
        weight.draw, weight.grad = draw.clone(), pair.clone()
        optimizer.step()
    wanted = start[0].clone()
    for t in range(1, 5):
        first, second, size = 0.0, 0.0, 0.0
        for s in range(t):
            first = first + 0.1 * 0.9 ** (t - 1 - s) * own[s]
            second = second + 0.01 * 0.99 ** (t - 1 - s) * own[s] ** 2
            size = size + 0.01 * 0.99 ** (t - 1 - s) * float((other[s] / 3).square().mean())
        divisor = (second / (1 - 0.99**t)).sqrt() * (size / second.mean()).sqrt()
        wanted -= 0.1 * first / (1 - 0.9**t) / divisor
    torch.testing.assert_close(weight.detach(), wanted)


def test_with_nothing_exchanged_training_is_symnoise_by_adamw(tmp_path) -> None:
    settings = {"accumulation": 1, "size": 8, "steps": 3, "noise": NOISE, "noise_seed": SEED}
    settings["arguments"] = {"optim": "adamw_torch", "learning_rate": 1e-2, "weight_decay": 0.0}
    own, _ = run(tmp_path, kind=DivisorTrainer, **settings)
    plain, _ = run(tmp_path, kind=SymNoiseTrainer, **settings)
    other, _ = run(tmp_path, kind=DrawAtPairSize, **settings)
    for (name, one), two in zip(own.model.named_parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-3, msg=name)  # a sign where a gradient is rounding error
    apart = [
        max((a - b).abs().mean().item() for a, b in zip(one.model.parameters(), own.model.parameters(), strict=True))
        for one in (plain, other)
    ]
    assert apart[0] < 1e-5 < 1e-3 < apart[1]


@pytest.mark.parametrize(("accumulation", "size"), [(1, 8), (4, 2)])
@pytest.mark.parametrize("kind", [DrawAtPairSize, PairAtDrawSize])
def test_each_mean_is_of_the_gradients_that_it_names(tmp_path, accumulation, size, kind) -> None:
    """After one step, of all micro-batches, against gradients of pairs and of single draws worked out by hand."""
    trainer, gradients = run(tmp_path, accumulation=accumulation, size=size, kind=kind, noise=NOISE, noise_seed=SEED)
    batches = [(collate(rows()[i * size : (i + 1) * size]), (0, 0, i)) for i in range(accumulation)]
    _, pair = expected(tiny("llama").train(), batches, NOISE, SEED)
    _, draw = expected(tiny("llama").train(), batches, Noise.named("rademacher", 5.0), SEED)
    assert difference(gradients.steps[0], pair) < TOLERANCE
    states = {name: trainer.optimizer.state[weight] for name, weight in trainer.model.named_parameters()}
    own, other = (draw, pair) if kind is DrawAtPairSize else (pair, draw)
    along = {name: state["exp_avg"] / (1 - 0.9) for name, state in states.items()}
    squared = {name: (state["exp_avg_sq"] / (1 - 0.999)).sqrt() for name, state in states.items()}
    size = {name: (state["size"] / (1 - 0.999)).sqrt() for name, state in states.items()}
    wanted = {name: gradient.square().mean().sqrt() for name, gradient in other.items()}
    assert difference(along, own) < TOLERANCE
    assert difference(squared, {name: gradient.abs() for name, gradient in own.items()}) < 10 * TOLERANCE
    assert difference(size, wanted) < 10 * TOLERANCE
    assert difference(along, other) > 1e-3


def test_several_processes_are_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(InputError, match="train in one process; launch without torchrun"):
        run(tmp_path, accumulation=1, size=8, kind=DrawAtPairSize, noise=NOISE)
