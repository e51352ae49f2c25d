"""Sentences computed from the verdicts."""

from typing import Any

from analysis.ledger import PRETRAINED
from analysis.paper.published import Published
from analysis.paper.tex import tex
from analysis.paper.values import found_in_words
from analysis.reasons import reasons


def failures(published: Published) -> str:
    """One paragraph per claim that fails on the pretrained model: its failing predictions, and the run's evidence."""
    why = reasons(published.rows, published.tables)
    said = []
    for id in dict.fromkeys(row["id"] for row in published.rows):
        failed = [row for row in published.rows if row["id"] == id and _fails_on_model(row)]
        if failed:
            rows = "; ".join(found_in_words(row) for row in failed)
            why_so = tex(" ".join(why.get(id, [])))
            said.append(rf"\paragraph{{\claim{{{id}}}}} {rows[:1].upper() + rows[1:]}. {why_so}" + "\n")
    return "\n".join(said) or "No prediction fails on the pretrained model.\n"


def _fails_on_model(row: dict[str, Any]) -> bool:
    return row["verdict"] == "fails" and row["subject"] in PRETRAINED
