"""Read the files of a run's earlier steps."""

from pathlib import Path
from typing import Any

import torch

from result_schema.files import read_json
from symnoise.models import LoadedModel, load_model


def records(path: Path) -> dict[str, Any]:
    """The JSON of one step; `InputError` where it is missing or not whole."""
    return read_json(path, "make study makes it")


def weights(place: Path, when: str) -> LoadedModel:
    """The model that train left in the run's folder `place`, on a GPU where there is one, as training was."""
    return load_model(place / "weights" / when, device="cuda" if torch.cuda.is_available() else "cpu")


def best_is_end(place: Path) -> bool:
    """Whether the held-out loss of the run in `place` was lowest at the end, so that its two models are one."""
    curve = records(place / "train.json")["curve"]
    return min(curve, key=lambda point: point["held-out loss"])["step"] == curve[-1]["step"]


def processor() -> str:
    """What a step computes on: the name of the GPU, else "cpu". Numbers of two processors differ by rounding."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
