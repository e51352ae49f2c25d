"""Two gloo processes: the gradient after DDP's exchange is the mean over all tokens, ranks and sides."""

import pytest
import torch

from symnoise.noise import Noise
from tests.processes import two
from tests.tiny import tiny
from tests.training.ragged import by_dials, collate, difference, expected, rows
from tests.training.two_processes import ACCUMULATION, DIALS, SEED, SIZE, steps


def test_two_processes_equal_one(tmp_path):
    assert two(steps, str(tmp_path)) == [0, 0]
    found = torch.load(tmp_path / "found.pt")
    # Accelerate deals batches to the ranks in turn, so micro-step i of rank r is batch 2i + r.
    batches = []
    for micro in range(ACCUMULATION):
        for rank in range(2):
            start = SIZE * (2 * micro + rank)
            batches.append((collate(rows()[start : start + SIZE]), (rank, 0, micro)))
    noise = Noise.symnoise(5.0)
    pair, gradient = expected(tiny("llama").train(), batches, noise, SEED)
    loss, clean, dialled = by_dials(tiny("llama").train(), batches, noise, DIALS, SEED)
    wanted = {False: (pair, None, gradient), True: (loss, pytest.approx(clean, rel=1e-6), dialled)}
    assert {mode for mode, _ in found} == {"doubled", "two-pass", "sft"}
    for (_, by), (logged, measured) in found.items():
        # DDP's parameter names carry no prefix here, as the callback is given the bare model.
        assert difference(measured, wanted[by][2]) < 1e-6
        assert logged["loss"] == pytest.approx(wanted[by][0], rel=1e-6)
        assert logged.get("clean_loss") == wanted[by][1]
