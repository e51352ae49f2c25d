"""Run by test_two_processes.py: one step of each Trainer on two gloo processes, gradients to a file."""

import itertools
import os

import torch
from datasets import Dataset
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import TrainingArguments
from trl import SFTConfig

from symnoise.noise import Noise
from symnoise.training import Dials, SymNoiseSFTTrainer, SymNoiseTrainer, attach
from tests.tiny import tiny, tiny_tokenizer
from tests.training.ragged import PLAIN_SGD, Gradients, collate, in_order, rows

SIZE, ACCUMULATION, SEED = 2, 2, 3
DIALS = Dials(0.5, 2.0)


def steps(folder: str) -> None:
    """What each of the processes does."""
    settings = {
        "output_dir": folder,
        "per_device_train_batch_size": SIZE,
        "gradient_accumulation_steps": ACCUMULATION,
        "max_steps": 1,
        "save_strategy": "no",
        **PLAIN_SGD,
    }
    noise = Noise.symnoise(5.0)
    found = {}
    for dials, mode in itertools.product((None, DIALS), ("doubled", "two-pass", "sft")):
        gradients = Gradients()
        more = {"noise": noise, "noise_seed": SEED, "callbacks": [gradients], "dials": dials}
        if mode == "sft":
            trainer = SymNoiseSFTTrainer(
                model=tiny("llama"),
                args=SFTConfig(**settings, bf16=False, max_length=None),
                train_dataset=Dataset.from_list(rows()),
                processing_class=tiny_tokenizer(),
                **more,
            )
        else:
            trainer = SymNoiseTrainer(
                model=tiny("llama"),
                args=TrainingArguments(**settings),
                train_dataset=rows(),
                data_collator=collate,
                pair_mode=mode,
                **more,
            )
        in_order(trainer).train()
        assert trainer.args.world_size == 2
        found[mode, dials is not None] = (trainer.state.log_history[0], gradients.steps[0])
    _fsdp2(int(os.environ["RANK"]))
    if trainer.is_world_process_zero():
        torch.save(found, f"{folder}/found.pt")


def _fsdp2(rank: int) -> None:
    """With sharded weights, the embedding table's included, the noise is the same and nothing else changes."""
    mesh, batch, losses = init_device_mesh("cpu", (2,)), collate(rows()[4 * rank : 4 * rank + 4]), []
    for sharded in (False, True):
        model = tiny("llama").train()
        if sharded:
            fully_shard(model, mesh=mesh)
        with attach(model, Noise.neftune(5.0)) as noise:
            losses.append(model(**batch).loss)
            losses[-1].backward()
            assert (noise.fired, noise.rank) == (1, rank)
    assert torch.allclose(losses[0], losses[1], rtol=1e-6)
