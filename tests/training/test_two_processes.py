"""Two gloo processes: the gradient after DDP's exchange is the mean over all tokens, ranks and sides."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from symnoise.noise import Noise
from tests.tiny import tiny
from tests.training.ragged import collate, difference, expected, rows
from tests.training.two_processes import ACCUMULATION, SEED, SIZE


def test_two_processes_equal_one(tmp_path):
    here = Path(__file__).resolve()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(here.parents[2]), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
            *(here.with_name("two_processes.py"), tmp_path),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = torch.load(tmp_path / "found.pt")
    # Accelerate deals batches to the ranks in turn, so micro-step i of rank r is batch 2i + r.
    batches = []
    for micro in range(ACCUMULATION):
        for rank in range(2):
            start = SIZE * (2 * micro + rank)
            batches.append((collate(rows()[start : start + SIZE]), (rank, 0, micro)))
    loss, gradient = expected(tiny("llama").train(), batches, Noise.symnoise(5.0), SEED)
    assert set(found) == {"doubled", "two-pass", "sft"}
    for logged, measured in found.values():
        # DDP's parameter names carry no prefix here, as the callback is given the bare model.
        assert difference(measured, gradient) < 1e-6
        assert logged == pytest.approx(loss, rel=1e-6)
