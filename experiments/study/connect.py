"""All runs of a study as tidy tables: results/STUDY/{runs,curves,curvature,outcomes}.parquet and study.json.

    python -m experiments.study.connect STUDY.yaml

Unfinished runs are left out and counted; a diverged run is a row like any other. Records of another schema are never
read: the schema is part of the folder's name (`Study.key`).
"""

import json
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.study.command import study_command
from experiments.study.results import records
from experiments.study.spec import Run, Study
from result_schema.measures import BENCHMARKS, WIN_RATE
from result_schema.study import ARMS, SCHEMA, TABLES, check_table
from symnoise.core import InputError, write_atomically, write_json

MADE_WITH = ("commit", "torch", "processor")
NAMES = {"train": "train.json", "measure": "measure.json", "replies": "replies.json", "outcomes": "outcomes.json"}


def connect(study: Study, folder: Path, results: Path = Path("results")) -> None:
    """Write the tables of every finished run."""
    start = records(folder / "start.json")
    _require_same_settings(study, start, folder / "start.json")
    sections = {"benchmarks": study.tasks, "preferences": study.alpaca_eval}
    gathered = _Gathered({step: [] for step, section in sections.items() if section})
    gathered.contents.add(start.get("data_sha256"))
    gathered.note(start)
    for run in study.runs:
        gathered.add(study, run, folder / run.name, start["points"])
    if not gathered.tables["runs"]:
        raise InputError(f"no run of {study.name} is finished in {folder}: make study STUDY={study.name}")
    gathered.require_alike(study, folder)
    place = results / study.name
    for name, rows in gathered.tables.items():
        table = pd.DataFrame(rows, columns=None if rows else list(TABLES[name].columns))
        check_table(name, table, f"{folder}, {name}", f"make study STUDY={study.name}")
        write_atomically(place / f"{name}.parquet", partial(table.to_parquet, index=False))
    base = records(folder / "base.json")
    own = {
        "symnoise": gathered.versions.pop(),
        "made_with": {name: sorted(values) for name, values in gathered.made_with.items()},
        "data_sha256": next(iter(gathered.contents - {None}), None),
        "unfinished": gathered.unfinished,
        "missing": missing(study, gathered.asked, len(gathered.tables["runs"])),
    }
    write_json(place / "study.json", facts(study, base, gathered.asked) | own)


@dataclass
class _Gathered:
    """What is collected from the records of all runs.

    asked: for each optional step, its settings in each run.
    unfinished: names of the runs left out.  versions: all versions of symnoise that wrote records.
    made_with: all commits of the code, versions of torch and processors that made records.
    contents: SHA-256 of the data set in each record; None for records made before it was stored.
    """

    asked: dict[str, list[Any]]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in TABLES})
    unfinished: list[str] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)
    made_with: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in MADE_WITH})
    contents: set[str | None] = field(default_factory=set)

    def add(self, study: Study, run: Run, place: Path, start: list[dict[str, Any]]) -> None:
        """Add the rows of one run, whose records are in `place`. start: the points measured before training."""
        files = {name: place / file for name, file in NAMES.items()}
        if not all(file.is_file() for file in files.values()):
            self.unfinished.append(run.name)
            return
        found = {name: records(file) for name, file in files.items()}
        _require_same_arm(run, found["train"], files["train"])
        for name in ("measure", "replies", "outcomes"):
            _require_same_settings(study, found[name], files[name])
        for record in found.values():
            self.note(record)
        self.contents.add(found["train"].get("data_sha256"))
        self.tables["runs"].append(_row(study, run, found))
        self.tables["curves"] += [
            {"run": run.name, "step": point["step"], "quantity": name, "value": value}
            for point in found["train"]["curve"]
            for name, value in point.items()
            if name != "step"
        ]
        points = [{"step": 0, **point} for point in start] + found["measure"]["points"]
        self.tables["curvature"] += [{"run": run.name, **point} for point in points]
        outcomes = found["outcomes"]["outcomes"] + self._asked_of(place)
        self.tables["outcomes"] += [{"run": run.name, **outcome} for outcome in outcomes]

    def note(self, record: dict[str, Any]) -> None:
        """What a record was made with, as far as it says so."""
        versions = record.get("versions", {})
        self.versions |= {versions["symnoise"]} if "symnoise" in versions else set()
        for name in MADE_WITH:
            if value := versions.get(name, record.get(name)):
                self.made_with[name].add(value)

    def _asked_of(self, place: Path) -> list[dict[str, Any]]:
        """The outcomes of the optional steps that this run has finished."""
        outcomes = []
        for step, settings in self.asked.items():
            if (file := place / f"{step}.json").is_file():
                more = records(file)
                self.note(more)
                settings.append(more["settings"])
                outcomes += more["outcomes"]
        return outcomes

    def require_alike(self, study: Study, folder: Path) -> None:
        """`InputError` if versions, contents of the data set or settings of a step differ between runs."""
        if len(self.versions) > 1:
            raise InputError(
                f"runs were made with several versions of symnoise ({', '.join(sorted(self.versions))}); run them again"
            )
        if len(self.contents - {None}) > 1:
            raise InputError(f"the contents of {study.data} changed between runs; run {study.name} again")
        for step, settings in self.asked.items():
            if any(other != settings[0] for other in settings):
                raise InputError(f"runs have different settings of {step}: delete {folder}/*/{step}.json and run again")


def _row(study: Study, run: Run, found: dict[str, Any]) -> dict[str, Any]:
    """A run's row in the table of runs."""
    train, measure = found["train"], found["measure"]
    return (
        {"run": run.name, "arm": run.arm, "alpha": run.alpha, "seed": run.seed, "model": study.model}
        | {"data": study.data, "batch": train["batch"], "steps": study.steps(run.arm)}
        | {key: train[key] for key in ("status", "train_loss", "gradient_norm", "seconds", "peak_rss_mib")}
        | {"measure_seconds": measure["seconds"], "trace_seconds": measure["trace_seconds"]}
        | {"tokens_per_second": found["replies"]["tokens_per_second"]}
    )


def _require_same_arm(run: Run, record: dict[str, Any], path: Path) -> None:
    """`InputError` if the arm of that name was another when the run was trained. Older records do not say."""
    now = json.loads(json.dumps(asdict(ARMS[run.arm])))
    if record.get("arm", now) != now:
        raise InputError(f"{path} is of another {run.arm} than today's: delete {path.parent} and run it again")


def _require_same_settings(study: Study, record: dict[str, Any], path: Path) -> None:
    """`InputError` if the study's alpha, measuring or generating has changed since the record was made."""
    made, asked = record.get("measured_by", {}), study.measured_by  # older records have none
    said = ", ".join(f"{name}: {value}" for name, value in made.items() if value != asked[name])
    if said:
        raise InputError(
            f"{path} was made with other settings ({said}); restore them, or delete the runs and run again"
        )


def missing(study: Study, asked: dict[str, list[Any]], runs: int) -> dict[str, str]:
    """measure -> why it is missing."""
    wanted = {BENCHMARKS[task]: "benchmarks" for task in (study.tasks.sources if study.tasks else {})}
    if study.alpaca_eval and study.alpaca_eval.judge:
        wanted[WIN_RATE] = "preferences"
    why = dict.fromkeys(BENCHMARKS.values(), "the study has no such task") | {WIN_RATE: "no judge configured"}
    for measure, step in wanted.items():
        left = runs - len(asked[step])
        why[measure] = f"in {left} of {runs} runs" if left else ""
    return {measure: reason for measure, reason in why.items() if reason}


def facts(study: Study, base: dict[str, Any], asked: dict[str, list[Any]]) -> dict[str, Any]:
    """What the tables lack. Tasks and AlpacaEval are given by the runs' settings, without the paths of local files."""
    said = {step: settings[0] for step, settings in asked.items() if settings}
    return {
        "schema": SCHEMA,
        "name": study.name,
        "reference": "none",
        "arms": list(ARMS),
        "alpha": study.alpha,
        "alphas": study.alphas,
        "seeds": study.seeds,
        "primary": asdict(study.primary),
        "equivalence": asdict(study.equivalence) if study.equivalence else None,
        "settings": asdict(study) | {"tasks": said.get("benchmarks"), "alpaca_eval": said.get("preferences")},
        "base": base,
    }


if __name__ == "__main__":
    study_command(connect)()
