"""Data files that come inside other packages."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from symnoise.core.errors import InputError


@dataclass(frozen=True)
class PackagedFile:
    """A file inside a package of the Python index, which is installed without its dependencies and never imported.

    Attributes:
        name: What users call it, as in `symnoise fetch NAME`.
        what: What it is, for messages.
        module: The package's module, in whose folder the file lies.
        requirement: The pinned package, PACKAGE==VERSION.
        pattern: The file's name, as a glob pattern.
        sha256: SHA-256 of the package's wheel.
        size: Bytes of the wheel.
    """

    name: str
    what: str
    module: str
    requirement: str
    pattern: str
    sha256: str
    size: int

    def find(self) -> Path | None:
        """The file, if the package is installed."""
        spec = importlib.util.find_spec(self.module)  # does not import a top-level package
        folders = spec.submodule_search_locations if spec else None
        return next((path for folder in folders or [] for path in sorted(Path(folder).glob(self.pattern))), None)

    def path(self) -> Path:
        """The file; `InputError` with the command to install it if it is missing."""
        if found := self.find():
            return found
        raise InputError(
            f"{self.what} is not installed: run `symnoise fetch {self.name}` (or `pip install --no-deps "
            f"{self.requirement}`)"
        )
