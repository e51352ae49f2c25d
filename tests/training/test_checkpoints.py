"""Killed and resumed, resumed with another noise, stopped by a loss that is not finite."""

import json
import signal
import warnings

import pytest
import torch

from symnoise.core import InputError
from symnoise.noise import Noise
from symnoise.training import Dials, NoiseOptions
from tests.processes import one
from tests.training.killed import run, run_and_die


@pytest.mark.parametrize("dials", [None, Dials(0.5, 2.0)])
def test_killed_and_resumed_ends_with_the_same_weights(tmp_path, dials):
    """Killed within step 3, so after the checkpoint of step 2; and a half-written checkpoint of step 4 is left. The
    signs of the dials come back as the draws do."""
    whole = run(str(tmp_path / "whole"), dials=dials).model.state_dict()
    folder = tmp_path / "killed"
    assert one(run_and_die, str(folder), 3, dials) == -signal.SIGKILL
    (folder / "checkpoint-4").mkdir()
    (folder / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": 1.0, "global_st')
    with pytest.warns(UserWarning, match="checkpoint-4 is incomplete"):
        resumed = run(str(folder), resume=True, dials=dials).model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_another_noise_than_the_checkpoint_warns_and_says_both(tmp_path):
    run(str(tmp_path))
    checkpoint = str(tmp_path / "checkpoint-2")
    assert json.loads((tmp_path / "checkpoint-2" / "symnoise.json").read_text()) == {
        "noise": "symnoise",
        "alpha": 5.0,
        "seed": 0,
        "length": "true",
        "where": "all",
        "schedule": "cosine",
        "even": 1.0,
        "odd": 0.0,
    }
    with pytest.warns(UserWarning, match="noise was 'symnoise', now 'uniform'; alpha was 5.0, now 10.0"):
        run(str(tmp_path / "b"), resume=checkpoint, noise=Noise.neftune(10.0))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*noise setting.*")
        run(str(tmp_path / "c"), resume=checkpoint)
    with pytest.warns(UserWarning, match="even was 1.0, now 0.5; odd was 0.0, now 2.0"):
        run(str(tmp_path / "e"), resume=checkpoint, dials=Dials(0.5, 2.0))
    (tmp_path / "checkpoint-2" / "symnoise.json").unlink()
    with pytest.warns(UserWarning, match="noise was 'none', now 'symnoise'"):
        run(str(tmp_path / "d"), resume=checkpoint)


def test_nothing_to_resume_from(tmp_path):
    with pytest.raises(InputError, match="no whole checkpoint"):
        run(str(tmp_path), resume=True)


@pytest.mark.parametrize("noise", [None, Noise.symnoise(5.0)])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, noise, monkeypatch):
    """At step 3 the loss becomes NaN: the run stops, says so, and the checkpoint of step 2 stays the last."""
    from symnoise.training import SymNoiseTrainer

    finite = SymNoiseTrainer.compute_loss

    def sometimes(self, *args, **kwargs):
        return finite(self, *args, **kwargs) * (float("nan") if self.state.global_step == 3 else 1.0)

    monkeypatch.setattr(SymNoiseTrainer, "compute_loss", sometimes)
    with pytest.raises(InputError, match=r"nan at step 3, micro-step 0.*checkpoint-2") as caught:
        run(str(tmp_path), noise=noise, noise_options=NoiseOptions())
    assert "\n" not in str(caught.value)
    assert sorted(folder.name for folder in tmp_path.glob("checkpoint-*")) == ["checkpoint-2"]
