"""What the README says is run, and what it reports is what has landed."""

import re
from pathlib import Path

from analysis.readme import ROOT, landed, stages, table, written

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_ten_lines_run(smollm2, capsys) -> None:
    (code, *_) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    assert len(code.strip().splitlines()) <= 10
    exec(compile(code, "README.md", "exec"), {})
    assert "taylor" in capsys.readouterr().out


def test_the_tables_are_the_landed_run_s() -> None:
    ledger, run = landed()
    assert table(ledger) in README
    assert stages(run) in README
    assert written(README, ledger, run) == README


def test_every_file_it_names_is_there() -> None:
    for name in re.findall(r"\]\(([^)h#][^)]*)\)", README):
        assert (ROOT / name).is_file(), name
    for name in ("examples", "experiments/quick.py", "experiments/bench.py"):
        assert Path(ROOT / name).exists(), name
