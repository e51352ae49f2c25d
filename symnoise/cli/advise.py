"""`symnoise advise`: which α, from a user's own model and rows."""

import math
import time
from functools import partial
from pathlib import Path
from typing import Any

from symnoise.cli.budget import random_rows
from symnoise.cli.shared import (
    PLAIN,
    dtype_named,
    filling,
    kept_facts,
    load_with_template,
    long_work,
    positive,
    show,
    source_facts,
    value_and_interval,
    write,
)
from symnoise.core import InputError, track, write_atomically
from symnoise.core.batch_records import BatchRecords, Kept, key_of
from symnoise.data import collate
from symnoise.models import EmbeddingLoss
from symnoise.training.advice import (
    ALPHAS,
    BEST_RATIO,
    PAIR_COST,
    AtAlpha,
    advice,
    alpha_of_ratio,
    at_each_alpha,
    measure_rows,
)
from symnoise.training.budget import Record, VarianceBudget, variance_budget

_BATCH = 2  # ρ is the same for batches of any size, since both its variances fall as 1/size, and small ones are cheap
_LEAST_BATCHES = 3  # for a variance budget
_GRADIENT_DRAWS = 2  # the fewest of a variance budget: the error of ρ is over batches
_QUICK = {"examples": 6, "draws": 2, "max_length": 64}  # at most; four minutes for SmolLM2 on two idle cores
_DPI = 300  # of a .png, as in print
_PUBLISHED = "not known here: no public config of LLaMA-2-7B has its embedding norms, which r needs"
_NOTES = (
    "r: ‖ε_t‖/‖x_t‖, median and middle half of tokens; slope and ratio of means: a pair’s excess loss against "
    "½εᵀHε, both 1 where the quadratic theory holds (to 10 %); cancelled ÷ kept: first-order part of the loss, which "
    "a pair cancels, against the second-order part, which it keeps; ρ: a pair acts on the gradient’s variance like a "
    "batch at most 1 + ρ times as large, and costs as much as one twice as large. 95 % intervals, over rows or batches."
)


def advise(
    *,
    model: str,
    data: str,
    examples: int,
    max_length: int,
    draws: int,
    quick: bool,
    chat_template: Path | None,
    strict: bool,
    dtype: str,
    device: str,
    seed: int,
    json: Path | None,
    figure: Path | None,
) -> None:
    """Print, and write, the table over α and the two sentences."""
    if quick:
        examples, draws, max_length = (
            min(given, _QUICK[name])
            for name, given in (("examples", examples), ("draws", draws), ("max_length", max_length))
        )
    positive("--draws", draws)
    if examples < _BATCH * _LEAST_BATCHES or examples % _BATCH:
        raise InputError(f"--examples must be an even number, {_BATCH * _LEAST_BATCHES} or more; got {examples}")
    started, batch_records = time.perf_counter(), BatchRecords(json)
    with long_work(json, figure) as console:
        loaded = load_with_template(model, dtype_named(dtype), device, chat_template)
        rows, because = random_rows(loaded, data, examples, max_length, seed, strict, "--examples")
        settings = {"draws": draws, "max_length": max_length, "dtype": dtype, "device": device, "seed": seed}
        base = settings | {"alphas": ALPHAS, "gradient draws": _GRADIENT_DRAWS} | kept_facts(loaded, json)
        records, budgets = _measure(loaded, rows, settings, base, batch_records, console)
        found = at_each_alpha(records, budgets)
        if figure is not None:
            from symnoise.plot.advice import draw

            write_atomically(figure, partial(draw(found).savefig, dpi=_DPI))
    seconds = time.perf_counter() - started
    full = filling(rows, max_length)
    facts = {"examples": examples, "rows_at_max_length": full, **settings}
    facts |= source_facts(loaded, data, rows, because, chat_template=chat_template, strict=strict)
    write(json, facts | _result(found) | {"seconds": seconds}, loaded)
    batch_records.remove()
    _print(f"{loaded.name} on {data}: {examples} rows", found, _cost(len(rows), draws, seconds))
    if full:
        print(
            f"{full} of {examples} rows fill --max-length {max_length}, and the noise of a token falls with its row's "
            "length: give the --max-length that you train with, or take √(length in training ÷ length here) times α."
        )


def _measure(
    loaded: Any,
    rows: list[dict[str, list[int]]],
    settings: dict[str, Any],
    base: dict[str, Any],
    batch_records: BatchRecords,
    console: Any,
) -> tuple[list[Record], list[VarianceBudget]]:
    """Records of `measure_rows`, and the variance budget, of the same batches; those kept are not measured again."""
    texts = [rows[i : i + _BATCH] for i in range(0, len(rows), _BATCH)]
    curves = Kept(batch_records, [key_of("loss", base, j, text) for j, text in enumerate(texts)])
    gradients = Kept(batch_records, [key_of("gradient", base, j, texts[: j + 1]) for j in range(len(texts))])
    if done := len(curves) + len(gradients):
        console.print(f"symnoise: {done} of {2 * len(texts)} measurements are done, by an earlier run", **PLAIN)
    inputs = [collate(text, loaded.tokenizer) for text in texts]
    for j in track(range(len(texts)), "losses of 2 rows"):
        if j not in curves:
            loss = EmbeddingLoss(loaded.model, inputs[j], range(j * _BATCH, (j + 1) * _BATCH))
            curves[j] = measure_rows(loss, settings["draws"], settings["seed"])
    budgets = variance_budget(loaded.model, inputs, ALPHAS, None, _GRADIENT_DRAWS, settings["seed"], gradients)
    return [curves[j] for j in range(len(texts))], budgets


def _result(found: list[AtAlpha]) -> dict[str, Any]:
    attempt, expect = advice(found)
    return {
        "rows": [_row(one) for one in found],
        "alpha_to_try": alpha_of_ratio(found, BEST_RATIO),
        "published_recipes": None,
        "pair_cost": PAIR_COST,
        "try": attempt,
        "do_not_expect": expect,
    }


def _row(one: AtAlpha) -> dict[str, Any]:
    low, median, high = one.ratio
    row = {"alpha": one.alpha, "ratio": {"median": median, "low_quartile": low, "high_quartile": high}}
    for name, pooled in (("slope", one.slope), ("ratio_of_means", one.mean)):
        row[name] = {key: getattr(pooled, key) for key in ("value", "stderr", "low", "high", "unbounded")}
    cancelled = {key: getattr(one.cancelled, key) for key in ("value", "low", "high")}
    return row | {"quadratic": one.quadratic, "cancelled": cancelled, "rho": value_and_interval(one.rho)}


def _cost(rows: int, draws: int, seconds: float) -> str:
    """In passes of a row, which a larger model and other lengths share, and in seconds."""
    backward = rows * (1 + 2 * _GRADIENT_DRAWS * len(ALPHAS))
    forward = rows * (2 * draws * len(ALPHAS) + 1)
    products = rows * draws
    return (
        f"{forward} forward passes, {backward} with backward and {products} Hessian products of a row: {seconds:.0f} s"
    )


def _print(title: str, found: list[AtAlpha], cost: str) -> None:
    columns = ("α", "r", "slope", "ratio of means", "quadratic?", "cancelled ÷ kept", "ρ")
    show(title, columns, [_cells(one) for one in found], _NOTES)
    attempt, expect = advice(found)
    print(f"\n{attempt}\n{expect}")
    print(f"α with the r of the published recipes (LLaMA-2-7B, α = 5, 10, 15): {_PUBLISHED}.")
    print(f"Cost: {cost}.")


def _cells(one: AtAlpha) -> tuple[str, ...]:
    low, median, high = one.ratio
    return (
        f"{one.alpha:g}",
        _over(median, low, high),
        *(_over(pooled.value, pooled.low, pooled.high) for pooled in (one.slope, one.mean)),
        one.quadratic,
        _over(one.cancelled.value, one.cancelled.low, one.cancelled.high),
        _over(float(one.rho), *map(float, one.rho.interval())),
    )


def _over(value: float, low: float, high: float) -> str:
    """The value over its interval: side by side they are too wide for a terminal of 80 columns."""
    span = f"{low:.2g} to {high:.2g}" if math.isfinite(low) and math.isfinite(high) else "unbounded"
    return f"{value:.2g}\n{span}"
