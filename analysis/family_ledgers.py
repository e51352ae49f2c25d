"""The ledger's rows on several models, side by side: what holds on one, does it hold on another?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from analysis.ledger import SYMBOLS, line
from analysis.records import read_run
from result_schema.files import ROOT, read_json
from symnoise.core import InputError, write_json
from symnoise.plot.numbers import listed, number, plural
from symnoise.theory import CLAIMS

FOLDER, COMMAND = "ledgers", "run `python -m experiments.families`"
SIZES = ("text", "range")  # settings of a run on which its rows on the model depend
MAIN, MAIN_RUN = "smollm2", ROOT / "docs" / "quick"
_HEAD = """## The ledger

Every row of the ledger that is measured on a model, in the main run on SmolLM2 ([results](results.md)) and by the same
command on others, on the same text: `python -m experiments.quick --config experiments/configs/families.yaml --model ID
--output runs/ID`, then `python -m analysis.families --ledger runs/ID`. V1, P1 and P2 are of {main} examples in the main
run and of {others} in the others. ✓ holds, ✗ fails, ? undecided; in brackets the interval that decides.
"""


def publish(run: Path, folder: Path) -> Path:
    """Write the rows on the model of the quick run in `run` into `folder`/ledgers; the path of the file.

    Raises `InputError` for a run without such rows, and for a model that has no record in `folder`.
    """
    found = read_run(run)
    rows = [row for row in found.rows if row["subject"] == "model"]
    settings = {key: value for record in found.stages.values() for key, value in record["settings"].items()}
    if not rows:
        raise InputError(f"{run} has no rows on a model: python -m experiments.quick --model ID --output {run}")
    file = _file(settings["model"])
    if not (folder / file).is_file():
        raise InputError(f"{folder} has no record of {Path(file).stem}: {COMMAND} on it first")
    measured = [
        record for record in found.stages.values() if any(row in rows for row in record["result"].get("rows", []))
    ]
    made = {key: measured[-1][key] for key in ("python", "versions", "platform")}
    made |= {"commits": list(dict.fromkeys(record["commit"] for record in measured))}
    path = folder / FOLDER / file
    write_json(path, {"sizes": {key: settings[key] for key in SIZES}, "rows": rows, **made})
    return path


def _file(model: str) -> str:
    """The name of a model's files, by its hub id or its folder."""
    return f"{Path(model).name.lower()}.json"


def records(folder: Path) -> list[dict[str, Any]]:
    """The records of `experiments.families` in the folder, smaller models first."""
    found = (read_json(path, f"{COMMAND} first") for path in folder.glob("*.json"))
    return sorted(found, key=lambda one: one["parameters"])


@dataclass(frozen=True)
class Slope:
    """V1's slope of a model at one α, for these texts: a row of its ledger.  r: of its record, on other rows."""

    r: float
    model: str
    alpha: float
    row: dict[str, Any]


def slopes(folder: Path) -> list[Slope]:
    """Those of all models that have a ledger, in the order of r; none where only the main run's model has one."""
    return _slopes(_ledgers(folder))


def rank_correlation(found: list[Slope]) -> float:
    """Spearman's, of r and the measured slopes."""
    return float(stats.spearmanr([one.r for one in found], [one.row["measured"] for one in found]).statistic)


def section(folder: Path) -> str:
    """The section of the page on the ledgers of the folder's models; "" where none but the main run's is there."""
    ledgers = _ledgers(folder)
    if not ledgers:
        return ""
    examples = sorted({one.examples for one in ledgers if one.model != MAIN})
    head = _HEAD.format(main=_main_examples(), others=" or ".join(map(str, examples)))
    return f"{_by_ratio(_slopes(ledgers))}\n\n{head}\n{_agreement(ledgers)}\n\n{_table(ledgers)}\n"


@dataclass(frozen=True)
class _Ledger:
    """rows: by key, those on the model.  r: by α, of the model's record.  examples: of V1 and P2."""

    model: str
    rows: dict[str, dict[str, Any]]
    r: dict[float, float]
    examples: int


def _ledgers(folder: Path) -> list[_Ledger]:
    """Of each model, smaller ones first, with the main run's; none where there is no other's."""
    found = []
    for record in records(folder):
        model, path = record["model"], folder / FOLDER / _file(record["model"])
        if model == MAIN:
            rows = [row for row in _read(MAIN_RUN / "ledger.json") if row["subject"] == "model"]
            examples = _main_examples()
        elif path.is_file():
            published = _read(path)
            rows, examples = published["rows"], published["sizes"]["range"]["examples"]
        else:
            continue
        r = {point["alpha"]: point["value"] for point in record["points"] if point["quantity"] == "r"}
        found.append(_Ledger(model, {row["key"]: row for row in rows}, r, examples))
    return found if any(one.model != MAIN for one in found) else []


def _main_examples() -> int:
    return int(_read(MAIN_RUN / "run.json")["settings"]["range"]["examples"])


def _slopes(ledgers: list[_Ledger]) -> list[Slope]:
    found = [
        Slope(r, one.model, alpha, one.rows[key])
        for one in ledgers
        for alpha, r in one.r.items()
        if (key := f"V1.slope.these.alpha={alpha:g}") in one.rows
    ]
    return sorted(found, key=lambda one: one.r)


def _read(path: Path) -> Any:
    return read_json(path, "run `python -m analysis.families --ledger RUN`")


def _shared(ledgers: list[_Ledger]) -> list[tuple[dict[str, Any], ...]]:
    """The rows that every model has, by claim in the order of the theory."""
    keys = [key for key in ledgers[0].rows if all(key in one.rows for one in ledgers)]
    order = list(CLAIMS)
    return sorted(
        (tuple(one.rows[key] for one in ledgers) for key in keys), key=lambda rows: order.index(rows[0]["id"])
    )


def _agreement(ledgers: list[_Ledger]) -> str:
    """How many rows have the same verdict on every model, and which claims hold here and fail there."""
    shared = _shared(ledgers)
    verdicts = [(rows[0]["id"], {row["verdict"] for row in rows}) for rows in shared]
    same = sum(len(found) == 1 for _, found in verdicts)
    split = list(dict.fromkeys(id for id, found in verdicts if {"holds", "fails"} <= found))
    said = f"Of {plural(len(shared), 'row')}, {same} {'has' if same == 1 else 'have'} the same verdict on every model"
    return (
        f"{said}; {listed(split)} {'has' if len(split) == 1 else 'have'} rows that hold on one and fail on another."
        if split
        else f"{said}, and none holds on one and fails on another."
    )


def _table(ledgers: list[_Ledger]) -> str:
    lines = [["claim", "quantity", "prediction", *(one.model for one in ledgers)]]
    lines.append(["---"] * len(lines[0]))
    for rows in _shared(ledgers):
        said = [line(row) for row in rows]
        cells = [f"{SYMBOLS[one.verdict]} {one.measured} ({one.interval})" for one in said]
        predictions = " or ".join(dict.fromkeys(one.prediction for one in said))  # L1's depends on the model's width
        lines.append([rows[0]["id"], said[0].quantity.replace("|", r"\|"), predictions, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _by_ratio(found: list[Slope]) -> str:
    lines = ["| r | model | α | V1: attenuation slope, these texts |", "| --- | --- | --- | --- |"]
    for one in found:
        said = line(one.row)
        cells = (number(one.r, 2), one.model, f"{one.alpha:g}")
        lines.append(f"| {' | '.join(cells)} | {SYMBOLS[said.verdict]} {said.measured} ({said.interval}) |")
    rank = number(rank_correlation(found), 2)
    head = (
        "## V1 in the order of r\n\nSlope of a pair’s excess loss on its second-order term (1: the Hessian describes "
        "it), by the r of the table above, which is of other rows. "
        f"Over these {len(found)} points, of which those of one model depend on each other, the rank correlation of "
        f"the two is {rank}."
    )
    return "\n".join([head, "", *lines])
