"""Data files that come inside other packages."""

import importlib.util
from pathlib import Path

from symnoise.core.errors import InputError


def packaged_file(what: str, module: str, requirement: str, pattern: str) -> Path:
    """The file matching `pattern` in the installed package `module`, which is not imported.

    Raises `InputError` with the command that installs `requirement` if `what` is missing.
    """
    spec = importlib.util.find_spec(module)  # does not import a top-level package
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or []:
        for path in sorted(Path(folder).glob(pattern)):
            return path
    raise InputError(f"{what} is not installed: run `pip install --no-deps {requirement}`")
