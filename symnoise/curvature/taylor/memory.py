"""Memory of one pass, and how probes are split so that it fits."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from symnoise.curvature.taylor.rules.scan import STEPS
from symnoise.curvature.taylor.tensor import even_cuts
from symnoise.models import EmbeddingLoss

# Default limit even if more is free: larger passes are hardly faster.
_CEILING = 4 * 2**30


def memory_estimate(loss: EmbeddingLoss, probes: int, groups: int, coefficients: torch.dtype | None = None) -> int:
    """Approximate peak memory of one pass with `probes` probes in `groups` groups, in bytes above the model.

    Coefficients exist for one layer's activations at a time: the stream through the layers twice (before and after a
    block) and the block's widest activations three times (both factors of a gated product, and the product). A scan is
    unrolled four times; of a recurrence, coefficients exist for some steps at a time.
    """
    batch, tokens, dim = loss.shape
    vocabulary = loss.model.config.get_text_config().vocab_size
    dtype = coefficients or loss.embeddings.dtype
    chunks, states = (4 * batch * tokens * entries for entries in _scan(loss.model.config))
    one = batch * tokens * (3 * dim + 3 * _width(loss.model, vocabulary)) + chunks
    scores = batch * (getattr(loss.model.config.get_text_config(), "num_attention_heads", None) or 1) * tokens**2
    if getattr(loss.model.config, "_attn_implementation", None) == "eager":
        one += 3 * scores
    logits = len(loss.targets) * vocabulary
    # The value's attention is PyTorch's plain kernel, which holds whole scores and their softmax.
    value = loss.embeddings.element_size() * (2 * logits + 3 * one + 2 * scores)
    extra = 0
    if dtype is not loss.embeddings.dtype:  # the head's weight cast, and the stream in the model's own type
        extra = vocabulary * dim * dtype.itemsize
        extra += (probes + groups) * 2 * batch * tokens * dim * (loss.embeddings.element_size() - dtype.itemsize)
    return value + extra + (probes + groups) * one * dtype.itemsize + _of_states(loss, states, probes + groups, dtype)


def _of_states(loss: EmbeddingLoss, entries: int, directions: int, coefficients: torch.dtype) -> int:
    """Bytes of a recurrence's states and their coefficients. Models hold states in float32 at least."""
    steps = directions * entries
    if loss.embeddings.dtype in (torch.float32, torch.float64):  # others are cast at every step, which no rule gathers
        steps = min(steps, 5 * STEPS)
    return 3 * entries * max(4, loss.embeddings.element_size()) + steps * max(4, coefficients.itemsize)


def _width(model: nn.Module, vocabulary: int) -> int:
    """The widest activation inside the layers; a token is in several experts, whose weights are stacked."""
    # Packed weights are no parameters: 0 rather than no estimate.
    chosen = _first(model.config, "num_experts_per_tok")
    wide = [max(p.shape) for p in model.parameters() if p.ndim == 2 and vocabulary not in p.shape]
    return max([*wide, *(chosen * max(p.shape[1:]) for p in model.parameters() if p.ndim == 3)], default=0)


def _scan(config: Any) -> tuple[int, int]:
    """Entries per token of what a scan written in PyTorch unrolls: scores within a chunk, or each channel's states."""
    heads = _first(config, "linear_num_value_heads", "mamba_n_heads")
    chunk = 64 if hasattr(config, "linear_num_value_heads") else _first(config, "mamba_chunk_size", "chunk_size")
    if chunk:
        return chunk * (heads or _first(config, "num_heads")), 0
    inner = _first(config, "mamba_expand", "expand") * config.get_text_config().hidden_size
    return 0, inner * _first(config, "mamba_d_state", "state_size")


def _first(config: Any, *names: str) -> int:
    """The first of the settings that the model has; 0 if it has none."""
    found = (getattr(config.get_text_config(), name, None) for name in names)
    return next((value for value in found if isinstance(value, int)), 0)


def memory_limit(device: torch.device) -> int:
    """Half of what is free now, and at most 4 GiB on a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return min(_CEILING, free_memory() // 2)


def free_memory() -> int:
    """Bytes of this machine, or of the process's group, that are free now."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2 * _CEILING
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        top, used = (Path("/sys/fs/cgroup", name).read_text().strip() for name in ("memory.max", "memory.current"))
        free = free if top == "max" else min(free, int(top) - int(used))
    except (OSError, StopIteration):
        pass  # not Linux, or no limit of its own
    return free


def chunk_size(loss: EmbeddingLoss, probes: int, groups: int, limit: int, coefficients: torch.dtype | None) -> int:
    """The most probes a pass whose estimate stays within `limit` bytes; 1 at least."""
    size = probes
    while size > 1 and memory_estimate(loss, size, max(1, groups * size // probes), coefficients) > limit:
        size = (size + 1) // 2
    return size


def passes(probes: int, groups: int, size: int) -> list[tuple[slice, slice]]:
    """Cuts of (probes, groups): whole groups while these fit into `size` probes, else even parts of one group."""
    members = probes // groups
    if size >= members:
        each = size // members
        starts = range(0, groups, each)
        return [(slice(g * members, min(g + each, groups) * members), slice(g, min(g + each, groups))) for g in starts]
    return [(part, slice(g, g + 1)) for g in range(groups) for part in even_cuts(g * members, members, size)]
