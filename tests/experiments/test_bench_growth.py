"""The growth part of the bench: points are kept, shared, left out where too large, and drawn."""

import pandas as pd
import pytest

from analysis.figures import growth as figure
from experiments.bench import growth as bench_growth
from experiments.bench import process
from experiments.bench import run as bench
from experiments.bench.process import Clock, Kept, batch, in_process, measured, model_of
from symnoise.core import InputError
from symnoise.models import EmbeddingLoss


def fake(part: str, row: dict) -> dict:
    size = row["probes"] * row["tokens"] * row["rows"] * row["depth"]
    memory = 1e-5 * size if row["method"] == "taylor" else 1e-4 * row["tokens"] ** 2 * row["rows"]
    return {**{name: row[name] for name in bench_growth.KEY}, "seconds": 1e-4 * size, "memory_gib": memory}


@pytest.fixture
def done(monkeypatch) -> list[dict]:
    """The rows that were measured."""
    rows: list[dict] = []
    monkeypatch.setattr(process, "in_process", lambda part, row: rows.append(row) or fake(part, row))
    return rows


def test_the_point_that_lines_share_is_measured_once(done: list[dict], tmp_path) -> None:
    records = bench_growth.run(False, lambda _: None, Kept(tmp_path / "growth.csv"))
    keys = [tuple(row[name] for name in ("method", *bench_growth.BASE)) for row in done]
    assert len(keys) == len(set(keys))
    shared = [r for r in records if r["method"] == "taylor" and all(r[n] == v for n, v in bench_growth.BASE.items())]
    assert [record["axis"] for record in shared] == list(bench_growth.BASE)


def test_points_expected_to_be_too_large_are_left_out(done: list[dict], tmp_path) -> None:
    said: list[str] = []
    bench_growth.run(False, said.append, Kept(tmp_path / "growth.csv"))
    # 1e-4·L² GiB: 1.6 at L = 128, 6.6 at 256, and 26 at 512, with a fifth more 31.
    assert "hvp, tokens = 512: left out, about 31 GiB" in said
    assert not any(row["method"] == "hvp" and row["tokens"] >= 512 for row in done)
    assert any(row["method"] == "taylor" and row["tokens"] == 2048 for row in done)


def test_the_exponents_are_those_of_power_laws(done: list[dict], tmp_path) -> None:
    records = bench_growth.run(False, lambda _: None, Kept(tmp_path / "growth.csv"))
    data = figure.frame({"growth": pd.DataFrame(records)})
    for axis in bench_growth.BASE:
        fits = figure.exponents(data[(data.axis == axis) & (data.method == "taylor")])
        assert fits == pytest.approx({"seconds": 1, "memory_gib": 1})
    hvp = figure.exponents(data[(data.axis == "tokens") & (data.method == "hvp")])
    assert hvp["memory_gib"] == pytest.approx(2)
    drawn = figure.draw(data)
    assert len(drawn.axes) == 8
    assert "K = 8, L = 128, B = 1 and 30 layers" in figure.caption(data)


def test_a_point_is_measured() -> None:
    found = bench_growth.measure(next(bench_growth.points(smoke=True)))
    assert found["seconds"] > 0 and found["memory_gib"] >= 0 and found["forward_s"] > 0


def test_an_unknown_method_is_refused() -> None:
    point = next(bench_growth.points(smoke=True))
    with pytest.raises(InputError, match="unknown method 'tailor'"):
        bench_growth.measure(point | {"method": "tailor"})


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"growht .* failed with exit code 1:\n(.|\n)*No module named .*growht'"):
        in_process("growht", {"smoke": True})


def test_memory_is_the_peak_within_the_block() -> None:
    row = {"smoke": True}
    loss = EmbeddingLoss(model_of(row), batch(99))
    clock = Clock(loss)
    with measured(False, clock.forward) as record:
        large = bytearray(256 * 2**20)
        large[::4096] = bytes(len(large) // 4096 * [1])  # touched, so that it is resident
        del large
    assert record["memory_gib"] == pytest.approx(0.25, abs=0.1)
    assert record["malloc"] == "as found"


def test_parts_are_checked_before_any_runs(monkeypatch) -> None:
    monkeypatch.setattr(bench, "RUN", {"ratios": None, "growth": None})
    with pytest.raises(InputError, match="did you mean 'growth'"):
        bench.main(["ratios", "growht"])
