"""GGUF files converted to safetensors once, in a cache of the user's."""

import os
import re
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

from symnoise.core import InputError, made_in_one_step, reason, sha256, unwritten
from symnoise.models import gguf


def cache_folder() -> Path:
    """$SYMNOISE_CACHE, else the platform's folder for caches: $XDG_CACHE_HOME/symnoise, else on Linux
    ~/.cache/symnoise."""
    if own := os.environ.get("SYMNOISE_CACHE"):
        return Path(own).expanduser()
    return platformdirs.user_cache_path("symnoise", appauthor=False)


def folder_of(name: str, digest: str) -> Path:
    """Where the model called `name` lies as safetensors once converted from the GGUF with this SHA-256; it need not
    exist yet."""
    return cache_folder() / f"{re.sub(r'[^A-Za-z0-9._-]', '-', name)}-{digest[:16]}"


def converted(source: Path, name: str) -> tuple[Path, str]:
    """(folder with safetensors, configuration and tokenizer; SHA-256 of the GGUF `source`), converting on first use.

    Reading SmolLM2's GGUF takes some 8 s, reading the folder (0.5 GB, the same numbers) one. Quantised weights are
    kept in float32, which is up to eight times the size of the file; weights in 16 bit stay in 16 bit. The conversion
    is made in a temporary folder and moved into place in one step: an interrupted one leaves no model behind, and of
    two processes that convert at once the slower uses what the faster has put there.
    """
    digest = sha256(source)
    folder = folder_of(name, digest)
    if not folder.is_dir():
        with gguf.read_once():
            _keep(source, folder, name)
    return folder, digest


def _keep(source: Path, folder: Path, name: str) -> None:
    room = 4 * sum(int(tensor.n_elements) for tensor in gguf.open_file(source).tensors) / 1e9
    try:
        with made_in_one_step(folder) as fresh:
            _convert(source, fresh, folder, name)
    except Exception as error:
        why = unwritten(error)
        if isinstance(error, OSError) and not why:  # Transformers' word for a file that it cannot make sense of
            raise InputError(f"cannot read {source}: {reason(error)}") from error
        if isinstance(error, InputError) or not why:
            raise
        raise InputError(
            f"cannot keep {name} in {folder.parent}: {why}; it needs {room:.1f} GB there, or "
            "set SYMNOISE_CACHE to another folder"
        ) from error


def _convert(source: Path, target: Path, folder: Path, name: str) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    print(f"symnoise: first use of {name}: converting {source.name} to {folder} (once)", file=sys.stderr)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(file=sys.stderr)  # the real one: inside, Transformers' own bars are turned away
    with Progress(*columns, console=console, transient=True) as progress, redirect_stderr(StringIO()):
        task = progress.add_task("reading the weights", total=3)
        model = gguf.load_weights(source)
        progress.update(task, advance=1, description="reading the tokenizer")
        tokenizer = gguf.load_tokenizer(source)
        progress.update(task, advance=1, description="writing safetensors")
        model.save_pretrained(target, state_dict=_smallest(model.state_dict()))
        tokenizer.save_pretrained(target)
        progress.advance(task)


def _smallest(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor in a 16-bit type where one holds it exactly, as for files in 16 bit; tied ones stay one tensor."""
    made: dict[tuple[int, torch.Size], Tensor] = {}
    for tensor in weights.values():
        smaller = (tensor.to(kind) for kind in (torch.float16, torch.bfloat16))
        exact = (one for one in smaller if torch.equal(one.to(tensor.dtype), tensor))
        made[tensor.data_ptr(), tensor.shape] = next(exact, tensor)
    return {name: made[tensor.data_ptr(), tensor.shape] for name, tensor in weights.items()}
