"""The paper's figures: PDF files at print size, and their LaTeX with the generated captions."""

from pathlib import Path
from types import ModuleType

import pandas as pd

from analysis import budgets, figures
from analysis.paper.published import FIGURES, STUDY_FIGURES, Published
from analysis.paper.tex import tex
from analysis.study import figures as study_figures
from symnoise.core import write_atomically
from symnoise.plot.style import style


def pictures(published: Published) -> dict[str, tuple[ModuleType, pd.DataFrame]]:
    """name -> module and data, for every figure that can be drawn."""
    found = {name: (figures.FIGURES[name], published.frames[name]) for name in FIGURES if name in published.frames}
    for study, results in (published.studies | published.mechanism).items():
        if results is not None:
            for name, data in results.frames.items():
                if name == "forest":  # the claims' contrasts at the study's own α: its page has all
                    data = results.at_own_alpha(data[data.family != "controls"])
                found[f"{study}-{name}"] = (study_figures.FIGURES[name], data)
    if published.budgets is not None:
        found["budgets"] = (budgets, published.budgets.points)
    return found


def latex(published: Published) -> dict[str, str]:
    """figure-NAME.tex -> a floating figure; for a study that has not been run, a line that says so."""
    found = {}
    for name, (module, data) in pictures(published).items():
        found[f"figure-{name}.tex"] = (
            f"\\begin{{figure*}}[!tb]\n\\centering\n\\includegraphics{{{name}}}\n"
            f"\\caption{{\\textbf{{{tex(module.TITLE)}.}} {tex(module.caption(data))}}}\n"
            f"\\label{{fig:{name}}}\n\\end{{figure*}}\n"
        )
    for study, names in STUDY_FIGURES.items():
        for name in names:
            found.setdefault(f"figure-{study}-{name}.tex", f"% {study}: {name} has not been run\n")
    found.setdefault("figure-budgets.tex", "% no variance budget has been run\n")
    return found


def draw(published: Published, folder: Path) -> None:
    """Write NAME.pdf for every figure; equal data give equal bytes."""
    for name, (module, data) in pictures(published).items():
        drawn = module.draw(data)
        with style():
            write_atomically(
                folder / f"{name}.pdf",
                lambda path, drawn=drawn: drawn.savefig(path, metadata={"CreationDate": None}),  # type: ignore[misc]
            )
