"""Checkpoints: the noise setting they were made with, whether they are complete, and which are kept."""

import json
import pickle
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from symnoise.core import InputError, out_of_memory, reason, write_json
from symnoise.noise import Noise
from symnoise.training.options import NoiseOptions

FILE = "symnoise.json"
_STATE = "trainer_state.json"  # the last file that Transformers writes into a checkpoint


def setting(noise: Noise | None, seed: int, options: NoiseOptions, **more: Any) -> dict[str, Any]:
    """The noise of a run, as plain values; without the number of steps, since a longer run may continue one."""
    if noise is None:
        return {"noise": "none", "alpha": 0.0}
    chosen = {key: value for key, value in asdict(options).items() if key != "steps"}
    return {
        "noise": noise.name,
        "alpha": noise.alpha,
        "seed": seed,
        **chosen,
        **more,
    }


def write_setting(folder: str | Path, value: dict[str, Any]) -> None:
    """Write `value` as symnoise.json into a checkpoint."""
    write_json(Path(folder) / FILE, value)


def warn_if_other(folder: str | Path, ours: dict[str, Any]) -> None:
    """Warn if the checkpoint in `folder` was made with a setting other than `ours`, reporting both."""
    file = Path(folder) / FILE
    theirs = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"noise": "none", "alpha": 0.0}
    keys = [key for key in ours if key in theirs and theirs[key] != ours[key]]
    if keys:
        both = "; ".join(f"{key} was {theirs[key]!r}, now {ours[key]!r}" for key in keys)
        warnings.warn(f"{folder} was made with another noise setting: {both}", stacklevel=3)


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete checkpoint: a process killed while saving leaves an incomplete one."""
    for folder in _newest_first(output_dir):
        if is_whole(folder):
            return folder
        warnings.warn(f"{folder} is incomplete, left by an interrupted save; passing over it", stacklevel=3)
    return None


def _newest_first(output_dir: str | Path) -> list[Path]:
    """By their steps: the clock may have jumped between two of them."""
    folders = [folder for folder in Path(output_dir).glob("checkpoint-*") if folder.name.split("-")[-1].isdigit()]
    return sorted(folders, key=step_of, reverse=True)


def is_whole(checkpoint: Path) -> bool:
    """Whether it has its last file."""
    try:
        json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def keep_newest(output_dir: str | Path, count: int) -> None:
    """Delete all but the newest `count` complete checkpoints, and incomplete ones; the file that says so goes first."""
    folders = _newest_first(output_dir)
    kept = [folder for folder in folders if is_whole(folder)][:count]
    for folder in folders:
        if folder not in kept:
            (folder / _STATE).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def loading(checkpoint: Path) -> Iterator[None]:
    """A file that cannot be read is an `InputError`; one of another model is Transformers' error."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        if isinstance(error, InputError) or out_of_memory(error) or "state_dict" in str(error):
            raise
        raise InputError(
            f"cannot read {checkpoint}: {reason(error)}; delete it to resume from the checkpoint before it"
        ) from error


def step_of(checkpoint: Path) -> int:
    """The optimizer step that a folder named checkpoint-<step> was saved at."""
    return int(checkpoint.name.split("-")[-1])


def resolve(resume_from: str | bool | None, output_dir: str | None) -> str | None:
    """The folder to resume from: `True` means the newest whole checkpoint in `output_dir`, which must exist."""
    if resume_from is None or resume_from is False:
        return None
    if resume_from is not True:
        return str(resume_from)
    folder = last_whole_checkpoint(output_dir or ".")
    if folder is None:
        raise InputError(f"no whole checkpoint in {output_dir} to resume from; start without resume_from_checkpoint")
    return str(folder)
