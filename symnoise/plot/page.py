"""Self-contained pages: a template, figures as data URIs with their files next to them, tables as CSV.

Equal data give equal bytes: nothing here reads the clock or draws a number.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from symnoise.core import write_atomically
from symnoise.plot import numbers
from symnoise.plot.style import save


@dataclass(frozen=True)
class Drawing:
    """A figure of a page; `image` is a data URI, or None where `missing` says what it needs."""

    name: str
    title: str
    alt: str
    caption: str
    image: str | None
    missing: str = ""


def write_page(
    path: Path, templates: Path, template: str, filters: Mapping[str, Callable[..., Any]], **facts: Any
) -> None:
    """Render `template` of the folder `templates` with `facts`, which must have every name it uses, to `path`.

    It extends page.html, and may import `figures` from figures.html; all pages share these. Text is escaped.
    """
    environment = Environment(
        loader=FileSystemLoader([templates, Path(__file__).parent / "templates"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shared = {"seconds": numbers.seconds, "count": numbers.count, "number": numbers.number}
    environment.filters.update(shared | dict(filters))
    page = environment.get_template(template).render(**facts)
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def saved(figure: Figure, data: pd.DataFrame, folder: Path, name: str) -> str:
    """Write `name`.pdf, .png and .csv (what it is drawn from) into `folder`; the figure as a data URI."""
    picture = save(figure, folder, name)
    write_csv(folder / f"{name}.csv", data)
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.encode('utf-8')).decode('ascii')}"


def write_csv(path: Path, data: pd.DataFrame) -> None:
    """`data` as CSV, atomically."""
    text = data.to_csv(index=False, lineterminator="\n")
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
