"""Run by test_study_cluster.py: one process of two that train runs of a study."""

import json
import os
from dataclasses import replace
from pathlib import Path

import torch

from experiments.study import train as step
from experiments.study.spec import load_study
from symnoise.finetune.dry_run import fsdp_on_cpu
from symnoise.training import SymNoiseTrainer


def one_of_two(rank: int, port: int, folder: str) -> None:
    """What `accelerate launch --config_file fsdp2.yaml` would start as process `rank` of two, for each study there."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", **address})
    os.environ.update({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"})
    os.environ.update({"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"})
    torch.set_num_threads(1)
    with fsdp_on_cpu():
        for file, run in json.loads((Path(folder) / "runs.json").read_text()):
            study = load_study(Path(folder) / file)
            step.train(study, study.run(run), Path(folder) / study.name)
        if rank == 1:
            usual = SymNoiseTrainer.compute_loss
            SymNoiseTrainer.compute_loss = lambda *args, **kwargs: usual(*args, **kwargs) * float("nan")
        step.train(replace(study, name="diverging"), study.run(run), Path(folder) / "diverging")
