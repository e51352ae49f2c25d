"""docs/trust.csv and docs/trust.md: the figures of every part, with the commit, the day and the machine of each."""

import datetime
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from result_schema.files import ROOT
from symnoise.core import write_atomically
from tests.trust.figures import Figure

DOCS = ROOT / "docs"
HEADING = """# Can it be trusted?

Made by `make trust`; the data are in [trust.csv](trust.csv). A part alone: `python -m tests.trust PART`, which fails if
a promise is not kept. Every random part has its seeds in the last column.
"""
PARTS = {
    "inputs": """Bad input: files that are valid but for one random fault, given to every command. Promised: one clear
line on standard error, exit code 2, nothing half-written, no traceback, within ten seconds.""",
    "coverage": """Honest errors: how often a stated 95 % interval contains the exact value, over independent seeds.
Promised: 93 to 97 %, or another range for a stated reason.""",
    "kills": """Kills: processes ended at random moments and run again. Promised: the final bytes, without seconds, are
those of a run that nobody disturbed.""",
    "mutants": """Mutants: small faults planted at random places of the library, one at a time. Promised: tests catch at
least 90 %; [the survivors](trust-mutants.csv) are listed with the reason why each is no fault.""",
}


def save(part: str, figures: Sequence[Figure]) -> None:
    """Replace the rows of `part` in the table, and write the page anew."""
    path = DOCS / "trust.csv"
    before = read(path) if path.is_file() else pd.DataFrame({"part": []})
    facts = {"commit": commit(), "date": datetime.date.today().isoformat(), "machine": machine()}
    rows = pd.DataFrame([{"part": part, **asdict(one), "kept": one.kept, **facts} for one in figures])
    frame = pd.concat([before[before["part"] != part], rows], ignore_index=True)
    order = {name: place for place, name in enumerate(PARTS)}
    frame = frame.sort_values("part", key=lambda column: column.map(order), kind="stable")
    write_atomically(path, lambda temporary: frame.to_csv(temporary, index=False, float_format="%.6g"))
    text = page(read(path))
    write_atomically(DOCS / "trust.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read(path: Path) -> pd.DataFrame:
    """The table; a commit such as 71e5584 is no number."""
    return pd.read_csv(path, keep_default_na=False, dtype={"commit": str})


def page(frame: pd.DataFrame) -> str:
    """The page in Markdown."""
    texts = [HEADING]
    for part, rows in frame.groupby("part", sort=False):
        first = rows.iloc[0]
        made = f"`python -m tests.trust {part}`, {first['date']}, commit {first['commit']}, {first['machine']}."
        lines = ["| | measured | promised | of | kept | seeds |", "|---|---|---|---|---|---|"]
        lines += [_line(row) for _, row in rows.iterrows()]
        texts.append("\n".join([PARTS[str(part)], "", *lines, "", made, ""]))
    return "\n".join(texts)


def _line(row: pd.Series) -> str:
    name = row["name"] + (f": {row['note']}" if row["note"] else "")
    kept = "yes" if row["kept"] in (True, "True") else "**no**"
    range_ = promised(row["low"], row["high"])
    return f"| {name} | {row['measured']:.4g} | {range_} | {row['tries']} | {kept} | {row['seeds']} |"


def promised(low: float, high: float) -> str:
    """A range in words: "0", "0.93 to 0.97", "at least 0.9"."""
    if low == high:
        return f"{low:g}"
    if math.isinf(high):
        return f"at least {low:g}"
    return f"at most {high:g}" if math.isinf(low) else f"{low:g} to {high:g}"


def show(part: str, figures: Iterable[Figure]) -> None:
    """The figures of one part, on the terminal."""
    table = Table("", "measured", "promised", "of", "kept", title=part)
    for one in figures:
        kept = "yes" if one.kept else "[bold red]no[/]"
        table.add_row(one.name, f"{one.measured:.4g}", promised(one.low, one.high), str(one.tries), kept)
    Console().print(table)


def commit() -> str:
    """The commit that is checked out, with a "+" if files differ from it other than those that this page is made of."""
    short, changed = (
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        for words in (
            ["rev-parse", "--short", "HEAD"],
            ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/trust*"],
        )
    )
    return short + "+" * bool(changed)


def machine() -> str:
    """Processor, cores, Python: what the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
