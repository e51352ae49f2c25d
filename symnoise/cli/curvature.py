"""`symnoise curvature`: traces of the Hessian and of its Gauss-Newton part, over any number of processes."""

import math
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from symnoise.cli.processes import agreed, first_on_its_machine, own_device, processes
from symnoise.cli.shards import Record, measured
from symnoise.cli.shared import (
    PLAIN,
    Text,
    batches,
    draw,
    kept_facts,
    load,
    long_work,
    positive,
    show,
    value_and_error,
    write,
)
from symnoise.core import Estimate, peak_rss_mib, plus_minus, student_t, unknown
from symnoise.core.batch_records import BatchRecords
from symnoise.curvature import gauss_newton_trace, trace, trace_parts
from symnoise.curvature.estimators.targets import ErrorTargets
from symnoise.curvature.estimators.two_levels import TWO_LEVELS
from symnoise.curvature.options import Options
from symnoise.curvature.taylor.memory import chunk_size, memory_estimate, memory_limit
from symnoise.curvature.trace import DIRECTIONS, METHODS, PRECISIONS
from symnoise.models import EmbeddingLoss

if TYPE_CHECKING:
    import pandas as pd

_WITH_PARTS = ("auto", "taylor", TWO_LEVELS, "hvp")
_ROWS_SHOWN = 20


def curvature(
    *,
    method: str,
    probes: int,
    directions: str,
    rtol: float | None,
    atol: float | None,
    sign: bool,
    max_probes: int,
    precision: str,
    batch: int,
    dtype: str,
    device: str,
    seed: int,
    json: Path | None,
    figure: Path | None,
    **source: Any,
) -> None:
    """Print, and write, tr H and tr G of every example; under torchrun each process measures some of them."""
    options = {"method": method, "probes": probes, "seed": seed, "directions": directions, "rtol": rtol, "atol": atol}
    options |= {"sign": sign, "max_probes": max_probes, "precision": precision}
    _require_known(options)
    positive("--batch", batch)
    records = BatchRecords(json)
    with long_work(json, figure, alone=False) as console, processes() as us:
        own = agreed(lambda: own_device(us, device))
        text = first_on_its_machine(us, lambda: load(dtype=dtype, device=own, **source))
        runs = batches(len(text), batch)
        settings = options | {"layer": text.layer, "device": device[:4]} | kept_facts(text.model, json)
        if method in ("auto", "taylor", TWO_LEVELS) and us.is_main_process:
            console.print(_memory_line(text, runs, options), **PLAIN)
        forward = _ForwardTimer()
        found, resumed = measured(
            text,
            runs,
            lambda ids: _measure(text.loss(ids), options, forward),
            settings=settings,
            us=us,
            records=records,
            console=console,
        )
        result = _result(text, found, options) | {"batch": batch, "processes": us.num_processes}
        result["resumed_examples"] = resumed
        agreed(lambda: write(json, result, text.model) if us.is_main_process else None)
        records.remove()
    if us.is_main_process:
        apart = "" if method in _WITH_PARTS else " tr G is sampled, by --method auto."
        _print(result, apart + text.notes())
        draw(figure, "trace", _table(result["per_example"]))


def _require_known(options: dict[str, Any]) -> None:
    """`InputError` for a method, law of probes or precision that is not there, less than one probe, or a bad target."""
    for name, known in (("method", METHODS), ("directions", DIRECTIONS), ("precision", PRECISIONS)):
        if options[name] not in known:
            raise unknown(name, options[name], known)
    positive("--probes", options["probes"])
    _targets(options)


def _measure(loss: EmbeddingLoss, estimator: dict[str, Any], forward: "_ForwardTimer") -> Record:
    """The record of one batch, in JSON types."""
    seconds = forward.seconds(loss)
    if estimator["method"] in _WITH_PARTS:
        found = trace_parts(loss, **estimator)
        hessian, gauss_newton = found.hessian, found.gauss_newton
    else:
        hessian = trace(loss, **estimator)
        gauss_newton = gauss_newton_trace(loss, **estimator | {"method": "auto"})
    columns = {
        "example": loss.ids,
        "tokens": loss.lengths.tolist(),
        "scored_tokens": loss.scored_tokens.tolist(),
        "mean_square": loss.mean_square.tolist(),
        "probes": [hessian.count] * len(loss.ids),
        "trace": hessian.value.tolist(),
        "stderr": hessian.stderr.tolist(),
        "gauss_newton_trace": gauss_newton.value.tolist(),
        "gauss_newton_stderr": gauss_newton.stderr.tolist(),
        "dof": [min(hessian.dof, gauss_newton.dof)] * len(loss.ids),
        "stopped": [hessian.stopped] * len(loss.ids),
    }
    pilot = estimator["probes"] if _targets(estimator) else 0
    return {
        "method": hessian.method,
        "products": hessian.count + pilot if hessian.count else loss.embeddings[0].numel(),
        "seconds": hessian.seconds,
        "forward_seconds": seconds,
        "peak_rss_mib": peak_rss_mib(),
        "examples": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    }


def _targets(options: dict[str, Any]) -> ErrorTargets:
    return ErrorTargets(options["rtol"], options["atol"], options["sign"])


def _memory_line(text: Text, runs: list[range], estimator: dict[str, Any]) -> str:
    """Memory of the largest batch in Taylor mode."""
    longest = max(runs, key=lambda ids: len(ids) * max(len(text.rows[i]["input_ids"]) for i in ids))
    loss, how = text.loss(longest), Options(**estimator, coefficients=None)
    probes, groups, coefficients = how.probes, how.sampler.groups, how.derivatives
    size = chunk_size(loss, probes, groups, memory_limit(loss.embeddings.device), coefficients)
    need = memory_estimate(loss, size, max(1, groups * size // probes), coefficients)
    amount = f"{need / 2**30:.1f} GiB" if need >= 2**30 else f"{need / 2**20:.0f} MiB"
    return f"symnoise: about {amount} of memory above the model, {size} of {probes} probes per pass"


def _result(text: Text, records: list[Record], options: dict[str, Any]) -> dict[str, Any]:
    examples = [example for record in records for example in record["examples"]]
    mean, gauss_newton_mean = (
        Estimate(
            torch.tensor([e[name] for e in examples], dtype=torch.float64),
            torch.tensor([e[error] for e in examples], dtype=torch.float64),
            count=options["probes"],
            dof=min(e["dof"] for e in examples),
        ).mean()
        for name, error in (("trace", "stderr"), ("gauss_newton_trace", "gauss_newton_stderr"))
    )
    products = sum(record["products"] * record["forward_seconds"] for record in records)
    seconds = sum(record["seconds"] for record in records)
    return {
        **text.facts(),
        "layer": text.layer,
        "trace": value_and_error(mean) | {"dof": mean.dof},
        "gauss_newton_trace": value_and_error(gauss_newton_mean) | {"dof": gauss_newton_mean.dof},
        "per_example": examples,
        "seconds": seconds,
        "forward_seconds": sum(record["forward_seconds"] for record in records),
        "forwards_per_probe": seconds / products,
        "peak_rss_mib": max(record["peak_rss_mib"] for record in records),
        **{("pilot_probes" if _targets(options) and name == "probes" else name): options[name] for name in options},
        "method": ", ".join(sorted({record["method"] for record in records})),
    }


def _table(examples: list[dict[str, Any]]) -> "pd.DataFrame":
    """What `symnoise.plot.trace` draws: tr H and tr G of each example with their 95 % intervals."""
    import pandas as pd

    rows = []
    for quantity, name in (("tr H", "stderr"), ("tr G", "gauss_newton_stderr")):
        for i, e in enumerate(examples):
            value = e["trace" if quantity == "tr H" else "gauss_newton_trace"]
            half = student_t(0.95, e["dof"]) * e[name]
            rows.append({"example": i, "quantity": quantity, "value": value, "low": value - half, "high": value + half})
    return pd.DataFrame(rows)


def _print(result: dict[str, Any], notes: str) -> None:
    examples, means = result["per_example"], (result["trace"], result["gauss_newton_trace"])
    rows = [
        (
            str(e["example"]),
            str(e["tokens"]),
            str(e["scored_tokens"]),
            plus_minus(e["trace"], e["stderr"]),
            plus_minus(e["gauss_newton_trace"], e["gauss_newton_stderr"]),
        )
        for e in examples[:_ROWS_SHOWN]
    ]
    if left := len(examples) - len(rows):
        rows.append((f"{left} more", "", "", "", ""))
    hessian, gauss_newton = (plus_minus(one["value"], one["stderr"]) for one in means)
    rows.append(("mean", "", "", hessian, gauss_newton))
    show(
        f"{result['model']} on {result['data']}: {result['method']}{_probes(examples)}{_layer(result)}",
        ("example", "tokens", "scored", "tr H", "tr G"),
        rows,
        f"{result['seconds']:.1f} s, {result['forwards_per_probe']:.2f} forward passes per probe{_stopped(examples)}."
        f"{_errors(examples)}{notes}",
    )


def _errors(examples: list[dict[str, Any]]) -> str:
    """What ± means, and how far an interval of the example with the fewest degrees of freedom reaches."""
    if not any(example[name] for example in examples for name in ("stderr", "gauss_newton_stderr")):
        return ""
    dof = min(example["dof"] for example in examples)
    if dof == 0:
        return ""
    freedom = "1 degree" if dof == 1 else f"{dof:g} degrees"
    reach = f" (of an example with {freedom} of freedom: its 95 % interval is ± {student_t(0.95, dof):.2g} of them)"
    return f" ± one standard error over probes{reach if math.isfinite(dof) else ''}."


def _stopped(examples: list[dict[str, Any]]) -> str:
    """Which targets ended the sampling, and for how many examples."""
    counts = Counter(example["stopped"] for example in examples if example["stopped"])
    return "; stopped by " + ", ".join(f"{why} ({counts[why]} of {len(examples)})" for why in counts) if counts else ""


def _probes(examples: list[dict[str, Any]]) -> str:
    """Number of probes per example; with --rtol batches may differ."""
    counts = sorted({example["probes"] for example in examples})
    few = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f", {few} probes" if counts[-1] else ", no probes"


def _layer(result: dict[str, Any]) -> str:
    return f", at layer {result['layer']}" if result["layer"] else ""


class _ForwardTimer:
    """Seconds of a plain forward pass with logits at the scored positions."""

    def __init__(self) -> None:
        self._warm = False

    def seconds(self, loss: EmbeddingLoss) -> float:
        """Best of three after a warm-up for the first batch; one pass for the others, since thousands may follow."""
        found = [_seconds_of_one(loss) for _ in range(1 if self._warm else 4)]
        self._warm = True
        return min(found[-3:])


def _seconds_of_one(loss: EmbeddingLoss) -> float:
    started = time.perf_counter()
    loss.plain().tolist()  # waits for a GPU
    return time.perf_counter() - started
