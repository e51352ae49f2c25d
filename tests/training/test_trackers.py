"""The trackers log what they say, and change nothing about the run."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PromptTuningConfig, TrainableTokensConfig, get_peft_model
from transformers import Trainer, TrainingArguments
from trl import SFTConfig

from symnoise.core import Estimate, InputError
from symnoise.curvature import DynamicTrace, TraceChange
from symnoise.models import EmbeddingLoss
from symnoise.noise import Noise
from symnoise.training import CurvatureTracker, NoiseOptions, NormTracker, SymNoiseSFTTrainer, SymNoiseTrainer, trackers
from tests.tiny import tiny, tiny_tokenizer
from tests.training.ragged import LENGTHS, PLAIN_SGD, collate, flattened, in_order, mean_of_sides, rows


def train(tmp_path, callbacks, *, noise=None, steps=4, name="gpt2", model=None, data_collator=collate, **more):
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        max_steps=steps,
        save_strategy="no",
        **PLAIN_SGD,
    )
    trainer = SymNoiseTrainer(
        model=model or tiny(name),
        args=arguments,
        train_dataset=rows(),
        data_collator=data_collator,
        callbacks=callbacks,
        noise=noise,
        **more,
    )
    in_order(trainer).train()
    return trainer


def logged(trainer, key):
    return {line["step"]: line[key] for line in trainer.state.log_history if key in line}


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
def test_realised_noise_is_what_m1_to_m3_predict(tmp_path, mode):
    """Rademacher noise has ‖ε‖² = α²/3 and κ = 1 without spread; float32 rounds at 1e-6."""
    noise = Noise.symnoise(5.0)
    trainer = train(tmp_path, [trackers.NoiseTracker(2)], noise=noise, pair_mode=mode)
    assert logged(trainer, "noise/mean_square_norm") == pytest.approx({1: 25 / 3, 3: 25 / 3}, rel=1e-5)
    assert logged(trainer, "noise/predicted_mean_square_norm") == pytest.approx({1: 25 / 3, 3: 25 / 3}, rel=1e-9)
    assert logged(trainer, "noise/kurtosis") == pytest.approx({1: 1.0, 3: 1.0}, rel=1e-5)
    if mode == "doubled":
        assert logged(trainer, "noise/mean") == pytest.approx({1: 0, 3: 0}, abs=1e-9)


def test_realised_noise_of_flattened_documents_and_a_schedule(tmp_path):
    trainer = train(
        tmp_path,
        [trackers.NoiseTracker(1)],
        noise=Noise.symnoise(5.0),
        name="llama",
        data_collator=flattened,
        noise_options=NoiseOptions(schedule="linear"),
    )
    alphas = {step: 5.0 * (1 - (step - 1) / 4) for step in (1, 2, 3, 4)}
    assert logged(trainer, "noise/alpha") == pytest.approx(alphas)
    wanted = {step: alpha**2 / 3 for step, alpha in alphas.items()}
    assert logged(trainer, "noise/mean_square_norm") == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
def test_clean_and_noisy_loss_of_a_step(tmp_path, mode):
    trainer = train(
        tmp_path, [trackers.NoiseTracker(1)], noise=Noise.symnoise(5.0), name="llama", steps=1, pair_mode=mode
    )
    batches = [(collate(rows()[i : i + 2]), (torch.zeros(()),)) for i in (0, 2)]
    clean, _ = mean_of_sides(tiny("llama"), batches)
    assert logged(trainer, "noise/clean_loss")[1] == pytest.approx(clean, rel=1e-6)
    assert logged(trainer, "noise/loss")[1] == pytest.approx(logged(trainer, "loss")[1], rel=1e-6)
    excess = logged(trainer, "noise/loss")[1] - clean
    assert logged(trainer, "noise/loss_excess")[1] == pytest.approx(excess, abs=1e-5)
    assert abs(excess) > 1e-3


def test_the_mean_and_the_signal_to_noise_of_one_step_by_hand(tmp_path, monkeypatch):
    drawn = []
    tracker = trackers.NoiseTracker(1)
    real = tracker.draw
    monkeypatch.setattr(tracker, "draw", lambda *given: drawn.append(given) or real(*given))
    trainer = train(tmp_path, [tracker], noise=Noise.neftune(5.0), name="llama", steps=1)
    noises = torch.cat([e[l != 0].double() for e, _, l in drawn])  # noqa: E741
    clean = torch.cat([x[l != 0].double() for _, x, l in drawn])  # noqa: E741
    assert len(drawn) == 2 and noises.shape == clean.shape and float(noises.mean().abs()) > 1e-4
    assert logged(trainer, "noise/mean")[1] == pytest.approx(float(noises.mean()), rel=1e-6)
    ratio = float((clean.square().mean() / noises.square().mean()).sqrt())
    assert logged(trainer, "noise/signal_to_noise")[1] == pytest.approx(ratio, rel=1e-6)


def test_rows_that_are_only_evaluated_are_not_in_use(tmp_path):
    evaluated = [{"input_ids": [9, 8, 7, 6], "attention_mask": [1] * 4, "labels": [9, 8, 7, 6]}]
    trainer = train(tmp_path, [], noise=Noise.symnoise(5.0), steps=1, name="llama", eval_dataset=evaluated)
    tracker = NormTracker(1)
    trainer.add_callback(tracker)
    tracker.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)
    trainer.evaluate()
    assert not tracker._used.any()
    trainer.model.train()(input_ids=torch.tensor([[9, 8, 7, 6]]))
    assert tracker._used.nonzero().flatten().tolist() == [6, 7, 8, 9]


def test_row_norms_of_all_rows_and_of_those_in_use(tmp_path):
    trainer = train(tmp_path, [NormTracker(2)], noise=Noise.symnoise(5.0), steps=2, name="llama")
    norms = trainer.model.get_input_embeddings().weight.detach().norm(dim=1).double()
    used = sorted({token for row in rows() for token in row["input_ids"]})
    assert logged(trainer, "embedding_norm/used_rows") == {0: 0, 2: len(used)}
    assert logged(trainer, "embedding_norm/all_mean")[2] == pytest.approx(float(norms.mean()), rel=1e-6)
    assert logged(trainer, "embedding_norm/used_rms")[2] == pytest.approx(
        float(norms[used].square().mean().sqrt()), rel=1e-6
    )
    assert logged(trainer, "embedding_norm/used_mean")[2] != logged(trainer, "embedding_norm/all_mean")[2]
    assert not trainer.model.get_input_embeddings()._forward_pre_hooks


def test_noise_is_told_as_the_first_layer_receives_it(tmp_path):
    """Granite multiplies the noise, which is divided beforehand."""
    trainer = train(tmp_path, [trackers.NoiseTracker(1)], noise=Noise.symnoise(5.0), steps=1, name="granite")
    assert logged(trainer, "noise/mean_square_norm") == pytest.approx({1: 25 / 3}, rel=1e-5)


def test_row_norms_with_lora_on_the_table_are_of_what_is_looked_up(tmp_path):
    adapted = get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=["embed_tokens"]))
    trainer = train(tmp_path, [NormTracker(1)], noise=Noise.symnoise(5.0), steps=3, model=adapted)
    table = adapted.get_input_embeddings().eval()
    norms = table(torch.arange(97)).detach().norm(dim=1).double()
    found = logged(trainer, "embedding_norm/all_rms")
    assert found[3] == pytest.approx(float(norms.square().mean().sqrt()), rel=1e-6) and found[3] != found[0]


def test_row_norms_of_trainable_tokens_are_of_what_is_looked_up(tmp_path):
    tokens = {"target_modules": ["embed_tokens"], "token_indices": [*range(97)]}
    adapted = get_peft_model(tiny("llama"), TrainableTokensConfig(**tokens))
    trainer = train(tmp_path, [NormTracker(1)], noise=Noise.symnoise(5.0), steps=3, model=adapted)
    norms = adapted.get_input_embeddings()(torch.arange(97)).detach().norm(dim=1).double()
    found = logged(trainer, "embedding_norm/all_rms")
    assert found[3] == pytest.approx(float(norms.square().mean().sqrt()), rel=1e-6) and found[3] != found[0]


def test_the_curvature_of_a_tuned_prompt_is_refused(tmp_path):
    """The model without its prompt, which is all that training changes, stood in the log as tr H."""
    model = get_peft_model(tiny("llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(InputError, match="CurvatureTracker does not measure prompt tuning"):
        train(tmp_path, [CurvatureTracker(collate(rows()[:2]))], noise=Noise.neftune(5.0), model=model)


def test_curvature_of_the_probe_batch(tmp_path):
    batch = collate(rows((6, 8), seed=5))
    along = DynamicTrace(4, 16, seed=3)
    start = along.measure(EmbeddingLoss(tiny("llama"), batch)).trace.mean()
    trainer = train(tmp_path, [CurvatureTracker(batch, every=2, probes=4, seed=3)], steps=2, name="llama")
    found = along.measure(EmbeddingLoss(trainer.model, batch))
    for name, wanted in (("trace", found.trace.mean()), ("change", found.change.mean())):
        assert logged(trainer, f"curvature/{name}")[2] == pytest.approx(float(wanted.value), rel=1e-5)
        assert logged(trainer, f"curvature/{name}_stderr")[2] == pytest.approx(float(wanted.stderr), rel=1e-5)
    assert logged(trainer, "curvature/trace")[0] == pytest.approx(float(start.value), rel=1e-5)
    assert logged(trainer, "curvature/change")[0] == 0 != logged(trainer, "curvature/change")[2]
    assert set(logged(trainer, "curvature/seconds")) == {0, 2}


def saving(folder, callbacks, *, steps=4, every=2):
    """A Trainer without noise that saves in `folder` every `every` steps."""
    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, max_steps=steps, save_steps=every, **PLAIN_SGD
    )
    return in_order(
        SymNoiseTrainer(
            model=tiny("llama"), args=arguments, train_dataset=rows(), data_collator=collate, noise=None,
            callbacks=callbacks,
        )
    )  # fmt: skip


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_resumed_run_goes_on_from_the_start_in_its_checkpoint(tmp_path, elsewhere):
    """From the newest checkpoint in its own folder; or from another folder's, which is not where it saves."""
    batch, runs = collate(rows((6, 8), seed=5)), []
    for resumed in (False, True):
        place, whence = tmp_path / "run", resumed
        if resumed and elsewhere:
            place, whence = tmp_path / "other", str(place / "checkpoint-2")
        elif resumed:
            (place / "checkpoint-4").rename(tmp_path / "whole")
        trainer = saving(place, [CurvatureTracker(batch, every=2), NormTracker(2)])
        trainer.train(resume_from_checkpoint=whence)
        runs.append([logged(trainer, key) for key in ("curvature/change", "embedding_norm/used_rows")])
    (changes, used), (changes_again, used_again) = runs
    assert changes_again == pytest.approx(changes, rel=1e-5) and changes[4] != 0
    assert used_again == used and used[4] > used[2]


def test_a_resumed_run_does_not_mix_the_curvature_of_two_batches(tmp_path):
    for seed in (5, 6):
        trainer = saving(tmp_path, [CurvatureTracker(collate(rows((6, 8), seed=seed)), every=2)], steps=seed - 3)
        if seed == 5:
            trainer.train()
        else:
            with pytest.raises(InputError, match="the start was measured on other examples"):
                trainer.train(resume_from_checkpoint=True)


@pytest.fixture
def ten_seconds(monkeypatch):
    """Each measurement of curvature takes 10 s, by the clock of the trackers alone."""
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(trackers, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    exact = Estimate.exact(torch.ones(2))
    monkeypatch.setattr(DynamicTrace, "measure", lambda self, loss: TraceChange(exact, exact, exact))


@pytest.mark.usefixtures("ten_seconds")
def test_curvature_keeps_to_its_budget_in_every_run_of_a_trainer(tmp_path):
    trainer = saving(tmp_path, [CurvatureTracker(collate(rows((6, 8))), every=1, budget=25.0)], every=100)
    for _ in range(2):
        with pytest.warns(UserWarning, match="ends at step 2: its 25.0 s are spent"):
            trainer.train()
        assert set(logged(trainer, "curvature/trace")) == {0, 1}


@pytest.mark.usefixtures("ten_seconds")
def test_curvature_keeps_to_its_budget_in_a_run_that_is_resumed(tmp_path):
    """Of 45 s, 20 are spent before it is resumed after step 1; once it is spent, nothing more is measured."""
    for steps, measured in ((1, {0, 1}), (5, {0, 1, 2, 3}), (6, {0, 1, 2, 3})):
        trainer = saving(
            tmp_path, [CurvatureTracker(collate(rows((6, 8))), every=1, budget=45.0)], steps=steps, every=1
        )
        with pytest.warns(UserWarning, match="its 45.0 s are spent") if steps > 1 else nullcontext():
            trainer.train(resume_from_checkpoint=steps > 1)
        assert set(logged(trainer, "curvature/trace")) == measured


def test_watching_changes_nothing(tmp_path):
    """GPT-2 has dropout, so a draw from the global generator would show."""
    batch = collate(rows((6, 8), seed=5))
    weights = []
    for callbacks in ([], [trackers.NoiseTracker(1), NormTracker(1), CurvatureTracker(batch, every=1)]):
        trainer = train(tmp_path, callbacks, noise=Noise.symnoise(5.0), steps=3)
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_trl_averages_are_not_disturbed(tmp_path):
    entropies = []
    for callbacks in ([], [trackers.NoiseTracker(1), NormTracker(1)]):
        arguments = SFTConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=2, max_steps=4, save_strategy="no", bf16=False,
            **{**PLAIN_SGD, "logging_steps": 2},
        )  # fmt: skip
        trainer = SymNoiseSFTTrainer(
            model=tiny("llama"),
            args=arguments,
            train_dataset=Dataset.from_list(rows()),
            processing_class=tiny_tokenizer(),
            callbacks=callbacks,
            noise=Noise.symnoise(5.0),
        )
        in_order(trainer).train()
        entropies.append([logged(trainer, key) for key in ("entropy", "num_tokens", "loss")])
    assert entropies[0] == entropies[1]
    assert entropies[0][1][4] == 2 * sum(LENGTHS)


def test_with_another_trainer_they_are_introduced(tmp_path):
    arguments = TrainingArguments(output_dir=str(tmp_path), max_steps=2, save_strategy="no", **PLAIN_SGD)
    settings = {"model": tiny("llama"), "args": arguments, "train_dataset": rows(), "data_collator": collate}
    with pytest.raises(InputError, match="watch"):
        Trainer(**settings, callbacks=[NormTracker()]).train()
    trainer = Trainer(**settings)
    NormTracker(1).watch(trainer)
    trainer.train()
    assert set(logged(trainer, "embedding_norm/all_rms")) == {0, 1, 2}
    with pytest.raises(InputError, match="plain arm"):
        train(tmp_path, [trackers.NoiseTracker()], noise=None)
