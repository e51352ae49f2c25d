"""Dials: the gradient is g₀ + μE + λsO, worked out by hand from three plain gradients, wherever they are used."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from symnoise.core import InputError, generator
from symnoise.models import float64_throughout
from symnoise.noise import Noise
from symnoise.training import Dials, NoiseTracker, attach
from symnoise.training.dials import CleanLoss
from tests.tiny import tiny
from tests.training.ragged import by_dials, collate, difference, rows
from tests.training.test_trainer_gradients import TOLERANCE, run

NOISE = Noise.symnoise(5.0)
CELLS = [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.0), (1.0, math.sqrt(0.5)), (2.5, -3.0)]


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
@pytest.mark.parametrize(("accumulation", "size"), [(1, 8), (4, 2)])
@pytest.mark.parametrize(("even", "odd"), CELLS)
def test_gradient_of_the_trainer(tmp_path, mode, accumulation, size, even, odd):
    """Ragged rows, losses over the scored tokens of all micro-batches, each with its own sign."""
    dials, settings = Dials(even, odd), {"noise": NOISE, "noise_seed": 3, "pair_mode": mode}
    trainer, gradients = run(tmp_path, accumulation=accumulation, size=size, dials=dials, **settings)
    batches = [(collate(rows()[i * size : (i + 1) * size]), (0, 0, i)) for i in range(accumulation)]
    loss, clean, gradient = by_dials(tiny("llama").train(), batches, NOISE, dials, 3)
    assert difference(gradients.steps[0], gradient) < TOLERANCE
    logged = trainer.state.log_history[0]
    assert logged["loss"] == pytest.approx(loss, rel=1e-6)
    assert logged.get("clean_loss") == (None if even == 1 else pytest.approx(clean, rel=1e-6))


def test_where_micro_batches_are_averaged_so_is_the_clean_loss(tmp_path):
    """A model whose forward takes no count of tokens: each micro-batch weighs the same."""
    losses = []
    for more in ({"noise": NOISE, "dials": Dials(0.5, 0.5)}, {"noise": None}):
        model = tiny("llama")
        model.accepts_loss_kwargs = False
        trainer, _ = run(tmp_path, accumulation=4, size=2, model=model, **more)
        losses.append(trainer.state.log_history[0])
    assert losses[0]["clean_loss"] == pytest.approx(losses[1]["loss"], rel=1e-6)


def test_clean_losses_of_several_steps():
    """Sums within a step and the mean over steps; means of everything where micro-batches are averaged; taken once."""
    for averaged, wanted in ((False, (1 + 2 + 4 + 8) / 2), (True, (1 + 2 + 4 + 8) / 4)):
        clean = CleanLoss()
        for value, key in ((1.0, (5, 0)), (2.0, (5, 1)), (4.0, (6, 0)), (8.0, (6, 1))):
            clean.add(torch.tensor(value), key, averaged=averaged)
        assert float(clean.take()) == wanted
        assert clean.take() is None


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
def test_a_pair_is_the_dials_one_and_zero_bit_for_bit(tmp_path, mode):
    """Of a single draw's law, too; and its clean pass, of weight 0, is left out."""
    kept, calls, single = [], [], Noise("rademacher", 5.0)
    settings = ((NOISE, None), (NOISE, Dials()), (single, Dials(1, 0)), (replace(single, mirrored=False), Dials(1, 0)))
    for noise, dials in settings:
        model = tiny("llama")
        model.get_input_embeddings().register_forward_hook(lambda _, args, __: calls.append(args[0].shape[0]))
        _, gradients = run(
            tmp_path, accumulation=2, size=4, steps=2, noise=noise, dials=dials, pair_mode=mode, model=model
        )
        kept.append(gradients.steps)
    for other in kept[1:]:
        for one, two in zip(kept[0], other, strict=True):
            assert all(torch.equal(one[name], two[name]) for name in one)
    trial = 4 * 16 if mode == "doubled" else 0  # whether a loss couples rows is tried once per run
    assert sum(calls) == 4 * 2 * 2 * 8 + trial  # runs × steps × sides × rows


def test_one_and_one_is_a_single_draw_whose_sign_is_drawn(tmp_path):
    """At each step the gradient of plain noise ε or of its mirror image −ε, in one pass; both come up."""
    noise, calls, model = Noise.neftune(5.0), [], tiny("llama")
    model.get_input_embeddings().register_forward_hook(lambda _, args, __: calls.append(args[0].shape[0]))
    _, gradients = run(tmp_path, accumulation=8, size=1, noise=noise, noise_seed=1, dials=Dials(1, 1), model=model)
    batches = [(collate(rows()[i : i + 1]), (0, 0, i)) for i in range(8)]
    signs = [1 - 2 * int(torch.randint(2, (), generator=generator(1, "dial", *key))) for _, key in batches]
    assert set(signs) == {1, -1}
    _, _, gradient = by_dials(tiny("llama").train(), batches, noise, Dials(1, 1), 1)
    assert difference(gradients.steps[0], gradient) < TOLERANCE
    assert calls == [1] * 8


def test_the_odd_dial_adds_variance_and_no_mean(tmp_path):
    """Over both signs the mean of the gradients is that of λ = 0."""
    found = {}
    with float64_throughout():
        for odd in (0.0, 1.5, -1.5):
            model, dials = tiny("llama", torch.float64), Dials(0.7, odd)
            _, gradients = run(tmp_path, accumulation=1, size=8, noise=NOISE, dials=dials, model=model)
            found[odd] = gradients.steps[0]
    mean = {name: (found[1.5][name] + found[-1.5][name]) / 2 for name in found[0.0]}
    assert difference(mean, found[0.0]) < 1e-12
    assert difference(found[1.5], found[0.0]) > 1e-3


def test_a_small_draw_and_a_large_dial_are_the_penalty_on_curvature(tmp_path):
    """α/k and μ = k²: the gradient of ½εᵀHε, taken here by differentiating three times, up to terms of order 1/k².

    float64 throughout, since the rounding of a gradient is multiplied by μ.
    """
    alpha, batch = 0.2, collate(rows())
    with float64_throughout(), sdpa_kernel(SDPBackend.MATH):
        model = tiny("llama", torch.float64).train()
        table, t = model.get_input_embeddings(), torch.zeros((), dtype=torch.float64, requires_grad=True)
        epsilon = Noise.symnoise(alpha).sample(
            torch.empty(*batch["input_ids"].shape, 32, dtype=torch.float64),
            batch["attention_mask"],
            generator=generator(0, "noise", 0, 0, 0),
        )
        embeddings = table(batch["input_ids"]) + t * epsilon
        loss = model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
        (slope,) = torch.autograd.grad(loss, t, create_graph=True)
        (bend,) = torch.autograd.grad(slope, t, create_graph=True)
        names, weights = zip(*model.named_parameters(), strict=True)
        wanted = dict(zip(names, torch.autograd.grad(bend / 2, weights, retain_graph=True), strict=True))
        clean = dict(zip(names, torch.autograd.grad(loss, weights), strict=True))
    errors = []
    for k in (10, 30):
        with float64_throughout():
            _, kept = run(
                tmp_path, accumulation=1, size=8, noise=Noise.symnoise(alpha / k), dials=Dials(k**2),
                model=tiny("llama", torch.float64),
            )  # fmt: skip
        errors.append(difference({name: kept.steps[0][name] - clean[name] for name in clean}, wanted))
    assert errors[1] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(9, rel=0.1)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_in_a_loop_of_ones_own(checkpointed):
    """Two micro-batches of a step, each weighed by its scored tokens; a step that is done again is the same."""
    model, dials = tiny("llama").train(), Dials(0.5, 2.0)
    batches = [collate(rows()[:4]), collate(rows()[4:])]
    counts = [int((batch["labels"][:, 1:] != -100).sum()) for batch in batches]
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with attach(model, NOISE, seed=3) as noise:
        for _ in range(2):
            model.zero_grad()
            noise.at(0)
            for batch, count in zip(batches, counts, strict=True):
                for weight, side in dials.sides(noise, batch):
                    with side:
                        (weight * model(**batch).loss * count / sum(counts)).backward()
            found = {name: p.grad.clone() for name, p in model.named_parameters()}
            keys = [(0, 0, 0), (0, 0, 1)]
            _, _, gradient = by_dials(tiny("llama").train(), list(zip(batches, keys, strict=True)), NOISE, dials, 3)
            assert difference(found, gradient) < TOLERANCE


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
def test_a_forward_that_is_run_again_in_the_backward_pass_gets_the_draw_of_its_side(tmp_path, mode):
    """With the embedding within what is recomputed; in the second step, too."""
    kept = []
    for again in (False, True):
        model = tiny("llama")
        if again:
            model.model.forward = partial(checkpoint, model.model.forward, use_reentrant=False)
        settings = {"noise": NOISE, "dials": Dials(0.5, 2.0), "pair_mode": mode, "model": model}
        _, gradients = run(tmp_path, accumulation=1, size=4, steps=2, **settings)
        kept.append(gradients.steps)
    for plain, recomputed in zip(*kept, strict=True):
        assert difference(recomputed, plain) < TOLERANCE


def test_weights_add_up_to_one_and_come_in_order():
    for even, odd in CELLS:
        for sign in (1, -1):
            weights = Dials(even, odd).weights(sign)
            assert sum(weights.values()) == pytest.approx(1)
            assert list(weights) == [side for side in ("none", "first", "second") if side in weights]
            assert 0 not in weights.values()


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
@pytest.mark.parametrize(("even", "odd"), [(1.0, 0.0), (0.5, 1.0), (1.0, 1.0), (1.0, 0.5)])
def test_the_tracker_reports_the_objective_and_the_clean_loss(tmp_path, mode, even, odd):
    """Where the clean pass has a weight it is not made twice: the rows that go through the model are counted."""
    dials, settings = Dials(even, odd), {"noise": NOISE, "noise_seed": 3, "pair_mode": mode}
    went_through = []
    for watching in ([], [NoiseTracker(every=1)]):
        model, calls = tiny("llama"), []
        model.get_input_embeddings().register_forward_hook(lambda _, args, __, c=calls: c.append(args[0].shape[0]))
        trainer, _ = run(
            tmp_path, accumulation=2, size=4, dials=dials, model=model, more_callbacks=watching, **settings
        )
        went_through.append(sum(calls))
    batches = [(collate(rows()[i * 4 : (i + 1) * 4]), (0, 0, i)) for i in range(2)]
    loss, clean, _ = by_dials(tiny("llama").train(), batches, NOISE, dials, 3)
    line = next(line for line in trainer.state.log_history if "noise/loss" in line)
    assert line["noise/loss"] == pytest.approx(loss, rel=1e-6)
    assert line["noise/clean_loss"] == pytest.approx(clean, rel=1e-6)
    assert went_through[1] - went_through[0] == (8 if even == 1 else 0)


def test_a_run_counts_the_passes_it_makes(tmp_path):
    counted = {}
    for dials in (Dials(1, 1), Dials(1, 0), Dials(0.5, 0)):
        trainer, _ = run(tmp_path, accumulation=1, size=8, noise=NOISE, dials=dials)
        counted[dials.even, dials.odd] = trainer.state.total_flos
    assert counted[1, 0] == 2 * counted[1, 1]
    assert counted[0.5, 0] == 3 * counted[1, 1]


@pytest.mark.parametrize(
    ("even", "odd", "message"),
    [
        (math.nan, 0.0, "the even dial must be a finite number; got nan"),
        (1.0, math.inf, "the odd dial must be a finite number; got inf"),
        (0.0, 0.0, "both dials at 0 nothing of the noise is left: for plain training use no noise"),
    ],
)
def test_dials_that_cannot_be(even, odd, message):
    with pytest.raises(InputError, match=message):
        Dials(even, odd)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (None, "dials weigh the two sides of a noise; give a noise as well"),
        (Noise.named("independent-pair", 5.0), "independent-pair makes two draws; use symnoise"),
    ],
)
def test_noise_that_dials_do_not_work_with(tmp_path, noise, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, accumulation=1, size=8, noise=noise, dials=Dials())
    with attach(tiny("llama"), noise) as handle, pytest.raises(InputError, match=message):
        Dials().sides(handle, collate(rows()))
