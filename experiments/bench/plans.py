"""What `symnoise plan` computes beforehand, against what is measured: three sizes, Taylor mode and Hessian products.

One process per row, each one batch of 4 rows of 128 tokens and 16 probes, on random weights but for SmolLM2. All on one
thread and in processor time, which does not count what else runs on the machine. Forwards are plain forward passes
around the work; the machine's speed is measured before and after it, and the faster counts.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.bench.process import (
    ROWS,
    SCORED,
    TOKENS,
    Call,
    Kept,
    Row,
    batch,
    measured,
    model_of,
)
from symnoise.curvature import trace
from symnoise.curvature.planning import Plan, Speed, Task, measured_speed, plans, weight_bytes
from symnoise.curvature.taylor.memory import memory_limit
from symnoise.models import EmbeddingLoss

PROBES, FORWARDS, ENOUGH_S = 16, 3, 20.0
SIZES: dict[str, dict[str, Any]] = {
    "10M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "vocab_size": 8_192},
    "50M": {"hidden_size": 448, "intermediate_size": 1_280, "num_hidden_layers": 15, "vocab_size": 24_576},
    "SmolLM2": {},
}
METHODS = {"taylor": "Taylor mode", "hvp": "Hessian products"}
KEY = ["model", "method"]


def measure(row: Row) -> Row:
    """Planned and measured: memory above the weights, GiB; forwards; seconds of one trace."""
    model = _model(row)
    loss = EmbeddingLoss(model, batch(model.config.vocab_size, ROWS, TOKENS, SCORED))
    torch.set_num_threads(1)
    limit = memory_limit(torch.device("cpu"))
    speed = measured_speed(torch.float32, time.process_time)
    forwards: list[float] = []
    times: list[float] = []
    with measured(True, loss.plain) as record:
        while len(times) < 2 and sum(times) < ENOUGH_S:
            forwards += [_seconds(loss.plain) for _ in range(FORWARDS)]
            times.append(_seconds(lambda: trace(loss, method=row["method"], probes=PROBES)))
        forwards += [_seconds(loss.plain) for _ in range(FORWARDS)]
    again = measured_speed(torch.float32, time.process_time)
    speed = Speed(max(speed.flops, again.flops), max(speed.bandwidth, again.bandwidth))
    plan = planned(model.config, row["method"], speed, limit)
    assert plan.memory is not None
    weights, _ = weight_bytes(model)
    return {
        **{name: row[name] for name in KEY},
        "weights_gib": weights / 2**30,
        "planned_gib": (plan.memory - weights) / 2**30,
        "measured_gib": record.pop("memory_gib"),
        "planned_forwards": plan.forwards,
        "measured_forwards": min(times) / statistics.median(forwards),
        "planned_s": plan.seconds,
        "measured_s": min(times),
        **record,
        "forward_s": statistics.median(forwards),
        "flops_per_second": speed.flops,
        "bytes_per_second": speed.bandwidth,
    }


def planned(config: Any, method: str, speed: Speed, limit: int) -> Plan:
    """The plan of one method for the batch and probes of a row."""
    found = plans(config, Task(ROWS, ROWS, TOKENS, PROBES, torch.float32), speed, limit, card=False)
    (plan,) = (one for one in found if one.name == METHODS[method])
    return plan


def _seconds(work: Call) -> float:
    """Of processor time."""
    started = time.process_time()
    work()
    return time.process_time() - started


def _model(row: Row) -> Any:
    sizes = SIZES[row["model"]]
    if row["smoke"] or not sizes:
        return model_of(row)
    with torch.random.fork_rng(devices=[]):
        heads = sizes["hidden_size"] // 64
        return LlamaForCausalLM(LlamaConfig(num_attention_heads=heads, num_key_value_heads=heads, **sizes)).eval()


def run(smoke: bool, say: Callable[[str], None], kept: Kept) -> list[Row]:
    """Every row."""
    records = []
    for model in SIZES:
        for method, name in METHODS.items():
            say(f"plan and measurement: {model}, {name}")
            records.append(kept.in_process("plans", {"model": model, "method": method, "smoke": smoke}))
    return records
