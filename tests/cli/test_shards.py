"""`symnoise curvature` in two processes, once of torchrun itself, and runs that are broken off and run again."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from result_schema.files import ROOT
from symnoise.cli import main
from symnoise.cli.shared import one_run
from symnoise.core.batch_records import BatchRecords, key_of
from tests.cli.ranks import bad_input, symnoise
from tests.processes import two
from tests.tiny import tiny, tiny_tokenizer

WORDS = ("one", "two", "three", "four", "five", "six", "seven")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    """A tiny Llama and seven rows in batches of two, so the last is short."""
    folder = tmp_path_factory.mktemp("shards")
    tiny("llama").save_pretrained(folder / "model")
    tiny_tokenizer(chat=True).save_pretrained(folder / "model")
    rows = [{"instruction": f"say {word}", "output": f"{word} {word}"} for word in WORDS]
    (folder / "rows.json").write_text(json.dumps(rows))
    places = ["--model", str(folder / "model"), "--data", str(folder / "rows.json")]
    return ["curvature", *places, "--examples", "7", "--batch", "2", "--probes", "4", "--dtype", "float64"]


def together(target: Callable[..., None], options: list[str], *more: object) -> tuple[list[int], str, str]:
    """Exit codes of both processes of `target(*options, *more)`, what they say, and what they say on standard error."""
    with tempfile.TemporaryDirectory() as said:
        codes = two(target, *options, *map(str, more), said=Path(said))
        texts = ["".join(path.read_text() for path in sorted(Path(said).glob(f"*.{name}"))) for name in ("out", "err")]
    return codes, *texts


def alone(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["symnoise", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def lines(text: str, word: str = "") -> list[str]:
    """What symnoise itself said, as far as it has `word` in it."""
    return [line for line in text.splitlines() if line.startswith("symnoise: ") and word in line]


def test_two_processes_give_the_numbers_of_one_also_after_one_was_killed(monkeypatch, options, tmp_path) -> None:
    assert alone(monkeypatch, *options, "--json", str(tmp_path / "one.json")) == 0
    one = json.loads((tmp_path / "one.json").read_text())

    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    killed = subprocess.run(
        [*launcher, "-m", "tests.cli.ranks", *options, "--json", str(tmp_path / "two.json")],
        **{"capture_output": True, "text": True, "timeout": 240, "cwd": ROOT},
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert killed.returncode != 0
    (line,) = lines(killed.stderr, "lost")
    assert "run the same command again" in line and "two.json.parts" in line
    assert killed.stdout == ""
    assert not (tmp_path / "two.json").exists()
    assert len(list((tmp_path / "two.json.parts").glob("*.json"))) >= 2

    codes, said, errors = together(symnoise, options, "--json", tmp_path / "two.json")
    assert codes == [0, 0], errors
    found = json.loads((tmp_path / "two.json").read_text())
    assert found["processes"] == 2
    assert 4 <= found["resumed_examples"] < 7
    assert said.count("mean") == 1  # one table
    for name in ("trace", "stderr", "gauss_newton_trace"):
        # The same batches in the same padding: equal but for the order of sums inside the kernels.
        assert [e[name] for e in found["per_example"]] == pytest.approx(
            [e[name] for e in one["per_example"]], rel=1e-10
        )
    assert found["trace"] == pytest.approx(one["trace"], rel=1e-10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.json", "two.json"]


def test_bad_input_is_said_once(options, tmp_path) -> None:
    codes, _, errors = together(symnoise, options, "--data", "no-such.json", "--json", tmp_path / "out.json")
    assert codes == [2, 2]
    assert lines(errors) == ["symnoise: there is no data file no-such.json"]
    assert list(tmp_path.iterdir()) == []


def test_bad_input_of_one_process_ends_both_after_their_batch(options, tmp_path) -> None:
    codes, _, errors = together(bad_input, options, "--json", tmp_path / "out.json")
    assert codes == [2, 2]
    (line,) = lines(errors, "nan")
    # The first turn is two batches of two rows; in the second process 0 has two rows more.
    assert "the loss is nan; a rerun resumes from the 6 examples that are done" in line
    assert [path.name for path in tmp_path.iterdir()] == ["out.json.parts"]


def test_other_data_on_one_process_are_refused(options, tmp_path) -> None:
    for rank, words in enumerate((WORDS, WORDS[::-1])):
        rows = [{"instruction": f"say {word}", "output": word} for word in words]
        (tmp_path / f"rows-{rank}.json").write_text(json.dumps(rows))
    codes, _, errors = together(symnoise, options, "--data", tmp_path / "rows-{rank}.json")
    assert codes == [2, 2]
    (line,) = lines(errors, "different")
    assert line.startswith("symnoise: the processes have read different models or data")


def interrupted(monkeypatch, options: list[str], file: Path, after: int) -> None:
    """A run that Ctrl-C ends when `after` batches are done."""
    from symnoise.cli import curvature

    done, measure = [], curvature._measure

    def stop_there(*arguments):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(True)
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(curvature, "_measure", stop_there)
        assert alone(patch, *options, "--json", str(file)) == 130


def test_an_interrupted_run_goes_on(monkeypatch, options, tmp_path, capsys) -> None:
    file = tmp_path / "out.json"
    interrupted(monkeypatch, options, file, after=2)
    (line,) = lines(capsys.readouterr().err, "stopped")
    assert "run the same command again: it resumes from the 4 examples that are done" in line
    assert not file.exists()
    # More rows: what was measured of the first ones still counts. The last batch, of one row, was never reached.
    assert alone(monkeypatch, *options, "--json", str(file), "--examples", "5") == 0
    assert "4 of 5 examples are done" in capsys.readouterr().err
    found = json.loads(file.read_text())
    assert found["resumed_examples"] == 4 and {example["stopped"] for example in found["per_example"]} == {""}
    assert list(tmp_path.iterdir()) == [file]


def test_sigterm_says_how_to_resume(monkeypatch, options, tmp_path, capsys) -> None:
    from symnoise.cli import curvature

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(curvature, "_measure", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert alone(monkeypatch, *options, "--json", str(tmp_path / "out.json")) == 1
    (line,) = lines(capsys.readouterr().err, "ended from outside")
    assert line.endswith("run the same command again") and "lost" not in line
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_run_with_the_same_file_is_refused(monkeypatch, options, tmp_path, capsys) -> None:
    file = tmp_path / "out.json"
    with one_run(file):
        assert alone(monkeypatch, *options, "--json", str(file)) == 2
    (line,) = lines(capsys.readouterr().err)
    assert "out.json is in use by another run" in line and "choose another file" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_stopped_while_it_loads_says_so(monkeypatch, options, tmp_path, capsys, number) -> None:
    from symnoise.cli import curvature

    monkeypatch.setattr(curvature, "processes", lambda: signal.raise_signal(number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell takes from what runs behind it
    code = alone(monkeypatch, *options, "--json", str(tmp_path / "out.json"))
    signal.signal(signal.SIGINT, before)
    assert code == (130 if number == signal.SIGINT else 1)
    (line,) = lines(capsys.readouterr().err, "stopped")
    assert line.endswith("run the same command again")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "other", [["--seed", "1"], ["--layer", "1"], ["--probes", "2"], ["--method", "hvp"], ["--max-length", "18"]]
)
def test_records_of_other_settings_are_not_used(monkeypatch, options, tmp_path, capsys, other: list[str]) -> None:
    file = tmp_path / "out.json"
    interrupted(monkeypatch, options, file, after=1)
    capsys.readouterr()
    assert alone(monkeypatch, *options, *other, "--json", str(file)) == 0
    assert lines(capsys.readouterr().err, "batches") == [
        f"symnoise: 1 batches of other settings or data stay in {file}.parts"
    ]
    assert json.loads(file.read_text())["resumed_examples"] == 0
    assert alone(monkeypatch, *options, "--json", str(file)) == 0  # the first command finds its own
    assert json.loads(file.read_text())["resumed_examples"] > 0
    assert list(tmp_path.iterdir()) == [file]


def test_another_process_may_remove_the_records_while_they_are_listed(tmp_path, monkeypatch) -> None:
    records, key = BatchRecords(tmp_path / "out.json"), key_of("settings", [0, 1])
    records.write(key, {"trace": [1.5]})
    scandir, folder = os.scandir, tmp_path / "out.json.parts"

    def faster(path: Any) -> Any:
        (folder / f"{key}.json").unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", faster)
    assert records.others([]) == 0
    records.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_record_is_measured_again_and_foreign_files_stay(tmp_path) -> None:
    records, key = BatchRecords(tmp_path / "out.json"), key_of("settings", [0, 1])
    records.write(key, {"trace": [1.5, float("nan")]})
    (found,) = records.read([key]).values()
    assert found["trace"][0] == 1.5 and found["trace"][1] != found["trace"][1]
    (tmp_path / "out.json.parts" / f"{key}.json").write_text('{"trace": [1.')
    assert records.read([key]) == {}
    (tmp_path / "out.json.parts" / "notes.txt").write_text("mine")
    records.remove()
    assert [path.name for path in (tmp_path / "out.json.parts").iterdir()] == ["notes.txt"]
