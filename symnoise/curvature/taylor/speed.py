"""Whether bfloat16 derivatives are faster than float32 ones on this machine."""

import json
import math
import platform
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch.nn import functional as F

from symnoise.core import InputError, write_json
from symnoise.models.converted import cache_folder

# Matrix products that are less than this much faster do not pay for the pairs of two levels.
_LEAST = 1.5
# One layer's product in a small model: width in, width out, and rows of tokens and probes by kind of device. A GPU that
# has fewer rows to do is not busy, and as fast in either precision.
_IN, _OUT, _ROWS = 576, 1536, {"cpu": 512, "cuda": 32_768}
_REPEATS = 5


def bfloat16_is_faster(device: torch.device) -> bool:
    """Whether a bfloat16 matrix product on `device` takes less than 1/1.5 of the time of a float32 one.

    Measured once per machine, in about 0.1 s, and kept in speed.json in the cache folder, by processor, number of
    threads and version of PyTorch: so a rerun decides alike.
    """
    return _speedup(str(device), _machine(device)) >= _LEAST


@cache
def _speedup(device: str, machine: str) -> float:
    """Time of a float32 product over that of a bfloat16 one."""
    file = cache_folder() / "speed.json"
    kept = _read(file)
    if machine not in kept:
        times = {dtype: _seconds(torch.device(device), dtype) for dtype in (torch.float32, torch.bfloat16)}
        kept[machine] = times[torch.float32] / times[torch.bfloat16]
        with suppress(InputError, OSError):  # without a writable cache, the next process measures again
            write_json(file, _read(file) | kept)
    return kept[machine]


def _read(file: Path) -> dict[str, float]:
    """What is kept; nothing if the file is missing or damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: ratio for name, ratio in found.items() if isinstance(ratio, float) and math.isfinite(ratio)}


def _rows(device: torch.device) -> int:
    return _ROWS.get(device.type, _ROWS["cpu"])


def _machine(device: torch.device) -> str:
    name = f"{_processor()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}, {_rows(device)} rows"
    return f"{name}, torch {torch.__version__}"


def _processor() -> str:
    """platform.processor() is empty on most Linux systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    """Of one product, the best of a few: others may use the machine."""
    x, weight = (torch.ones(rows, _IN, device=device, dtype=dtype) for rows in (_rows(device), _OUT))
    found = []
    for _ in range(1 + _REPEATS):  # the first warms up
        started = time.perf_counter()
        with torch.no_grad():
            F.linear(x, weight)[0, 0].item()  # waits for a GPU
        found.append(time.perf_counter() - started)
    return min(found[1:])
