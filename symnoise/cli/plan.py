"""`symnoise plan`: memory, probes and time of tr H before anything is downloaded."""

import math
import re
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from symnoise.cli.shared import PLAIN, dtype_named, long_work, positive, show, write
from symnoise.core import InputError
from symnoise.curvature.planning import RELATIVE_DEVIATION, Plan, Speed, Task, measured_speed, plans, probes_for
from symnoise.curvature.taylor.memory import free_memory, memory_limit
from symnoise.models.loading import load_config
from symnoise.models.outline import class_for

_METHODS = {"Taylor mode": "taylor", "Taylor mode, streamed": "taylor --stream", "Hessian products": "hvp"}
_UNITS = {"GiB": 2**30, "MiB": 2**20, "GB": 10**9, "MB": 10**6}


def plan(
    *,
    model: str,
    examples: int,
    max_length: int,
    batch: int,
    rtol: float,
    probes: int | None,
    dtype: str,
    gpu: str | None,
    flops: float | None,
    bandwidth: float | None,
    json: Path | None,
) -> None:
    """Print, and write, the memory and time of each way to measure tr H."""
    for option, value in (("--examples", examples), ("--max-length", max_length), ("--batch", batch)):
        positive(option, value)
    count = probes_for(rtol, examples) if probes is None else probes
    positive("--probes", count)
    if max_length < 2:
        raise InputError("--max-length must be 2 or more: nothing can be predicted in one token")
    task = Task(examples, batch, max_length, count, dtype_named(dtype))
    card = None if gpu is None else _bytes(gpu)
    config = load_config(model)
    speed = _speed(flops, bandwidth, task.dtype, card)
    limit = memory_limit(torch.device("cpu")) if card is None else card
    with long_work(json) as console:
        console.print(f"symnoise: simulating {model}, layer by layer", **PLAIN)
        found = plans(config, task, speed, limit, card=card is not None)
    result = _result(model, config, task, speed, found, card) | {"rtol": rtol if probes is None else None}
    result["command"] = _command(result)
    write(json, result)
    _print(result, measured=flops is None)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([0-9.]+) ?(GiB|MiB|GB|MB)", text)
    if not found or found[1].count(".") > 1 or not float(found[1]) > 0:
        raise InputError(f"--gpu is an amount of memory, such as 24GiB; got {text!r}")
    return int(float(found[1]) * _UNITS[found[2]])


def _speed(flops: float | None, bandwidth: float | None, dtype: torch.dtype, card: int | None) -> Speed:
    """As given, or this machine's; NaN for a card, of which nothing else is known."""
    if flops is None and bandwidth is None:
        return measured_speed(dtype) if card is None else Speed(math.nan, math.nan)
    if flops is None or bandwidth is None or not min(flops, bandwidth) > 0:
        raise InputError("--flops and --bandwidth, both above 0, are given together")
    return Speed(flops, bandwidth)


def _result(name: str, config: Any, task: Task, speed: Speed, found: list[Plan], card: int | None) -> dict[str, Any]:
    memory = free_memory() if card is None else card
    counted_as = class_for(config)._model_mapping[type(config)].__name__
    return {
        "model": name,
        "architecture": (config.architectures or [counted_as])[0],
        "counted_as": counted_as,
        "examples": task.examples,
        "tokens": task.tokens,
        "batch": task.batch,
        "dtype": str(task.dtype).removeprefix("torch."),
        "probes": task.probes,
        "gpu_bytes": card,
        "memory_bytes": memory,
        "flops_per_second": speed.flops,
        "bytes_per_second": speed.bandwidth,
        "plans": [vars(one) | {"fits": None if one.memory is None else one.memory <= memory} for one in found],
    }


def _command(result: dict[str, Any]) -> str | None:
    """The measurement by the first plan that fits; None without one.

    With the number of probes that was planned: a --rtol of `symnoise curvature` would be that of each batch.
    """
    usable = (one for one in result["plans"] if one["fits"])
    first = next(usable, None)
    if first is None:
        return None
    size = f"--examples {result['examples']} --max-length {result['tokens']} --batch {result['batch']}"
    where = "" if result["gpu_bytes"] is None else " --device cuda"
    return (
        f"symnoise curvature --model {result['model']} --data DATA {size} --probes {result['probes']} "
        f"--dtype {result['dtype']} --method {_METHODS[first['name']]}{where}"
    )


def _advice(result: dict[str, Any]) -> str:
    """What to type, or what else to try."""
    if result["command"] is None:
        return "None fits: try a smaller --batch or --max-length, or --dtype bfloat16."
    whole = result["plans"][0]
    streamed = "--stream" in result["command"] and not whole["obstacle"]
    why = "; layers must be streamed to fit" if streamed else ""
    return f"To measure{why}: {result['command']}"


def _print(result: dict[str, Any], *, measured: bool) -> None:
    rows = [
        (one["name"], one["obstacle"], "", "", "", "")
        if one["obstacle"]
        else (
            one["name"],
            f"{one['memory'] / 2**30:.2f} GiB",
            "yes" if one["fits"] else "no",
            str(one["at_once"]),
            "" if math.isnan(one["forwards"]) else f"{one['forwards']:.0f}",
            _duration(one["seconds"]),
        )
        for one in result["plans"]
    ]
    show(
        f"tr H of {result['model']} ({result['architecture']}): {result['examples']} "
        f"example{'' if result['examples'] == 1 else 's'} of {result['tokens']} tokens, {result['probes']} probes each",
        ("", "memory", "fits", "probes per pass", "forwards", "time"),
        rows,
        _basis(result, measured),
    )
    Console().print(_advice(result), **PLAIN)


def _basis(result: dict[str, Any], measured: bool) -> str:
    """What the numbers rest on."""
    free = f"{result['memory_bytes'] / 2**30:.1f} GiB"
    parts = [f"Fits: into {free}{', free on this machine now' if result['gpu_bytes'] is None else ''}."]
    if math.isnan(result["flops_per_second"]):
        parts.append("Forwards and time: give the card's --flops and --bandwidth, as reached in your work.")
    else:
        where = "measured on this machine's CPU" if measured else "as given"
        parts.append(
            f"Time at {result['flops_per_second'] / 1e9:.3g} Gflop/s in matrix products and "
            f"{result['bytes_per_second'] / 1e9:.3g} GB/s elsewhere, {where}; forwards are of one batch."
        )
    if result["rtol"] is not None:
        parts.append(
            f"Probes: standard deviation of one probe {RELATIVE_DEVIATION:.1f} times the mean trace, as on SmolLM2; "
            "other models and texts differ."
        )
    if result["architecture"] != result["counted_as"]:
        parts.append(f"Unknown to Transformers: counted as a {result['counted_as']} of the same sizes.")
    return " ".join(parts)


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
