"""Every script of experiments and analysis says what it does and what its options mean, and does nothing else."""

import runpy
import sys
import warnings

import pytest

from result_schema.files import ROOT

# The bench's measuring process, which the bench alone starts.
SCRIPTS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for folder in ("analysis", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if "\nif __name__" in path.read_text(encoding="utf-8") and path.stem != "process"
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_help(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """As `python -m` runs it, in this process: a new one imports torch for five seconds."""
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as ended:
        warnings.simplefilter("ignore", RuntimeWarning)  # of a module that other tests have imported
        runpy.run_module(script, run_name="__main__", alter_sys=True)
    told = capsys.readouterr()
    assert not ended.value.code, told.err
    assert "Usage" in told.out and len(told.out.splitlines()) > 4
