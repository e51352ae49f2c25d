"""What the Trainers refuse, in one line that names the cause."""

import pytest
import torch
from transformers import TrainingArguments

from symnoise.core import InputError
from symnoise.noise import Noise
from symnoise.training import SymNoiseTrainer
from tests.tiny import tiny
from tests.training.ragged import PLAIN_SGD, collate, rows


def trainer(tmp_path, **settings):
    arguments = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, max_steps=1, save_strategy="no", **PLAIN_SGD
    )
    given = {"model": tiny("llama"), "args": arguments, "train_dataset": rows(), "data_collator": collate}
    return SymNoiseTrainer(**{**given, "noise": Noise.symnoise(5.0), **settings})


def with_key(key, value):
    return lambda examples: {**collate(examples), key: value}


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
@pytest.mark.parametrize("noise", [Noise.symnoise(5.0), Noise.neftune(5.0)])
def test_inputs_embeds(tmp_path, mode, noise):
    made = trainer(
        tmp_path, data_collator=with_key("inputs_embeds", torch.zeros(2, 5, 32)), noise=noise, pair_mode=mode
    )
    with pytest.raises(InputError, match="with inputs_embeds the embedding table never runs"):
        made.train()
    assert not made.model.get_input_embeddings()._forward_hooks


def test_a_batch_key_whose_first_dimension_is_not_the_batch(tmp_path):
    made = trainer(tmp_path, data_collator=with_key("token_weights", torch.ones(7)))
    with pytest.raises(
        InputError, match=r"'token_weights' has shape \(7,\), whose first dimension is not the batch of 2"
    ):
        made.train()


def test_data_parallel(tmp_path):
    arguments = TrainingArguments(str(tmp_path), **PLAIN_SGD)
    arguments._n_gpu = 2
    with pytest.raises(InputError, match="DataParallel is not supported; launch with torchrun"):
        trainer(tmp_path, args=arguments)


def test_noise_that_is_left_out(tmp_path):
    """Plain training is asked for by None; nothing said would be the noise forgotten."""
    with pytest.raises(InputError, match=r"noise must be a Noise, .*nothing was given"):
        SymNoiseTrainer(model=tiny("llama"), args=TrainingArguments(str(tmp_path), **PLAIN_SGD))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": "symnoise"}, r"such as Noise.symnoise\(5.0\), or None for plain training; got 'symnoise'"),
        ({"noise": 5.0}, "noise must be a Noise"),
        ({"noise_sed": 1}, "unknown trainer argument 'noise_sed': did you mean 'noise_seed'"),
        ({"train_datasets": 1}, "unknown trainer argument 'train_datasets': did you mean 'train_dataset'"),
        ({"pair_mode": "twopass"}, "unknown pair mode 'twopass': did you mean 'two-pass'"),
    ],
)
def test_trainer_arguments(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, **settings)
