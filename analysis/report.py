"""The report of a run: ledger, figures and one self-contained page, from stage records alone.

    python -m analysis.report results/quick        # rebuild without rerunning anything

Equal records give equal bytes: nothing here reads the clock or draws random numbers.
"""

from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from analysis.figures import FIGURES
from analysis.intervals import PERCENT
from analysis.ledger import headline, parts, write_ledger
from analysis.page import drawn, not_drawn, write_page
from analysis.reasons import reasons
from analysis.records import QuickRun, read_run
from result_schema.bad_input import one_line_on_bad_input
from symnoise.plot.page import Drawing
from symnoise.theory import LEVEL


def write_report(folder: Path) -> Path:
    """Write ledger.json, ledger.csv, figures/ and report.html into `folder` from its stages; return the page's path.

    A figure whose stage has no record is left out, and the page says which command makes it. Raises `InputError` if
    there is no record at all, or one cannot be read.
    """
    folder = Path(folder)
    run = read_run(folder)
    rows, tables = run.rows, run.tables
    write_ledger(folder, rows)
    drawings = [_drawing(name, run, tables, folder / "figures") for name in FIGURES]
    path = folder / "report.html"
    write_page(
        path,
        "report.html",
        headline=headline(rows) if rows else "No claim has been measured yet.",
        kinds=parts(rows, reasons(rows, tables)),
        level=PERCENT,
        chance=f"{1 / (1 - LEVEL):,.0f}",
        drawings=drawings,
        **_facts(run),
    )
    return path


def _drawing(name: str, run: QuickRun, tables: dict[str, pd.DataFrame], folder: Path) -> Drawing:
    """Draw one figure and write it with its data; without its tables, say which stage is missing."""
    module = FIGURES[name]
    absent = [table for table in module.TABLES if table not in tables or tables[table].empty]
    if absent:
        stages = ", ".join(module.STAGES)
        return not_drawn(module, f"needs the stage {stages}: run `{run.command}`", folder, name)
    return drawn(module, module.frame(tables), folder, name)


def _facts(run: QuickRun) -> dict[str, Any]:
    """Facts about the run, from the records: model, data, settings, versions, time and memory."""
    records = list(run.stages.values())
    sources = run.stages.get("sources", {}).get("result", {})
    commits = list(dict.fromkeys(record.get("commit") for record in records))
    notices = []
    if run.missing:
        notices.append(f"Not measured yet: {', '.join(run.missing)}. Run {run.command}; finished stages are kept.")
    if not run.run:
        notices.append(
            f"run.json is missing: the run is not finished, and its settings are unknown. Run {run.command}."
        )
    if any(run.settings.get(key) != value for record in records for key, value in record["settings"].items()):
        notices.append("Some records were made with other settings than the run's; rerun the command to replace them.")
    if len(commits) > 1:
        notices.append("These records were made by different commits; see the table of stages.")
    return {
        "model": sources.get("model"),
        "data": sources.get("data"),
        "settings": run.settings,
        "stages": records,
        "missing": run.missing,
        "command": run.command,
        "notices": notices,
        "total_seconds": sum(record["seconds"] for record in records),
        "peak_mib": max(record["peak_rss_mib"] for record in records),
        "versions": records[0].get("versions", {}),
        "python": records[0].get("python"),
        "platforms": list(dict.fromkeys(record.get("platform") for record in records)),
        "commits": commits,
    }


def main(folder: Annotated[Path, typer.Argument(help="A run's stage records.")] = Path("results/quick")) -> None:
    """Make a run's ledger, figures and report.html of its stage records, without measuring anything again."""
    print(write_report(folder))


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
