"""Everything in paper/generated."""

from pathlib import Path

from analysis.paper import pictures, sentences, tables
from analysis.paper.published import Published, read_published
from analysis.paper.values import definitions, values
from result_schema.files import ROOT
from symnoise.core import write_atomically


def texts(published: Published) -> dict[str, str]:
    """file -> LaTeX, for every generated file except the figures themselves."""
    found = {
        "values.tex": definitions(values(published)),
        "failures.tex": sentences.failures(published),
        "table-claims.tex": tables.claims(published),
        "table-ledger.tex": tables.ledger_table(published),
        "table-bench.tex": tables.bench(published),
        "table-arms.tex": tables.arms(published),
        "table-mechanism.tex": tables.mechanism(published),
        "table-length.tex": tables.length(published),
        "table-contrasts.tex": tables.contrasts(published),
        "peers.tex": tables.peers(published),
    }
    found |= pictures.latex(published)
    return {name: f"% Written by `python -m analysis.paper`.\n{text}" for name, text in found.items()}


def write_paper(root: Path = ROOT) -> Path:
    """Write paper/generated from the published results, and return its path. Stale files are removed, so that no old
    figure passes for a new one."""
    published, folder = read_published(root), root / "paper" / "generated"
    found = texts(published)
    for old in [*folder.glob("*.tex"), *folder.glob("figures/*.pdf")]:
        if old.name not in found and old.stem not in pictures.pictures(published):
            old.unlink()
    for name, text in found.items():
        write_atomically(folder / name, lambda path, text=text: path.write_text(text, encoding="ascii"))  # type: ignore[misc]
    pictures.draw(published, folder / "figures")
    return folder
