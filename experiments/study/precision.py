"""The effect of bf16 autocast in a study: its arm `none` trained again in float32, seed by seed.

    python -m experiments.study.precision experiments/configs/studies/smollm2.yaml

Rows, their order and initial weights are those of the study's own runs, which must be there. The float32 runs are
in their own folder next to them, and are resumed and kept like any other. What the two precisions take is timed by
`experiments.bench.training`, where both run in turn.
"""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.study.base import base
from experiments.study.command import study_command
from experiments.study.results import records
from experiments.study.spec import Study
from experiments.study.train import train
from result_schema.study import PRECISION
from symnoise.core import InputError, write_atomically

ARM, LOSS = "none", "held-out loss"


def precision(study: Study, folder: Path, results: Path = Path("results")) -> None:
    """Write results/STUDY/precision.csv: seed, step, the held-out loss (nats) in both, and their difference.

    Written after every seed, so an interrupt keeps the finished ones.
    """
    own, other = study.training.precision, "float32"
    if own == other:
        raise InputError(f"{study.name} trains in float32; set training.precision: bf16 to compare the two")
    twin = replace(study, training=replace(study.training, precision=other))
    beside, found = folder.parent / twin.key, []
    runs = [run for run in study.runs if run.arm == ARM]
    made = {run: records(folder / run.name / "train.json") for run in runs}
    if not (beside / "base.json").is_file():
        base(twin, beside)
    for run in runs:
        place = beside / run.name
        if not (place / "train.json").is_file():
            train(twin, run, beside)
            shutil.rmtree(place / "weights")
        twin_made = records(place / "train.json")
        if twin_made["data_sha256"] != made[run]["data_sha256"]:
            raise InputError(f"{study.data} had other contents when {place} was made: delete that folder and run again")
        if twin_made["processor"] != made[run]["processor"]:
            raise InputError(f"{place} is of another processor than the study: delete it and run again on that one")
        losses = {own: _curve(made[run]), other: _curve(twin_made)}
        found.append(pd.DataFrame(losses).rename_axis("step").reset_index().assign(seed=run.seed))
        table = pd.concat(found, ignore_index=True)
        table["difference"] = table[own] - table[other]
        table = table[["seed", "step", own, other, "difference"]]
        write_atomically(results / study.name / PRECISION, partial(table.to_csv, index=False))


def _curve(train_record: dict[str, Any]) -> dict[int, float]:
    return {point["step"]: point[LOSS] for point in train_record["curve"]}


if __name__ == "__main__":
    study_command(precision)()
