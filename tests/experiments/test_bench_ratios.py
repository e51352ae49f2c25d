"""The ratios part of the bench: families next to a Llama."""

import pytest

from experiments.bench import ratios
from experiments.bench.process import Clock


@pytest.mark.parametrize("key", ratios.FAMILIES)
def test_families_are_as_large_as_the_llama(key) -> None:
    family, llama = (
        sum(p.numel() for p in one.model(kind, smoke=False).parameters())
        for kind, one in ((key, ratios.FAMILIES[key]), ("llama", ratios.LLAMA))
    )
    assert family == pytest.approx(llama, rel=0.1)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("key", ratios.FAMILIES)
def test_a_family_is_divided_by_the_llama(key, monkeypatch) -> None:
    taken = iter([48.0, 16.0, 64.0, 16.0, 40.0, 40.0])  # forwards of the family and of the Llama, in turn

    def median(clock: Clock, work, repeats: int) -> tuple[float, float]:
        assert repeats == 1
        clock._forwards.append(0.5)
        return 1.0, next(taken)

    monkeypatch.setattr(Clock, "median", median)
    monkeypatch.setattr(ratios, "REPEATS", 3)
    row = ratios.measure({"key": key, "smoke": True})
    assert row["work"] == f"a tiny {key.title()} ÷ Llama of equal size, forwards per probe"
    assert (row["ratio"], row["forwards"], row["forward_s"]) == (3.0, 3.0, 0.5)
    assert (row["probes"], row["groups"]) == (16, 4)


@pytest.mark.usefixtures("small_batches")
def test_a_family_is_measured() -> None:
    row = ratios.measure({"key": "mixtral", "smoke": True})
    assert 0.2 < row["ratio"] < 5
    assert row["forwards"] > 0
