"""`symnoise budget`: the variance budget of a training step."""

import warnings
from collections import Counter
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from symnoise.cli.shared import (
    PLAIN,
    draw,
    dtype_named,
    kept_facts,
    load_with_template,
    long_work,
    numbers,
    positive,
    show,
    source_facts,
    value_and_interval,
    write,
)
from symnoise.core import InputError, generator
from symnoise.core.batch_records import BatchRecords, Kept, key_of
from symnoise.data import LeftOut, collate, fitting, load_data
from symnoise.models import LoadedModel
from symnoise.noise import Noise
from symnoise.training.budget import VarianceBudget, variance_budget

_SHOWN = {"batch": "V batch", "odd": "V odd", "even": "V even", "rho": "ρ", "cosine": "cos(E, g₀)"}
_NOTES = (
    "V: variance of the gradient due to the choice of rows, to the noise’s odd part and to its even part E; ρ: V odd ÷ "
    "V batch; g₀: gradient without noise; r: ‖ε_t‖ ÷ ‖x_t‖ of a token. Squared norm of the mean gradient {signal}; ± "
    "standard errors over batches"
)
_SHOWN |= {"shrinkage": "⟨E,g₀⟩/‖g₀‖²", "ratio": "r"}


def budget(
    *,
    model: str,
    data: str,
    alphas: str,
    noise: str,
    batch: int,
    batches: int,
    draws: int,
    max_length: int,
    chat_template: Path | None,
    strict: bool,
    dtype: str,
    device: str,
    seed: int,
    json: Path | None,
    figure: Path | None,
) -> None:
    """Print, and write, the `VarianceBudget` at each α."""
    strengths, law = numbers("--alphas", alphas), Noise.named(noise, 0.0)
    if law is None:
        raise InputError("noise 'none' has no variance; choose a noise such as rademacher")
    positive("--batch", batch)
    positive("--batches", batches)
    with long_work(json, figure) as console:
        loaded = load_with_template(model, dtype_named(dtype), device, chat_template)
        rows, because = random_rows(loaded, data, batch * batches, max_length, seed, strict, "--batch or --batches")
        texts = [rows[i : i + batch] for i in range(0, len(rows), batch)]
        settings = {"alphas": strengths, "noise": noise, "draws": draws, "dtype": dtype, "device": device, "seed": seed}
        records = BatchRecords(json)
        base = settings | kept_facts(loaded, json)
        kept = Kept(records, [key_of(base, j, texts[: j + 1]) for j in range(len(texts))])
        if len(kept):
            console.print(f"symnoise: {len(kept)} of {batches} batches are done by an earlier run", **PLAIN)
        inputs = [collate(text, loaded.tokenizer) for text in texts]
        found = variance_budget(loaded.model, inputs, strengths, law, draws, seed, kept)
    signal = found[0].signal
    show(
        f"{loaded.name} on {data}: {batches} batches of {batch} rows, {draws} draws of {noise} noise",
        ("α", *_SHOWN.values()),
        [(f"{one.alpha:g}", *(f"{getattr(one, name)}" for name in _SHOWN)) for one in found],
        _NOTES.format(signal=signal),
    )
    draw(figure, "variance_budget", found)
    facts = {"batch": batch, "batches": batches, "max_length": max_length, **settings}
    facts |= source_facts(loaded, data, rows, because, chat_template=chat_template, strict=strict)
    write(json, facts | {"rows": [_plain(one) for one in found]}, loaded)
    records.remove()


def random_rows(
    loaded: LoadedModel, data: str, count: int, max_length: int, seed: int, strict: bool, option: str
) -> tuple[list[dict[str, list[int]]], Counter[str]]:
    """`count` encoded rows, drawn at random without replacement from those that have something to score; and counts of
    the skipped rows, of the file and of those drawn, by reason. `option` sets the count."""
    given, unfit = load_data(data, strict=strict), LeftOut(strict)
    drawn = (given[i] for i in torch.randperm(len(given), generator=generator(seed, "budget rows")).tolist())
    fits = fitting(drawn, unfit.add, loaded.tokenizer, max_length=max_length, model=loaded.model)
    rows = [row for _, row in islice(fits, count)]
    if len(rows) < count:
        raise InputError(f"{data}: {len(rows)} rows fit {max_length} tokens, and {count} are needed; lower {option}")
    if unfit:
        warnings.warn(f"{data}: left out of the rows drawn: {unfit}", stacklevel=2)
    return rows, Counter(given.left_out) + Counter(unfit.counts)


def _plain(one: VarianceBudget) -> dict[str, Any]:
    """α, and the value, standard error and 95 % interval of each quantity."""
    names = [field.name for field in fields(one) if field.name != "alpha"]
    return {"alpha": one.alpha, **{name: value_and_interval(getattr(one, name)) for name in names}}
