"""The engine: means over the whole run, also of one that was killed between two lines of its log."""

import json

import pytest

from symnoise.finetune.engine import make_trainer, train_to_end
from symnoise.finetune.held_out import held_out_loss
from symnoise.finetune.log import mean_of_steps
from symnoise.models import EmbeddingLoss
from symnoise.noise import Noise
from symnoise.training import SymNoiseTrainer
from tests.tiny import tiny, tiny_tokenizer
from tests.training.ragged import collate, rows


def trainer(folder, **more) -> SymNoiseTrainer:
    arguments = {"output_dir": str(folder), "max_steps": 7, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    arguments |= {"save_steps": 2, "logging_steps": 3, "report_to": "none", **more}
    made = make_trainer(
        tiny("llama"), tiny_tokenizer(), rows(), arguments, seed=0, schedule="linear", noise=Noise.symnoise(5.0)
    )
    made.data_collator = collate
    return made


def test_means_are_over_the_steps_by_hand():
    history = [{"step": 2, "loss": 1.0}, {"step": 3, "eval_loss": 9.0}, {"step": 5, "loss": 2.0, "grad_norm": 4.0}]
    assert mean_of_steps(history) == {"loss": (2 * 1.0 + 3 * 2.0) / 5, "grad_norm": 4.0}
    assert mean_of_steps([]) == {}


def test_the_mean_loss_of_a_resumed_run_is_that_of_the_whole_run(tmp_path, monkeypatch):
    """Against a log of every step; it is killed at step 5, saved at 4 and logged at 3."""
    every = train_to_end(trainer(tmp_path / "every", logging_steps=1))
    whole = train_to_end(trainer(tmp_path / "whole"))
    real, calls = SymNoiseTrainer.training_step, []

    def killed(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SymNoiseTrainer, "training_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train_to_end(trainer(tmp_path / "killed"))
    resumed = train_to_end(trainer(tmp_path / "killed"))
    assert resumed["loss"] == pytest.approx(every["loss"], rel=1e-6)
    assert whole["loss"] == pytest.approx(every["loss"], rel=1e-6)
    finished = train_to_end(trainer(tmp_path / "killed"))  # nothing is trained, all is read
    assert finished == resumed
    state = json.loads((tmp_path / "killed" / "checkpoint-7" / "trainer_state.json").read_text())
    assert state["global_step"] == 7


def test_held_out_loss_is_the_mean_of_the_embedding_loss_over_tokens():
    model = tiny("llama").train()
    batches = [collate(rows()[:2]), collate(rows()[2:7])]
    losses = [loss for batch in batches for loss in EmbeddingLoss(model, batch).token_losses().tolist()]
    assert held_out_loss(model, batches) == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert held_out_loss(model, batches, sharded=True) == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert model.training


def test_held_out_loss_has_nothing_of_a_routers_loss():
    model = tiny("mixtral")
    batches = [collate(rows()[:2])]
    plain = held_out_loss(model, batches)
    model.config.output_router_logits = True
    with_router = float(model(**batches[0]).loss)
    assert abs(with_router - plain) > 1e-3 and held_out_loss(model, batches) == plain
