"""The README's table of verdicts, from the landed ledger.

python -m analysis.readme results/quick     # land that run's ledger and pictures in docs/quick, then write the table
python -m analysis.readme                   # write the table from what has landed
"""

import json
import shutil
from pathlib import Path
from typing import Any

import typer

from symnoise.core import write_atomically
from symnoise.theory import CLAIMS

ROOT = Path(__file__).parent.parent
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


def written(readme: str, rows: list[dict[str, Any]]) -> str:
    """The README with the table between its marks."""
    head, rest = readme.split(START, 1)
    mark, rest = rest.split("\n", 1)
    return f"{head}{START}{mark}\n\n{table(rows)}\n\n{END}{rest.split(END, 1)[1]}"


def main(run: Path | None = None) -> None:
    """Land a run, if one is named, and write the table."""
    if run is not None:
        LANDED.mkdir(parents=True, exist_ok=True)
        for name in ("ledger.json", "run.json"):
            shutil.copy(run / name, LANDED / name)
        for name in PICTURES:
            shutil.copy(run / "figures" / name, LANDED / name)
    rows = json.loads((LANDED / "ledger.json").read_text(encoding="utf-8"))
    readme = ROOT / "README.md"
    text = written(readme.read_text(encoding="utf-8"), rows)
    write_atomically(readme, lambda path: path.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    typer.run(main)
