"""Whether bfloat16 is faster is measured once per machine and kept; nothing about the cache is an error."""

import json

import pytest
import torch

from symnoise.curvature.taylor import speed

CPU = torch.device("cpu")


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """Products that take these seconds, by dtype, and a cache of their own; the dtypes measured so far."""
    monkeypatch.setenv("SYMNOISE_CACHE", str(tmp_path))
    speed._speedup.cache_clear()
    times, seen = {torch.float32: 3.0, torch.bfloat16: 1.0}, []

    def seconds(device, dtype):
        seen.append(dtype)
        return times[dtype]

    monkeypatch.setattr(speed, "_seconds", seconds)
    yield times, seen, tmp_path / "speed.json"
    speed._speedup.cache_clear()


@pytest.mark.parametrize(("single", "faster"), [(3.0, True), (1.6, True), (1.4, False), (0.1, False)])
def test_half_as_fast_again_is_faster(timed, single: float, faster: bool) -> None:
    times, _, _ = timed
    times[torch.float32] = single
    assert speed.bfloat16_is_faster(CPU) is faster


def test_measured_once_per_process_and_once_per_machine(timed, monkeypatch) -> None:
    times, seen, file = timed
    assert speed.bfloat16_is_faster(CPU) and speed.bfloat16_is_faster(CPU)
    assert seen == [torch.float32, torch.bfloat16]
    (kept,) = json.loads(file.read_text()).items()
    assert "threads, torch" in kept[0] and kept[1] == 3.0
    speed._speedup.cache_clear()  # another process
    times[torch.float32] = 0.1
    assert speed.bfloat16_is_faster(CPU) and len(seen) == 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)  # another machine
    assert not speed.bfloat16_is_faster(CPU) and len(seen) == 4
    assert len(json.loads(file.read_text())) == 2


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"x": "fast"}', '{"x": NaN}', "\x00"])
def test_a_damaged_file_is_written_again(timed, text: str) -> None:
    _, seen, file = timed
    file.write_text(text)
    assert speed.bfloat16_is_faster(CPU) and len(seen) == 2
    assert list(json.loads(file.read_text()).values()) == [3.0]


def test_a_cache_that_cannot_be_written_is_no_error(timed, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SYMNOISE_CACHE", str(tmp_path / "file" / "folder"))
    assert speed.bfloat16_is_faster(CPU)


def test_a_real_product_takes_time(monkeypatch) -> None:
    monkeypatch.setattr(speed, "_ROWS", {"cpu": 8})
    assert all(0 < speed._seconds(CPU, dtype) < 60 for dtype in (torch.float32, torch.bfloat16))
    assert speed._machine(CPU).split(", torch")[0]


def test_a_gpu_is_timed_on_a_product_that_keeps_it_busy(monkeypatch) -> None:
    """And what was kept of a smaller one, by the same name, is not taken for it."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    assert speed._rows(torch.device("cuda")) >= 16 * speed._rows(CPU)
    assert "some GPU, 32768 rows" in speed._machine(torch.device("cuda"))
