"""For test_streaming.py, in a process of its own: memory that other tests have freed would be there to take again."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from symnoise.curvature import trace
from symnoise.models import EmbeddingLoss, load_model

STATUS = Path("/proc/self/status")


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """This process may take `more` bytes of memory more than it has (RLIMIT_DATA)."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    held = next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (1024 * held + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def streamed_in_less_than_its_weights(folder: Path, batch: dict[str, torch.Tensor]) -> None:
    os.environ["MALLOC_TOP_PAD_"] = "131072"  # the heap is left alone: the retained one grows by 64 MiB at once
    whole = load_model(folder).model
    weights = sum(weight.nbytes for weight in whole.parameters())
    expected = trace(EmbeddingLoss(whole, batch), "taylor", probes=4)
    streamed = EmbeddingLoss(load_model(folder, stream=True).model, batch)
    with at_most(3 * weights // 4):  # a layer takes a sixteenth, its file as much, and kernels their scratch memory
        with pytest.raises(RuntimeError, match="memory"):
            torch.empty(weights, dtype=torch.uint8)
        found = trace(streamed, "taylor", probes=4)
    assert torch.equal(found.value, expected.value)
