"""Result files: written atomically, with their provenance."""

import hashlib
import json
import os
import platform
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from symnoise import __version__
from symnoise.core.errors import InputError, reason, unwritable
from symnoise.core.locks import temporary


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary path in the same folder)`, then move the result to `path` in one step.

    A reader sees the old file or the new one, never half of one. The temporary file is removed on failure, and one that
    a killed process left by the next process that writes to `path`.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary(path) as made:
            write(made)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(made, 0o666 & ~umask)  # temporary files are private; results are for everyone
            os.replace(made, path)
    except OSError as error:
        raise unwritable(path, error) from error


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` atomically as indented UTF-8 JSON. NaN and infinity, which JSON lacks, become null."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def made_in_one_step(folder: Path) -> Iterator[Path]:
    """Build a folder at the temporary path that this yields, then rename it to `folder` in one step.

    An interrupt leaves nothing behind, and what a kill leaves is removed by the next process that builds the folder. Of
    two processes that build it at once, the slower uses the faster one's.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary(folder, folder=True) as made:
        fresh = made / folder.name  # a folder of its own: temporary ones are private to the user
        yield fresh
        try:
            fresh.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same content
                raise


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # tensors and arrays
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not (-float("inf") < value < float("inf")):
        return None
    return value


def read_yaml(path: str | Path, what: str) -> Any:
    """The content of the YAML file `path`; `InputError`, which calls it the `what`, if it cannot be read."""
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))  # its C parser crashes where brackets nest deeply
    except OSError as error:
        said = error.strerror
    except UnicodeDecodeError as error:
        said = reason(error)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-02-30 is no date
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        said = f"it is not YAML, {line}{getattr(error, 'problem', None) or reason(error)}"
    raise InputError(f"cannot read the {what} {path}: {said}")


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_of(value: Any) -> str:
    """Hexadecimal SHA-256 of a value of JSON's types, as JSON with its keys in order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def provenance() -> dict[str, Any]:
    """Versions, git commit (null unless the package is in a checkout of its own) and platform of this process."""
    versions: dict[str, str | None] = {"symnoise": __version__}  # works without being installed
    for name in ("torch", "transformers", "numpy", "scipy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "platform": platform.platform(),
    }


def _commit() -> str | None:
    """Commit of the checkout whose top level holds this package; None elsewhere, and without git.

    git also finds a repository above that, such as that of a project in whose .venv the package is installed.
    """
    top = Path(__file__).resolve().parents[2]
    command = ["git", "rev-parse", "--show-toplevel", "HEAD"]
    try:
        git = subprocess.run(command, cwd=top, capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    found = git.stdout.splitlines()
    return found[1] if git.returncode == 0 and Path(found[0]).resolve() == top else None


def peak_rss_mib() -> float:
    """Largest resident set size of this process so far, MiB (ru_maxrss is KiB on Linux, bytes on macOS)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if platform.system() == "Linux" else peak / 1024**2
