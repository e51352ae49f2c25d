"""The effect of training in bf16 autocast, if `experiments.study.precision` has measured it."""

from pathlib import Path

import pandas as pd

from result_schema.study import PRECISION
from symnoise.plot.numbers import number, plural


def precision(folder: Path) -> str:
    """A sentence on the held-out loss in both precisions, or "" if a study has no such comparison."""
    if not (folder / PRECISION).is_file():
        return ""
    table = pd.read_csv(folder / PRECISION)
    end = table[table.step == table.step.max()]
    seeds = plural(len(end), "seed")
    said = f"bf16 autocast compared with float32, plain fine-tuning with {seeds}: held-out loss at the end differs by "
    said += f"{number(end.difference.mean())} on average, and by {number(table.difference.abs().max())} at most at any "
    said += "point of the curve"
    if len(end) > 1:
        said += f"; between seeds it has a standard deviation of {number(end.float32.std())}"
    return f"{said}."
