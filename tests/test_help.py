"""Every script of experiments and analysis says what it does and what its options mean, and does nothing else."""

import subprocess
import sys

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
def test_help_is_help(script: str) -> None:
    told = [sys.executable, "-m", script, "--help"]
    done = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout and len(done.stdout.splitlines()) > 4
