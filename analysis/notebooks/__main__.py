"""Run the notebooks from top to bottom, each in a fresh kernel, and store their outputs.

python -m analysis.notebooks            # all
python -m analysis.notebooks 02 05      # those whose names start with these
"""

import base64
import io
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import nbformat
import typer
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from PIL import Image

from result_schema.bad_input import one_line_on_bad_input
from symnoise.core import InputError, write_atomically

FOLDER = Path(__file__).parent
LIMIT = 3600  # seconds per cell, for busy machines; on 2 idle cores a whole notebook takes under 3 minutes
COLOURS = 128  # of a stored picture: a third of the size, no visible difference in lines and points


def execute(path: Path) -> float:
    """Run the notebook in its own folder and store it with its outputs; return the seconds it took.

    Raises nbclient's errors where a cell fails or the kernel dies; the stored notebook then stays as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # tqdm would like widgets, which are not kept
    started = time.perf_counter()
    client = NotebookClient(
        notebook, timeout=LIMIT, record_timing=False, coalesce_streams=True, resources={"metadata": {"path": FOLDER}}
    )
    client.execute()
    clean(notebook)
    write_atomically(path, lambda temporary: nbformat.write(notebook, temporary))
    return time.perf_counter() - started


def clean(notebook: Any) -> None:
    """Remove machine-specific output, and shrink pictures."""
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", []):
            output.get("metadata", {}).clear()
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = small(data["image/png"])


def small(encoded: str) -> str:
    """A base64 PNG reduced to a palette of `COLOURS` colours."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    file = io.BytesIO()
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def main(
    chosen: Annotated[list[str] | None, typer.Argument(help="How the names begin, such as 01; all by default.")] = None,
) -> None:
    """Execute notebooks in place. Raises `InputError` if one is not there."""
    names, known = chosen or [], sorted(FOLDER.glob("*.ipynb"))
    for name in names:
        if not any(path.name.startswith(name) for path in known):
            raise InputError(f"no notebook begins with {name!r}; there are {', '.join(path.stem for path in known)}")
    for path in known:
        if not names or path.name.startswith(tuple(names)):
            try:
                print(f"{path.stem}: {execute(path):.0f} s")
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                print(f"{path.stem}: {error}", file=sys.stderr)
                sys.exit(1)


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
