"""The one schema of result tables: what does not fit is refused where it is written and where it is read."""

import json
import signal
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from analysis.study.data import read_study
from experiments.study import spec
from result_schema.bad_input import one_line_on_bad_input
from result_schema.files import ROOT
from result_schema.measures import BENCHMARKS, MEASURES, NORMS, SCORES, SPLIT, TRAINED, improvement
from result_schema.study import ARMS, PLAIN, TABLES, Arm, check_table
from symnoise.core import InputError
from symnoise.noise import noise_names
from tests.analysis.made_up_study import write_study


def table(**changed: object) -> pd.DataFrame:
    row = {"run": "none_a0_s0", "arm": "none", "alpha": 0.0, "seed": 0, "model": "m", "data": "d", "batch": 8}
    return pd.DataFrame([row | {"steps": 2, "status": "done"} | changed])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (table(lenght=3), "unknown column 'lenght'"),
        (table(arm="symnoize"), "unknown arm 'symnoize': did you mean 'symnoise'"),
        (table(status="lost"), "unknown status of a run 'lost'"),
        (table().drop(columns=["seed", "steps"]), "lacks seed, steps; run `make study` again"),
    ],
)
def test_what_is_unknown_is_refused(made: pd.DataFrame, message: str) -> None:
    check_table("runs", table(), "runs", "make study")
    with pytest.raises(InputError, match=message):
        check_table("runs", made, "runs", "make study")


def test_bad_input_is_one_line_whatever_a_library_said(capsys: pytest.CaptureFixture[str]) -> None:
    def program() -> None:
        raise InputError("cannot read it (Invalid data\n\nat byte 3);\tdelete it")

    with pytest.raises(SystemExit) as ended:
        one_line_on_bad_input(program)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "symnoise: cannot read it (Invalid data at byte 3); delete it\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_a_program_that_is_stopped_says_so_and_closes_what_is_open(number, code, tmp_path, capsys) -> None:
    def program() -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path):
            signal.raise_signal(number)

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        one_line_on_bad_input(program)
    assert ended.value.code == code and signal.getsignal(number) is before
    assert capsys.readouterr().err == "symnoise: stopped; run the same command again\n"
    assert list(tmp_path.iterdir()) == []


def test_every_program_ends_with_a_line_on_bad_input() -> None:
    """Those of the studies by their `command`; experiments.bench.process is a process of another program's."""
    said = ("one_line_on_bad_input(", "run_command(", "study_command(")
    ends = {
        path: path.read_text(encoding="utf-8").partition('if __name__ == "__main__":')[2]
        for room in ("experiments", "analysis")
        for path in (ROOT / room).rglob("*.py")
    }
    plain = [path.name for path, end in ends.items() if end and not any(word in end for word in said)]
    assert plain == ["process.py"]


@pytest.mark.parametrize("name", TABLES)
def test_a_study_with_an_unknown_column_is_not_read(name: str, tmp_path: Path) -> None:
    path = write_study(tmp_path, seeds=2, arms=("none", "uniform")) / f"{name}.parquet"
    pd.read_parquet(path).assign(strange=1).to_parquet(path, index=False)
    with pytest.raises(InputError, match=rf"{name}\.parquet: unknown column 'strange'"):
        read_study(tmp_path)


def test_both_sides_have_the_same_arms() -> None:
    assert spec.ARMS is ARMS and {arm.noise for arm in ARMS.values()} <= set(noise_names())
    assert set(PLAIN) == {name for name in ARMS if name.startswith("none")} | {"weight-pair"}  # has noise, but no α
    assert ARMS["none-double-batch"] == Arm("none", batch=2)


def test_every_measure_of_the_published_studies_is_known() -> None:
    assert {*SPLIT, *SCORES, *TRAINED.values(), *(f"{norm} growth" for norm in NORMS)} <= set(MEASURES)
    for path in sorted((ROOT / "results").glob("*/tables/arms.csv")):
        assert set(pd.read_csv(path).measure) <= set(MEASURES), path
    assert improvement("ROUGE-L") == 1 and improvement("held-out loss") == -1 and improvement("tr H") == 0
    assert all(improvement(f"{title} acc") == 1 for title in BENCHMARKS.values())


def test_a_study_file_names_measures_that_there_are(tmp_path: Path) -> None:
    given = spec.read_settings(ROOT / "experiments" / "configs" / "studies" / "micro-smoke.yaml", "study", "")
    given["primary"]["outcomes"] = {"held-out los": 0.1}
    (tmp_path / "mine.yaml").write_text(json.dumps(given))
    with pytest.raises(InputError, match="unknown measure 'held-out los': did you mean 'held-out loss'"):
        spec.load_study(tmp_path / "mine.yaml")
