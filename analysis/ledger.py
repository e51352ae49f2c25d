"""The ledger for readers: grouped by claim, numbers as text, verdicts counted, undecided rows explained."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from symnoise.core import write_json
from symnoise.plot.numbers import count, decimals_for, fixed, listed, measurement, number, plural
from symnoise.plot.page import write_csv
from symnoise.theory import CLAIMS, Claim, counts

SYMBOLS = {"holds": "✓", "fails": "✗", "undecided": "?"}
# Subjects with known answers, and a pretrained model, as it is or in training.
KNOWN, PRETRAINED = ("sampled", "analytic", "tiny"), ("model", "training")


@dataclass(frozen=True)
class Line:
    """One row of the ledger, as text."""

    quantity: str
    where: str
    prediction: str
    measured: str
    interval: str
    verdict: str
    picture: str
    note: str
    n: str


@dataclass(frozen=True)
class Group:
    """One claim with its rows. reasons: sentences on why rows fail."""

    id: str
    statement: str
    derivation: str
    lines: list[Line]
    counts: dict[str, int]
    reasons: list[str]


def write_ledger(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Write ledger.json and ledger.csv into `folder`; the path of the former."""
    write_json(folder / "ledger.json", rows)
    write_csv(folder / "ledger.csv", pd.DataFrame(rows))
    return folder / "ledger.json"


def groups(rows: list[dict[str, Any]], reasons: dict[str, list[str]], claims: dict[str, Claim] = CLAIMS) -> list[Group]:
    """The rows by claim, in the order of `claims`; a claim without rows is included."""
    unknown = [row["id"] for row in rows if row["id"] not in claims]
    found = []
    for id in dict.fromkeys([*claims, *unknown]):
        own = [row for row in rows if row["id"] == id]
        statement = own[0]["statement"] if own else claims[id].statement
        derivation = claims[id].derivation if id in claims else ""
        found.append(Group(id, statement, derivation, [line(row) for row in own], counts(own), reasons.get(id, [])))
    return found


def line(row: dict[str, Any]) -> Line:
    """One row as text."""
    measured, interval = measurement(row["measured"], row["low"], row["high"])
    return Line(
        quantity=row["quantity"].replace(" = ", "\u00a0=\u00a0"),
        where=row["where"],
        prediction=prediction(row),
        measured=measured,
        interval=interval,
        verdict=row["verdict"],
        picture=picture(row),
        note=note(row),
        n=count(row["n"]),
    )


def prediction(row: dict[str, Any]) -> str:
    """`1.667`, `≤ 0` or `1 ± 0.1`, depending on the relation."""
    if row["relation"] == "at most":
        return f"≤ {number(row['prediction'])}"
    if row["relation"] == "within":
        return f"{number(row['prediction'])} ± {row['resolution']:.3g}"
    value, decimals = number(row["prediction"]), decimals_for(row["low"], row["high"])
    # To the digits of the measurement next to it; a whole number stays whole.
    return value if decimals is None or value.lstrip("−").isdigit() else fixed(row["prediction"], decimals)


def note(row: dict[str, Any]) -> str:
    """Why a row is undecided, and what would decide it."""
    if row["verdict"] != "undecided":
        return ""
    low, high, resolution = row["low"], row["high"], row["resolution"]
    if low is None or high is None:
        if row["id"] == "V1" and row["scheme"] == "ratio-of-means":
            more = "draws" if ".these" in row["key"] else "texts"
            return f"unbounded: the mean second-order term may be 0; more {more} may bound it"
        return "no interval from a single value" if row["n"] == 1 else "no finite interval"
    if row["relation"] == "equals" and resolution and resolution > 0:
        wide = (high - low) / (2 * resolution)
        return f"interval too wide: {number(wide**2, 2)} times the draws would be enough"
    return "the interval crosses the edge of the range"


def picture(row: dict[str, Any], width: int = 108, height: int = 14) -> str:
    """The interval to its own scale: a line at the prediction, the allowed range shaded. "" without an interval."""
    low, high, value, expected = row["low"], row["high"], row["measured"], row["prediction"]
    if any(x is None or not math.isfinite(x) for x in (low, high, value, expected)):
        return ""
    margin = row["resolution"] if row["relation"] == "within" else 0.0
    reach = max(abs(low - expected), abs(high - expected), 1.6 * margin)
    if reach == 0:
        return ""  # exactly as predicted: nothing to draw

    def at(x: float) -> float:
        return round(width / 2 + (x - expected) / reach * (width / 2 - 4), 2)

    middle = height / 2
    allowed = {
        "within": (at(expected - margin), at(expected + margin)),
        "at most": (0.0, at(expected)),
    }.get(row["relation"])
    shade = (
        f'<rect x="{allowed[0]}" y="0" width="{round(allowed[1] - allowed[0], 2)}" height="{height}" class="allowed"/>'
        if allowed
        else ""
    )
    return (
        f'<svg class="picture {row["verdict"]}" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="interval relative to the prediction">{shade}'
        f'<line x1="{at(expected)}" y1="0" x2="{at(expected)}" y2="{height}" class="expected"/>'
        f'<line x1="{at(low)}" y1="{middle}" x2="{at(high)}" y2="{middle}" class="interval"/>'
        f'<circle cx="{at(value)}" cy="{middle}" r="2.6"/></svg>'
    )


@dataclass(frozen=True)
class Part:
    """The rows of one kind: title, note and groups."""

    kind: str
    title: str
    note: str
    counts: dict[str, int]
    subjects: list[dict[str, Any]]
    groups: list[Group]


TITLES = {
    "prediction": ("Predictions", "They could be false for a real model or for training; the measurement decides."),
    "identity": (
        "Identities",
        "Algebra and exact mathematics: they check the implementation and cannot fail in principle. That they hold "
        "says nothing about language models.",
    ),
}


def parts(rows: list[dict[str, Any]], reasons: dict[str, list[str]], claims: dict[str, Claim] = CLAIMS) -> list[Part]:
    """The ledger in two parts: predictions, including claims not measured at all, then identities."""
    found = []
    for kind, (title, note) in TITLES.items():
        own = of_kind(rows, kind)
        mine = {row["id"] for row in own}
        absent = set(claims) - {row["id"] for row in rows} if kind == "prediction" else set()
        shown = {id: claim for id, claim in claims.items() if id in mine | absent}
        failing = {row["id"] for row in own if row["verdict"] == "fails"}
        why = {id: said for id, said in reasons.items() if id in failing}
        found.append(Part(kind, title, note, counts(own), by_subject(own), groups(own, why, shown)))
    return found


def of_kind(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The rows of one kind: "prediction" or "identity"."""
    return [row for row in rows if row["kind"] == kind]


def headline(rows: list[dict[str, Any]]) -> str:
    """The result in a few sentences, from the verdicts: predictions first, then whether all identities hold."""
    predictions, identities = of_kind(rows, "prediction"), of_kind(rows, "identity")
    said = [_predictions(predictions)] if predictions else []
    if identities:
        off = sum(row["verdict"] != "holds" for row in identities)
        number = plural(len(identities), "identity", "identities")
        said.append(
            f"Of {number}, which check the implementation, {off} {'does' if off == 1 else 'do'} not hold: the program "
            "has a bug, or the draws are too few."
            if off
            else f"{'All ' if len(identities) > 1 else ''}{number}, checking the implementation, hold."
        )
    return " ".join(said)


def _predictions(rows: list[dict[str, Any]]) -> str:
    total = counts(rows)
    of = {id: counts([row for row in rows if row["id"] == id]) for id in dict.fromkeys(row["id"] for row in rows)}
    whole = [id for id, c in of.items() if c["holds"] and not c["fails"] and not c["undecided"]]
    failing = [id for id, c in of.items() if c["fails"]]
    open_ = [id for id, c in of.items() if c["undecided"] and not c["fails"]]
    sentences = [
        f"Of {plural(len(rows), 'prediction')}, {total['holds']} {'holds' if total['holds'] == 1 else 'hold'}, "
        f"{total['fails']} {'fails' if total['fails'] == 1 else 'fail'} and "
        f"{total['undecided']} {'is' if total['undecided'] == 1 else 'are'} undecided."
    ]
    if whole:
        sentences.append(f"{listed(whole)} {'holds' if len(whole) == 1 else 'hold'} wherever tested.")
    if failing:
        sentences.append(f"At least one row fails for {listed(failing)}.")
    if open_:
        sentences.append(f"None fails but some are undecided for {listed(open_)}.")
    return " ".join(sentences)


def by_subject(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Verdict counts on sampled noise and small functions, and on the pretrained model."""
    names = {"Sampled noise, analytic function, tiny transformer": KNOWN, "Pretrained model": PRETRAINED}
    parts = {name: [row for row in rows if row["subject"] in subjects] for name, subjects in names.items()}
    return [{"name": name, **counts(part), "total": len(part)} for name, part in parts.items() if part]
