"""What the pages of a run and of a study share: their templates, formulas, and figures drawn by a module."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from analysis.ledger import SYMBOLS
from symnoise.plot import page
from symnoise.plot.page import Drawing, saved

_TEMPLATES = Path(__file__).parent / "templates"


def write_page(path: Path, template: str, **facts: Any) -> None:
    """Render `template` with `facts`, which must have every name it uses, to `path`."""
    page.write_page(path, _TEMPLATES, template, {"maths": _maths, "svg": Markup}, symbols=SYMBOLS, **facts)


def drawn(module: ModuleType, data: pd.DataFrame, folder: Path, name: str, title: str = "") -> Drawing:
    """Draw `data` with a figure's module, and write PDF, PNG and CSV into `folder`."""
    image = saved(module.draw(data), data, folder, name)
    return Drawing(name, title or module.TITLE, module.ALT, module.caption(data), image)


def not_drawn(module: ModuleType, why: str, folder: Path, name: str, title: str = "") -> Drawing:
    """A placeholder for a figure that cannot be drawn; removes an older run's picture, which could be taken for new."""
    for suffix in (".pdf", ".png", ".csv"):
        (folder / f"{name}{suffix}").unlink(missing_ok=True)
    return Drawing(name, title or module.TITLE, module.ALT, "", None, why)


def _maths(text: str) -> Markup:
    """Plain-text formulas with subscripts (`κ_a`, `Σ_{i≠j}`) as HTML."""
    return Markup(re.sub(r"_(?:\{([^}]*)\}|([A-Za-z]+))", r"<sub>\1\2</sub>", str(escape(text))))
