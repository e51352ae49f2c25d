"""Sentences that say what the verdicts say, whichever way they fall."""

from typing import Any

from analysis.findings import findings
from analysis.ledger import PRETRAINED
from analysis.paper.published import Published
from analysis.paper.tex import tex
from analysis.paper.values import found_in_words
from analysis.reasons import reasons
from symnoise.plot.numbers import listed


def failures(published: Published) -> str:
    """A paragraph for each claim that fails on the pretrained model: which predictions, and what the run tells why."""
    why = reasons(published.rows, published.tables)
    said = []
    for id in dict.fromkeys(row["id"] for row in published.rows):
        failed = [row for row in published.rows if row["id"] == id and _fails_on_model(row)]
        if failed:
            rows = "; ".join(found_in_words(row) for row in failed)
            why_so = tex(" ".join(why.get(id, [])))
            said.append(rf"\paragraph{{\claim{{{id}}}}} {rows[:1].upper() + rows[1:]}. {why_so}" + "\n")
    return "\n".join(said) or "No prediction fails on the pretrained model.\n"


def abstract(published: Published) -> str:
    """What was found, then for which claims a prediction fails on the pretrained model."""
    said = " ".join(tex(sentence.replace("**", "").replace("`", "")) for sentence in findings(published))
    if not any(published.studies.values()):
        said += " Fine-tuning outcomes over many seeds have not been run for this version of the text."
    ids = list(dict.fromkeys(row["id"] for row in published.rows if _fails_on_model(row)))
    names = listed([rf"\claim{{{id}}}" for id in ids])
    failing = f"at least one prediction fails for {names}" if ids else "no prediction fails"
    return f"{said} On the pretrained model {failing}.\n"


def _fails_on_model(row: dict[str, Any]) -> bool:
    return row["verdict"] == "fails" and row["subject"] in PRETRAINED
