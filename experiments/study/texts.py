"""Which rows of a data set are held out, fine-tuned on, and left for pretraining."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from experiments.rows import first_usable
from experiments.study.spec import Study
from symnoise.core import InputError, generator
from symnoise.data import Data, Example, collate, encode_row, load_data


@dataclass(frozen=True)
class Split:
    """Disjoint rows: `held_out` for measuring, `pool` from which each seed draws its training rows, and the `rest`."""

    held_out: list[Example]
    pool: list[Example]
    rest: list[Example]
    data: Data


@cache
def split(study: Study) -> Split:
    """The rows in a random order (the same for every study), split in three."""
    data = load_data(study.data)
    order = torch.randperm(len(data), generator=generator(0, "study rows")).tolist()
    rows = [data[i] for i in order]
    # Twice what is needed, since rows without room for a reply are skipped once there is a tokenizer.
    # A data set barely larger than the pool has fewer; `_fitting` reports when they are too few.
    held, pool = 2 * study.held_out_rows, 2 * study.training.pool
    if len(rows) < held + study.training.pool:
        raise InputError(
            f"{study.data} has {len(rows)} rows, the study needs {held + study.training.pool}: lower training.pool or "
            "measuring.held_out"
        )
    return Split(rows[:held], rows[held : held + pool], rows[held + pool :], data)


def held_out(study: Study, tokenizer: Any, model: Any) -> list[Example]:
    """The held-out rows that fit, the same for every run."""
    skip, wanted = study.measuring.skip, study.measuring.held_out
    return _fitting(split(study).held_out, skip + wanted, study, tokenizer, model)[skip:]


def held_out_batches(study: Study, tokenizer: Any, model: Any, size: int) -> list[tuple[list[int], dict[str, Tensor]]]:
    """The held-out rows `size` at a time."""
    rows = [
        encode_row(example, tokenizer, max_length=study.training.max_length, model=model)
        for example in held_out(study, tokenizer, model)
    ]
    return in_batches(rows, tokenizer, size)


def in_batches(rows: list[Any], tokenizer: Any, size: int) -> list[tuple[list[int], dict[str, Tensor]]]:
    """Encoded rows as (row numbers, batch), `size` at a time; rows of similar length together, for little padding."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    parts = [order[at : at + size] for at in range(0, len(order), size)]
    return [(part, collate([rows[i] for i in part], tokenizer)) for part in parts]


def training_rows(study: Study, seed: int, tokenizer: Any, model: Any) -> list[dict[str, list[int]]]:
    """The encoded training rows of one seed, drawn from the pool; the same for every arm."""
    pool = _fitting(split(study).pool, study.training.pool, study, tokenizer, model)
    chosen = torch.randperm(len(pool), generator=generator(seed, "training rows"))[: study.training.rows].tolist()
    rows = [encode_row(pool[i], tokenizer, max_length=study.training.max_length, model=model) for i in chosen]
    return flipped(rows, study.training.flips, len(tokenizer), seed) if study.training.flips else rows


def flipped(rows: list[dict[str, list[int]]], share: float, vocabulary: int, seed: int) -> list[dict[str, list[int]]]:
    """`rows` with each scored label replaced, with probability `share`, by any token; inputs are unchanged."""
    random, found = generator(seed, "flips"), []
    for row in rows:
        labels = torch.tensor(row["labels"])
        hit = (torch.rand(len(labels), generator=random) < share) & (labels != -100)
        other = torch.randint(vocabulary, (len(labels),), generator=random)
        found.append({**row, "labels": torch.where(hit, other, labels).tolist()})
    return found


def _fitting(rows: list[Example], wanted: int, study: Study, tokenizer: Any, model: Any) -> list[Example]:
    length = study.training.max_length
    return first_usable(rows, wanted, tokenizer, model, length, data=study.data, key="training.max_length")
