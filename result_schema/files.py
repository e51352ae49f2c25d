"""Read files that a person or an earlier step wrote; a file that cannot be read gives a one-line error."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symnoise.core import InputError, read_yaml

ROOT = Path(__file__).parents[1]  # of the checkout


def there(path: Path, advice: str) -> Path:
    """`path`; `InputError` with the advice if there is no such file."""
    if not path.is_file():
        raise InputError(f"{path} is missing; {advice}")
    return path


def read_json(path: Path, advice: str, again: str = "delete it and run again") -> Any:
    """The JSON of a file. advice: how to make a missing one; again: how to replace a corrupted one."""
    try:
        return json.loads(there(path, advice).read_text(encoding="utf-8"))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}); {again}") from error


def read_settings(path: Path, what: str, example: str) -> dict[str, Any]:
    """The mapping of a YAML file. what: what it describes; example: where to find one."""
    found = read_yaml(path, what)
    if not isinstance(found, Mapping):
        raise InputError(f"{path} is not a list of settings; see {example}")
    return dict(found)
