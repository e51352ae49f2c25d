"""The figures on one page of the site, drawn from the published results, with its caption and source file.

python -m analysis.gallery     # docs/gallery/index.md, and a PNG, PDF and CSV of each figure
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pandas as pd
import typer

from analysis import budgets, figures
from analysis.figures import density, growth
from analysis.page import drawn
from analysis.paper.published import STUDIES
from analysis.study import figures as study_figures
from result_schema.bad_input import one_line_on_bad_input
from result_schema.files import ROOT
from symnoise.core import write_atomically

HEAD = """# Gallery

Figures, drawn from the runs published in the repository (a study's page in `results` has all of its own); equal data
give equal bytes. One file draws one figure: its `draw(frame)` takes the table linked below the picture, so you can
draw your own run the same way.
"""


@dataclass(frozen=True)
class Entry:
    """A figure: its name here, its module, and its data, or None if `command` has not been run."""

    name: str
    module: ModuleType
    data: pd.DataFrame | None
    command: str

    @property
    def anchor(self) -> str:
        """Its section in docs/figures.md: the module's name, with "study-" for a figure of a study."""
        room, _, name = self.module.__name__.rpartition(".")
        return f"study-{name}" if "study" in room else name


def entries(root: Path = ROOT) -> dict[str, list[Entry]]:
    """Section -> its figures, with the data found under `root`."""
    docs = root / "docs"
    sections = {
        "Theory against measurement": [
            Entry(name, module, _read(docs / "quick" / "data" / f"{name}.csv"), "make reproduce")
            for name, module in figures.FIGURES.items()
        ],
        "What noise works by": [
            Entry(
                "dials",
                study_figures.FIGURES["dials"],
                _read(root / "results" / "dials" / "figures" / "dials.csv"),
                "make study STUDY=dials",
            ),
            Entry(
                "budgets",
                budgets,
                _read(root / "results" / "variance-budget" / "tables" / "budgets.csv"),
                "python -m experiments.study.budget",
            ),
        ],
        "The engine": [
            Entry("growth", growth, _framed(growth, docs), "make bench"),
            Entry("density", density, _framed(density, docs / "spectra"), "python -m experiments.spectra"),
        ],
    }
    for study in STUDIES:
        drawings = root / "results" / study / "figures"
        sections[f"The study {study}"] = [
            Entry(f"{study}-{name}", module, _read(drawings / f"{name}.csv"), f"make study STUDY={study}")
            for name, module in study_figures.FIGURES.items()
            if name != "dials"  # these studies have none
        ]
    return sections


def _framed(module: ModuleType, folder: Path) -> pd.DataFrame | None:
    tables = {name: _read(folder / f"{name}.csv") for name in module.TABLES}
    return None if any(table is None for table in tables.values()) else module.frame(tables)


def _read(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path) if path.is_file() else None


def write_gallery(root: Path = ROOT) -> Path:
    """Rebuild docs/gallery with its figures; return the path of its page."""
    folder = root / "docs" / "gallery"
    shutil.rmtree(folder, ignore_errors=True)
    text = "\n".join([HEAD, *_lines(entries(root), folder)])
    write_atomically(folder / "index.md", lambda path: path.write_text(text, encoding="utf-8"))
    return folder / "index.md"


def _lines(sections: dict[str, list[Entry]], folder: Path) -> Iterator[str]:
    for section, found in sections.items():
        yield f"## {section}\n"
        for entry in found:
            source = f"{entry.module.__name__.replace('.', '/')}.py"
            if entry.data is None:
                yield f"### {entry.module.TITLE}\n\nNot drawn: nothing published yet. `{entry.command}` measures it.\n"
                continue
            made = drawn(entry.module, entry.data, folder, entry.name)
            files = ", ".join(f"[{kind.upper()}]({entry.name}.{kind})" for kind in ("pdf", "png", "csv"))
            yield f"### {made.title}\n\n![{made.alt}]({entry.name}.png)\n\n{made.caption}\n"
            reading = f"[How to read it](../figures.md#{entry.anchor})"
            yield f"{reading}. Drawn by `{source}` from `{entry.command}`: {files}.\n"


def main() -> None:
    """Rebuild docs/gallery: every figure that there is, of what is published."""
    print(write_gallery())


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
