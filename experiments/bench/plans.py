"""What `symnoise plan` computes beforehand, against what is measured: three sizes, Taylor mode and Hessian products.

One process per row. Both are for one batch of 4 rows of 128 tokens and 16 probes, on random weights but for SmolLM2.
Machine speed is measured in the same process just before and after the work, and the faster counts.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.bench.process import ROWS, SCORED, TOKENS, Clock, Row, batch, in_process, measured, model_of, seconds
from symnoise.curvature import trace
from symnoise.curvature.planning import Speed, Task, measured_speed, plans, weight_bytes
from symnoise.curvature.taylor.memory import memory_limit
from symnoise.models import EmbeddingLoss

PROBES, REPEATS = 16, 2
SIZES: dict[str, dict[str, Any]] = {
    "10M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "vocab_size": 8_192},
    "50M": {"hidden_size": 448, "intermediate_size": 1_280, "num_hidden_layers": 15, "vocab_size": 24_576},
    "SmolLM2": {},
}
METHODS = {"taylor": "Taylor mode", "hvp": "Hessian products"}


def measure(row: Row) -> Row:
    """Predicted and measured memory above the weights, GiB, and seconds of one trace."""
    model = _model(row)
    loss = EmbeddingLoss(model, batch(model.config.vocab_size, ROWS, TOKENS, SCORED))
    speed, clock, times = measured_speed(torch.float32), Clock(loss), []
    with measured(True, clock.forward) as record:
        for _ in range(REPEATS):
            times.append(seconds(lambda: trace(loss, method=row["method"], probes=PROBES)))
    again = measured_speed(torch.float32)
    speed = Speed(max(speed.flops, again.flops), max(speed.bandwidth, again.bandwidth))
    task = Task(ROWS, ROWS, TOKENS, PROBES, 0, torch.float32)
    found = plans(model.config, task, speed, memory_limit(torch.device("cpu")), card=False)
    (plan,) = (one for one in found if one.name == METHODS[row["method"]])
    assert plan.memory is not None and plan.seconds is not None
    weights, _ = weight_bytes(model)
    memory, predicted = record.pop("memory_gib"), (plan.memory - weights) / 2**30
    return {
        "model": row["model"],
        "method": row["method"],
        "weights_gib": weights / 2**30,
        "predicted_gib": predicted,
        "measured_gib": memory,
        "predicted_s": plan.seconds,
        "measured_s": min(times),
        **record,
        "flops_per_second": speed.flops,
        "bytes_per_second": speed.bandwidth,
    }


def _model(row: Row) -> Any:
    sizes = SIZES[row["model"]]
    if row["smoke"] or not sizes:
        return model_of(row)
    with torch.random.fork_rng(devices=[]):
        heads = sizes["hidden_size"] // 64
        return LlamaForCausalLM(LlamaConfig(num_attention_heads=heads, num_key_value_heads=heads, **sizes)).eval()


def run(smoke: bool, say: Callable[[str], None]) -> list[Row]:
    """Every row."""
    records = []
    for model in SIZES:
        for method, name in METHODS.items():
            say(f"plan and measurement: {model}, {name}")
            records.append(in_process("plans", {"model": model, "method": method, "smoke": smoke}))
    return records
