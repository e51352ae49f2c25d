"""The published results: the quick run, the bench, and the studies that have been run."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.family_ledgers import Slope, slopes
from analysis.study.data import Untrained, untrained
from result_schema.files import ROOT, read_json, there

STUDIES = ("micro", "micro-one-pass", "smollm2")
# Studies with endpoints named before their runs: how noise works, and what the mirror adds.
MECHANISM = (
    "transfer",
    "transfer-dolly",
    "transfer-open-platypus",
    "transfer-evol-instruct",
    "transfer-dials",
    "transfer-step-size",
    "transfer-longer",
    "transfer-replies",
    "dials",
    "dials-one-pass",
    "mirror",
    "smollm2-mirror",
    "smollm2-dolly",
    "smollm2-open-platypus",
    "smollm2-evol-instruct",
    "smollm2-sharegpt",
    "step-size",
    "step-size-sgd",
    "divisor",
    "batch-match",
    "neighbours",
    "scale",
    "micro-r-flips",
)
FIGURES = ("validity", "variances", "slopes", "curvature")  # drawn in the paper, from the data next to the figures
TABLES = ("validity", "validity by example", "curvature", "variances on text", "layers")  # which the text quotes
STUDY_FIGURES = {
    "transfer-dials": ("dials",),
    "dials": ("dials",),
    "dials-one-pass": ("dials",),
    "micro": ("forest",),
}  # the studies' pages and the gallery have all
_TABLES = ("arms", "associations", "contrasts", "power")


@dataclass(frozen=True)
class StudyResults:
    """rows: its ledger.  facts: study.json.  tables, frames: name -> the study's table, the data of its figure.
    untrained: the held-out loss before training beside the rest of its runs."""

    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    frames: dict[str, pd.DataFrame]
    untrained: Untrained | None = None

    @cached_property
    def contrasts(self) -> dict[tuple[str, str, str], dict[str, dict[Any, Any]]]:
        """(first arm, second arm, "end" or "best") -> measure -> the row at the study’s own α; of replies, "length" as
        "length, greedy" and so for each decoding, and no other measure."""
        found: dict[tuple[str, str, str], dict[str, dict[Any, Any]]] = {}
        compared = self.at_own_alpha(self.tables["contrasts"])
        for row in compared[compared.decoding.isna() | (compared.measure == "length")].to_dict("records"):
            measure = str(row["measure"]) if pd.isna(row["decoding"]) else f"{row['measure']}, {row['decoding']}"
            found.setdefault((row["first"], row["second"], row["when"]), {})[measure] = row
        return found

    def at_own_alpha(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of `table` at the study's own α, and those of arms without an α."""
        return table[table.alpha.isna() | (table.alpha == self.facts["alpha"])]


@dataclass(frozen=True)
class Length:
    """rows: of Z1's ledger.  gains: the table of all adjustments."""

    rows: list[dict[str, Any]]
    gains: pd.DataFrame


@dataclass(frozen=True)
class Budgets:
    """rows: of G1's ledger.  points: the table of all budgets."""

    rows: list[dict[str, Any]]
    points: pd.DataFrame


@dataclass(frozen=True)
class Published:
    """rows: the quick run's ledger.  run: its run.json.  sources: its model, data and versions.
    tables: the run's, by name.  frames: figure -> data.  bench, peers: the bench's tables.
    studies, mechanism: name -> results.  length: Z1's ledger and table of gains.  budgets: G1's ledger and
    table of variance budgets.  None where something has not been run.  slopes: V1's on several models, none where there
    is one."""

    rows: list[dict[str, Any]]
    run: dict[str, Any]
    sources: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    frames: dict[str, pd.DataFrame]
    bench: pd.DataFrame
    peers: pd.DataFrame | None
    studies: dict[str, StudyResults | None]
    mechanism: dict[str, StudyResults | None]
    length: Length | None
    budgets: Budgets | None
    slopes: list[Slope]


def read_published(root: Path = ROOT) -> Published:
    """All published results under `root`. Raises `InputError` if the quick run or the bench is missing."""
    quick, command = root / "docs" / "quick", "python -m analysis.readme results/quick"
    peers = root / "docs" / "peers.csv"
    return Published(
        rows=_json(quick / "ledger.json", command),
        run=_json(quick / "run.json", command),
        sources=_json(quick / "data" / "sources.json", command),
        frames={name: _csv(quick / "data" / f"{name}.csv", command) for name in FIGURES},
        tables={name: _csv(table_path(quick, name), command) for name in TABLES},
        bench=_csv(root / "docs" / "bench.csv", "make bench"),
        peers=_csv(peers, "make bench") if peers.is_file() else None,
        studies={name: study_results(root / "results" / name) for name in STUDIES},
        mechanism={name: study_results(root / "results" / name) for name in MECHANISM},
        length=_length(root / "results" / "length-7b"),
        budgets=_budgets(root / "results" / "variance-budget"),
        slopes=slopes(root / "results" / "families"),
    )


def table_path(quick: Path, name: str) -> Path:
    """The path of a published table of the quick run."""
    return quick / "tables" / f"{name.replace(' ', '-')}.csv"


def study_results(folder: Path) -> StudyResults | None:
    """None without a ledger: the study has not been run, or has not finished."""
    if not (folder / "ledger.json").is_file():
        return None
    command = f"python -m analysis.study results/{folder.name}"
    tables = {name: folder / "tables" / f"{name}.csv" for name in _TABLES}
    slopes = folder / "tables" / "dials.csv"  # only of arms with dials
    tables |= {"dials": slopes} if slopes.is_file() else {}
    figures = {name: folder / "figures" / f"{name}.csv" for name in STUDY_FIGURES.get(folder.name, ())}
    return StudyResults(
        rows=_json(folder / "ledger.json", command),
        facts=_json(folder / "study.json", command),
        tables={name: _csv(path, command) for name, path in tables.items()},
        frames={name: _csv(path, command) for name, path in figures.items() if path.is_file()},
        untrained=untrained(pd.read_parquet(there(folder / "curves.parquet", f"run `{command}` first"))),
    )


def _length(folder: Path) -> Length | None:
    if not (folder / "ledger.json").is_file():
        return None
    command = "python -m analysis.length results/length-7b"
    return Length(_json(folder / "ledger.json", command), _csv(folder / "tables" / "gains.csv", command))


def _budgets(folder: Path) -> Budgets | None:
    if not (folder / "ledger.json").is_file():
        return None
    command = "python -m analysis.budgets results/variance-budget"
    return Budgets(_json(folder / "ledger.json", command), _csv(folder / "tables" / "budgets.csv", command))


def _json(path: Path, command: str) -> Any:
    return read_json(path, f"run `{command}` first", f"run `{command}` again")


def _csv(path: Path, command: str) -> pd.DataFrame:
    try:
        return pd.read_csv(there(path, f"run `{command}` first"))
    except (pd.errors.EmptyDataError, pd.errors.ParserError):
        return pd.DataFrame()
