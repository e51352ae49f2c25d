"""Run by test_study_cluster.py: one process of two that train runs of a study."""

import json
import os
from dataclasses import replace
from pathlib import Path

from experiments.study import train as step
from experiments.study.spec import load_study
from symnoise.finetune.dry_run import fsdp_on_cpu
from symnoise.training import SymNoiseTrainer


def studies(folder: Path) -> None:
    """A run of each study there; then one that diverges on process 1."""
    with fsdp_on_cpu():
        for file, run in json.loads((folder / "runs.json").read_text()):
            study = load_study(folder / file)
            step.train(study, study.run(run), folder / study.name)
        if os.environ["RANK"] == "1":
            usual = SymNoiseTrainer.compute_loss
            SymNoiseTrainer.compute_loss = lambda *args, **kwargs: usual(*args, **kwargs) * float("nan")
        step.train(replace(study, name="diverging"), study.run(run), folder / "diverging")
