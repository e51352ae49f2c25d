"""Reading what an earlier step of a run left."""

import json
from pathlib import Path
from typing import Any

import torch

from symnoise.core import InputError
from symnoise.models import LoadedModel, load_model


def records(path: Path) -> dict[str, Any]:
    """The JSON of one step; `InputError` where it is missing or not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; make study makes it") from None
    except ValueError as error:
        raise InputError(f"cannot read {path} ({error}); delete it and run again") from error


def weights(place: Path, when: str) -> LoadedModel:
    """The model that train left in the run's folder `place`, on a GPU where there is one."""
    return load_model(place / "weights" / when, device="cuda" if torch.cuda.is_available() else "cpu")
