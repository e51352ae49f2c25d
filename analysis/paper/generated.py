"""Everything in paper/generated."""

from pathlib import Path

from analysis.paper import outcomes, pictures, sentences, tables
from analysis.paper.landed import Landed, read_landed
from analysis.paper.values import definitions, values
from result_schema.files import ROOT
from symnoise.core import write_atomically


def texts(landed: Landed) -> dict[str, str]:
    """file -> LaTeX, of every generated file but the figures themselves."""
    found = {
        "values.tex": definitions(values(landed)),
        "abstract.tex": sentences.abstract(landed),
        "failures.tex": sentences.failures(landed),
        "outcomes.tex": outcomes.paragraphs(landed),
        "table-claims.tex": tables.claims(landed),
        "table-ledger.tex": tables.ledger(landed),
        "table-bench.tex": tables.bench(landed),
        "table-arms.tex": tables.arms(landed),
        "table-contrasts.tex": tables.contrasts(landed),
        "peers.tex": tables.peers(landed),
    }
    found |= pictures.latex(landed)
    return {name: f"% Written by `python -m analysis.paper`.\n{text}" for name, text in found.items()}


def write_paper(root: Path = ROOT) -> Path:
    """Write paper/generated from what has landed; its path. What this run does not write goes, so that no old figure
    passes for a new one."""
    landed, folder = read_landed(root), root / "paper" / "generated"
    found = texts(landed)
    for old in [*folder.glob("*.tex"), *folder.glob("figures/*.pdf")]:
        if old.name not in found and old.stem not in pictures.pictures(landed):
            old.unlink()
    for name, text in found.items():
        write_atomically(folder / name, lambda path, text=text: path.write_text(text, encoding="ascii"))  # type: ignore[misc]
    pictures.draw(landed, folder / "figures")
    return folder
