"""The README's tables of verdicts and of times, from the landed run.

python -m analysis.readme results/quick     # land that run's ledger, pictures and data in docs/quick, then the tables
python -m analysis.readme                   # write the tables from what has landed
"""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.paper.landed import ROOT
from symnoise.core import write_atomically, write_json
from symnoise.theory import CLAIMS

LANDED = ROOT / "docs" / "quick"
START, END = "<!-- ledger:", "<!-- end of ledger -->"
PICTURES = ("validity.png", "curvature.png", "slopes.png", "variances.png")


def table(rows: list[dict[str, Any]]) -> str:
    """One line a claim: how many of its measurements hold, fail, are undecided, and on what they fail."""
    lines = ["| claim | | holds | fails | undecided | fails on |", "|---|---|---|---|---|---|"]
    for claim in CLAIMS.values():
        mine = [row for row in rows if row["id"] == claim.id]
        counts = [str(sum(row["verdict"] == word for row in mine)) for word in ("holds", "fails", "undecided")]
        failing = [f"{row['quantity']} ({row['where']})" for row in mine if row["verdict"] == "fails"]
        cells = [claim.id, claim.statement, *counts, "; ".join(failing)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def stages(run: dict[str, Any]) -> str:
    """One line a claim: where it is measured, how long the stages behind it took, and the records they leave."""
    lines = ["| claim | measured by `make reproduce` in | seconds | record |", "|---|---|---|---|"]
    for id in CLAIMS:
        names = [name for name in run["stages"] if id in run["claims"].get(name, [])]
        seconds = sum(run["stages"][name] for name in names)
        files = ", ".join(f"`stages/{name}.json`" for name in names)
        lines.append(f"| {id} | {', '.join(names)} | {seconds:.0f} | {files} |")
    return "\n".join(lines)


def written(readme: str, rows: list[dict[str, Any]], run: dict[str, Any]) -> str:
    """The README with both tables between its marks."""
    head, rest = readme.split(START, 1)
    mark, rest = rest.split("\n", 1)
    return f"{head}{START}{mark}\n\n{table(rows)}\n\n{stages(run)}\n\n{END}{rest.split(END, 1)[1]}"


def landed() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The landed ledger and the facts of its run."""
    ledger, run = (json.loads((LANDED / name).read_text(encoding="utf-8")) for name in ("ledger.json", "run.json"))
    return ledger, run


def land_data(run: Path, folder: Path) -> None:
    """The data of every figure, and which model, text and versions they come from: what the paper is drawn from."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((run / "figures").glob("*.csv")):
        shutil.copy(path, folder / path.name)
    record = json.loads((run / "stages" / "sources.json").read_text(encoding="utf-8"))
    facts = {key: record[key] for key in ("commit", "python", "versions")} | record["result"]
    write_json(folder / "sources.json", facts)


def main(run: Annotated[Path | None, typer.Argument()] = None) -> None:
    """Land a run, if one is named, and write the tables."""
    if run is not None:
        LANDED.mkdir(parents=True, exist_ok=True)
        for name in ("ledger.json", "run.json"):
            shutil.copy(run / name, LANDED / name)
        for name in PICTURES:
            shutil.copy(run / "figures" / name, LANDED / name)
        land_data(run, LANDED / "data")
    readme = ROOT / "README.md"
    text = written(readme.read_text(encoding="utf-8"), *landed())
    write_atomically(readme, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
