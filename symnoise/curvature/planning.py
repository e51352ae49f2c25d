"""Memory, probes and time of tr H, from a configuration alone.

Work is simulated (`symnoise.curvature.simulated`) at two depths and extended to the model's, since layers cost alike.
Taylor mode's memory is the estimate that chooses its probes per pass (`taylor.memory`).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from symnoise.core import InputError, reason
from symnoise.curvature import simulated
from symnoise.curvature.estimators.sampler import Sampler
from symnoise.curvature.simulated import Work
from symnoise.curvature.taylor import UnsupportedOperation, memory_estimate
from symnoise.curvature.taylor.memory import chunk_size, passes
from symnoise.models.outline import OutlineLoss, outline, stacks

# Standard deviation of one probe's zᵀHz for one example, over the mean trace: SmolLM2 on random tokens, where 708
# probes give the mean of 4 examples to 5 % (docs/peers.csv: deviation of that mean 86.4, mean 65.0).
RELATIVE_DEVIATION = 86.42 * 4**0.5 / 64.95
CHUNK = 16  # `probes_for` rounds up to a multiple of it, the default of `symnoise curvature`
_MOST_PROBES = 10**12  # per example: 32 years at a millisecond each
_SCORED = 48 / 128  # share of scored tokens: that of the bench
_DEPTHS = 2, 4  # of the simulated models; even, for models whose layers alternate
# glibc's heap holds this many times the bytes of a graph that are alive, since its holes do not fit later requests
# (`core.heap`): for SmolLM2 docs/growth.csv has 1.45 times the simulation at 128 tokens and 1.35 times at 512.
_HOLES = 1.4
_LINK = 12e9  # bytes per second to a card for streamed weights: half of what PCIe 4.0 with 16 lanes reaches


@dataclass(frozen=True)
class Speed:
    """What a machine reaches. flops: floating-point operations per second of matrix products. bandwidth: bytes per
    second that elementwise operations read and write."""

    flops: float
    bandwidth: float

    def seconds(self, work: Work) -> float:
        """Time of matrix products, then of everything else."""
        return work.flops / self.flops + work.traffic / self.bandwidth


def measured_speed(
    dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter, rows: int = 512, width: int = 1024
) -> Speed:
    """The speed of this machine's CPU, each the best of five: (rows, width) times (width, width), and a·b of vectors
    of 4 Mi entries, as long as what Taylor mode works on at a time."""
    a, b = torch.ones(rows, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    x = torch.ones(2**22, dtype=dtype)
    y = torch.empty_like(x)

    def best_of_five(work: Callable[[], Any]) -> float:
        times = []
        for _ in range(5):
            started = clock()
            work()
            times.append(clock() - started)
        return min(times)

    product, elementwise = best_of_five(lambda: a @ b), best_of_five(lambda: torch.mul(x, x, out=y))
    return Speed(2 * rows * width**2 / product, 3 * x.numel() * x.element_size() / elementwise)


@dataclass(frozen=True)
class Plan:
    """A way to measure tr H. memory: bytes at the peak, weights included. seconds: for all examples; forwards: the same
    in plain forward passes of a batch. None where the model cannot be measured this way, and `obstacle` says why.
    at_once: probes per pass."""

    name: str
    memory: float | None = None
    seconds: float | None = None
    forwards: float | None = None
    at_once: int | None = None
    obstacle: str = ""


@dataclass(frozen=True)
class Task:
    """What is to be measured: `examples` rows of `tokens` tokens in batches of `batch`, with `probes` probes each."""

    examples: int
    batch: int
    tokens: int
    probes: int
    dtype: torch.dtype


def probes_for(rtol: float, examples: int) -> int:
    """Probes per example, in whole chunks, for a relative standard error `rtol` of the mean over `examples` examples.

    K = (c / rtol)² / examples with c = `RELATIVE_DEVIATION`: measured on SmolLM2, and different for every model and
    text. No number suffices where the traces of the examples cancel.
    """
    least = RELATIVE_DEVIATION / (_MOST_PROBES * examples) ** 0.5
    if not least <= rtol < math.inf:
        raise InputError(f"--rtol must be above 0, finite, and take at most {_MOST_PROBES:.0e} probes; got {rtol:g}")
    return CHUNK * math.ceil((RELATIVE_DEVIATION / rtol) ** 2 / examples / CHUNK)


def weight_bytes(model: Any) -> tuple[int, int]:
    """(bytes of all weights, of those that stay in memory when layers are streamed), tied tensors counted once."""
    whole = {id(p): p.numel() * p.element_size() for p in model.parameters()}
    layers = {id(p) for _, stack in stacks(model) for p in stack.parameters()}
    largest = max((_bytes(layer) for _, stack in stacks(model) for layer in stack), default=0)
    return sum(whole.values()), sum(size for key, size in whole.items() if key not in layers) + largest


def _bytes(module: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def plans(config: Any, task: Task, speed: Speed, memory: int, *, card: bool) -> list[Plan]:
    """Taylor mode, Taylor mode with streamed layers, and Hessian products, in this order.

    Args:
        config: Configuration of a causal language model.
        task: What is to be measured; its rows are taken to be full.
        speed: That of the machine.
        memory: Bytes of the card, half of what the weights leave going to a pass; or bytes that a pass may take.
        card: Which of the two.

    Raises:
        InputError: If the model is not a causal language model.
    """
    model = outline(config, task.dtype)
    if config.is_encoder_decoder or model.get_output_embeddings() is None:
        raise InputError(f"plan is for causal language models; this is a {type(model).__name__}")
    loss, (weights, resident) = _loss(model, task), weight_bytes(model)
    # From the page cache to a card, or into memory of the process, where nothing is larger than memory.
    reading = (weights - resident) / _LINK if card else 2 * (weights - resident) / speed.bandwidth
    batches = task.examples / len(loss.ids)
    forward = speed.seconds(_forward(config, task, weights))

    def plan(name: str, peak: float, seconds: float, at_once: int) -> Plan:
        return Plan(name, peak, batches * seconds, batches * seconds / forward, at_once)

    @cache
    def taylor_pass(size: int, groups: int) -> Work:
        def with_probes(count: int) -> Work:
            return _at_full_depth(config, task, lambda loss: (simulated.taylor(loss, count, groups),))[0]

        few, more = 2 * groups, 4 * groups  # every operation of hundreds would take minutes
        if size <= more:
            return with_probes(size)
        return with_probes(few).extended(with_probes(more), (size - few) / (more - few))

    def by_taylor(name: str, held: int, link: float) -> Plan:
        parts = _passes(loss, task, (memory - held) // 2 if card else memory)
        size, groups = (cut.stop - cut.start for cut in parts[0])
        try:
            seconds = speed.seconds(taylor_pass(size, groups))
        except UnsupportedOperation as error:
            return Plan(name, obstacle=str(error))
        seconds = forward + link + len(parts) * (seconds + link)
        return plan(name, held + memory_estimate(loss, size, groups), seconds, size)

    setup, product = _at_full_depth(config, task, simulated.products)
    each = forward + speed.seconds(setup) + task.probes * speed.seconds(product)
    return [
        by_taylor("Taylor mode", weights, 0.0),
        by_taylor("Taylor mode, streamed", resident, reading),
        plan("Hessian products", weights + _HOLES * product.peak, each, 1),
    ]


def _forward(config: Any, task: Task, weights: int) -> Work:
    try:
        return _at_full_depth(config, task, lambda loss: (simulated.forward(loss),))[0]
    except (RuntimeError, NotImplementedError) as error:  # a mixture of experts may choose them by their numbers
        raise InputError(
            f"a {type(config).__name__.removesuffix('Config')} cannot be simulated without numbers ({reason(error)}); "
            f"its weights take {weights / 2**30:.1f} GiB"
        ) from error


def _loss(model: Any, task: Task) -> OutlineLoss:
    return OutlineLoss(model, min(task.batch, task.examples), task.tokens, max(1, round(task.tokens * _SCORED)))


def _passes(loss: OutlineLoss, task: Task, limit: int) -> list[tuple[slice, slice]]:
    """How the probes are split so that each pass takes at most `limit` bytes, if it can be."""
    groups = Sampler(task.probes, 0, "rademacher", None).groups
    return passes(task.probes, groups, chunk_size(loss, task.probes, groups, limit, None))


def _at_full_depth(config: Any, task: Task, costs: Callable[[OutlineLoss], tuple[Work, ...]]) -> list[Work]:
    """`costs` of the whole model, from two models with its first layers; of a shallow one, from itself."""
    depths = [len(stack) for _, stack in stacks(outline(config))]
    text = getattr(config.get_text_config(), "num_hidden_layers", None)  # a vision tower may be deeper, and is not run
    depth = text if text in depths else max(depths, default=0)
    if depth <= _DEPTHS[1]:
        return list(costs(_loss(outline(config, task.dtype), task)))
    few, more = (costs(_loss(_shortened(config, task.dtype, count), task)) for count in _DEPTHS)
    steps = (depth - _DEPTHS[0]) / (_DEPTHS[1] - _DEPTHS[0])
    return [a.extended(b, steps) for a, b in zip(few, more, strict=True)]


def _shortened(config: Any, dtype: torch.dtype, depth: int) -> Any:
    model = outline(config, dtype)
    for _, stack in stacks(model):
        del stack[depth:]
    return model
