"""Shared by all self-contained pages: templates, figures as data URIs with their files next to them, tables as CSV.

Equal data give equal bytes: nothing here reads the clock or draws random numbers.
"""

import base64
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis import numbers
from analysis.ledger import SYMBOLS
from analysis.style import save
from symnoise.core import write_atomically


@dataclass(frozen=True)
class Drawing:
    """A figure of a page. image: a data URI, or None, with `missing` saying what it needs."""

    name: str
    title: str
    alt: str
    caption: str
    image: str | None
    missing: str = ""


def write_page(path: Path, template: str, **facts: Any) -> None:
    """Render `template` to `path`; `facts` must have every name that it uses."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        maths=_maths, svg=Markup, seconds=numbers.seconds, count=numbers.count, number=numbers.number
    )
    page = environment.get_template(template).render(symbols=SYMBOLS, **facts)
    write_atomically(path, lambda temporary: temporary.write_text(page, encoding="utf-8"))


def drawn(module: ModuleType, data: pd.DataFrame, folder: Path, name: str, title: str = "") -> Drawing:
    """Draw `data` with a figure's module, and write PDF, PNG and CSV into `folder`."""
    picture = save(module.draw(data), folder, name)
    write_csv(folder / f"{name}.csv", data)
    encoded = base64.b64encode(picture.encode("utf-8")).decode("ascii")
    image = f"data:image/svg+xml;base64,{encoded}"
    return Drawing(name, title or module.TITLE, module.ALT, module.caption(data), image)


def not_drawn(module: ModuleType, why: str, folder: Path, name: str, title: str = "") -> Drawing:
    """A placeholder for a figure that cannot be drawn; removes an older run's picture, which would pass for new."""
    for suffix in (".pdf", ".png", ".csv"):
        (folder / f"{name}{suffix}").unlink(missing_ok=True)
    return Drawing(name, title or module.TITLE, module.ALT, "", None, why)


def write_csv(path: Path, data: pd.DataFrame) -> None:
    """`data` as CSV, atomically."""
    text = data.to_csv(index=False, lineterminator="\n")
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _maths(text: str) -> Markup:
    """Plain-text formulas with subscripts (`κ_a`, `Σ_{i≠j}`) as HTML."""
    return Markup(re.sub(r"_(?:\{([^}]*)\}|([A-Za-z]+))", r"<sub>\1\2</sub>", str(escape(text))))
