"""Shared by the tests of experiments: the bench measures little."""

import pytest

from experiments.bench import process


@pytest.fixture
def small_batches(monkeypatch) -> None:
    """Two rows of 64 tokens stand in for the bench's batches, whose sizes matter to clocks alone."""
    monkeypatch.setattr(process.batch, "__defaults__", (2, 64, process.SCORED))
