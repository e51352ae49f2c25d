"""The kill part itself: what it would not see would not count, and what it may not see is what a clock says."""

import json
import signal
import time
from pathlib import Path

import pytest

from tests.trust.inside import sitecustomize as inside
from tests.trust.kills import Case, ended_well, figure, killed, place
from tests.trust.same import different, seconds
from tests.trust.victims import Ended, Running, Victim

RESULT = {"trace": 1.5, "seconds": 2.0, "curvature/seconds": 0.25, "forwards_per_probe": 1.2, "stages": {"tiny": 3.5}}


def folder(place: Path, **changed: object) -> Path:
    place.mkdir()
    (place / "out.json").write_text(json.dumps(RESULT | changed, indent=2))
    (place / "model.bin").write_bytes(b"\x00\x01")
    return place


@pytest.mark.parametrize(
    "changed", [{"seconds": 9.0}, {"curvature/seconds": 1e-5}, {"forwards_per_probe": 7.0}, {"stages": {"tiny": 4.0}}]
)
def test_what_a_clock_says_is_no_difference(tmp_path, changed) -> None:
    assert different(folder(tmp_path / "a"), folder(tmp_path / "b", **changed)) == []


@pytest.mark.parametrize("changed", [{"trace": 1.5000001}, {"step": 6}, {"seconds": "two"}, {"second": 2.0}])
def test_anything_else_is_a_difference(tmp_path, changed) -> None:
    assert different(folder(tmp_path / "a"), folder(tmp_path / "b", **changed)) == ["out.json"]


def test_a_byte_a_missing_file_and_what_was_left_behind_are_differences(tmp_path) -> None:
    one, other = folder(tmp_path / "a"), folder(tmp_path / "b")
    (other / "model.bin").write_bytes(b"\x00\x02")
    (other / ".out-abc.partial.json").touch()
    (other / "empty").mkdir()
    (one / "log.jsonl").write_text('{"seconds": 1.0}\n')
    assert different(one, other) == [".out-abc.partial.json", "empty", "log.jsonl", "model.bin"]
    assert different(one, other, but="log") == [".out-abc.partial.json", "empty", "model.bin"]
    assert seconds(one) == [1.0, 2.0, 0.25]


def test_one_bad_try_breaks_the_promise() -> None:
    assert figure("kills", ["", ""], "0").kept
    assert not (bad := figure("kills", ["", "out.json"], "0")).kept and bad.measured == 0.5 and bad.note == "out.json"


@pytest.mark.parametrize(
    ("code", "said", "wrong"),
    [
        (2, "symnoise: in use by another run\n", ""),
        (0, "symnoise: in use by another run\n", "exit code 0 instead of 2"),
        (2, "Traceback\nsymnoise: in use by another run\n", "not one line"),
        (2, "in use by another run\n", "not one line"),
        (2, "symnoise: in use by another run\n" * 2, "not one line"),
    ],
)
def test_an_end_is_one_line_and_its_exit_code(code, said, wrong) -> None:
    assert ended_well(Ended(code, said, 1.0, 9), 2, "in use").startswith(wrong or "")
    assert bool(ended_well(Ended(code, said, 1.0, 9), 2, "in use")) == bool(wrong)


@pytest.mark.parametrize(("words", "wrong"), [((), ""), (("forgets",), "out.json")])
def test_a_run_is_killed_at_both_kinds_of_moments_and_run_again(tmp_path, words, wrong) -> None:
    victim = Victim("little work", ("little", *words))
    case = Case(victim, tmp_path, Running(victim, place(tmp_path, victim, "whole")).end())
    assert (case.whole.code, case.whole.operations) == (0, 12)  # part.json opened and moved, six times
    found = killed(case, "operation", iter([(0.0, 1000), (0.0, 7)]))  # the first comes too late
    assert found.endswith(wrong) and bool(found) == bool(wrong)
    for share in (0.75, 0.6, 0.85, 0.5, 0.95):  # by the clock, which may strike before the first step
        name = f"moment-{share}"
        found = killed(case, name, iter([(0.0, 1000), (share * case.whole.seconds, 0)]))
        assert not (place(tmp_path, victim, f"{name}-1") / "control-0" / "acted").exists()
        if found:
            break
    assert found.endswith(wrong) and bool(found) == bool(wrong)


def test_a_signal_goes_to_the_first_process_and_a_sleeping_one_wakes(tmp_path) -> None:
    victim = Victim("little work", ("little",), {signal.SIGTERM: -signal.SIGTERM, 0: 2})
    ended = Running(victim, tmp_path / "a", at=5, number=signal.SIGTERM).end()
    assert ended.code == -signal.SIGTERM and ended.operations == 5
    running = Running(victim, tmp_path / "b")
    running.wait_for((tmp_path / "b" / "work" / "out.json").exists)
    with running.asleep():
        before = (tmp_path / "b" / "work" / "out.json").read_text()
        time.sleep(0.3)
        assert (tmp_path / "b" / "work" / "out.json").read_text() == before
    assert running.end().code == 0


def test_a_clock_that_jumps_is_late_at_every_second_look(monkeypatch) -> None:
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", real)
    monkeypatch.setattr(time, "time_ns", real_ns)
    inside._shift_clock(1e6)
    first, second, third = (time.time() for _ in range(3))
    assert second == pytest.approx(first - 1e6, abs=60) and third == pytest.approx(first, abs=60)
