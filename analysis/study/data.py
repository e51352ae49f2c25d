"""Reading a study's folder, and every measurement of its runs as one tidy table."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from result_schema.files import read_json, there
from result_schema.measures import NORMS, TRAINED
from result_schema.study import PLAIN, SCHEMA, TABLES, Equivalence, Facts, Primary, check_table
from result_schema.typed import require_types
from symnoise.core import InputError
from symnoise.plot.numbers import fixed, number, plural

STAGES = ("before", "during", "after")
FEW = 5  # names of runs in a notice


@dataclass(frozen=True, eq=False)
class StudyTables:
    """facts: study.json.  runs: one row per run, with `setting`, its model and data in words.  curves, curvature,
    outcomes: as written, `curvature` with its stage ("before", "during", "after")."""

    facts: dict[str, Any]
    runs: pd.DataFrame
    curves: pd.DataFrame
    curvature: pd.DataFrame
    outcomes: pd.DataFrame

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.facts["name"])

    @property
    def reference(self) -> str:
        """The arm that curves are drawn against."""
        return str(self.facts.get("reference") or "none")

    @property
    def primary(self) -> Primary:
        """The endpoints named before the runs; none where the study named none."""
        return Primary.of(self.facts.get("primary"))

    @property
    def equivalence(self) -> Equivalence:
        """The study's rule for equivalent laws, or the default rule."""
        return Equivalence.of(self.facts.get("equivalence"))

    @property
    def settings(self) -> list[str]:
        """Model and data, in words; runs are compared within one of them."""
        return list(dict.fromkeys(self.runs.setting))


def read_study(folder: Path) -> StudyTables:
    """The study in `folder`. `InputError` if a file is missing, corrupted, or of another or a mixed schema, if an arm
    is unknown, or if two runs have the same arm, α and seed."""
    command = f"make study STUDY={folder.resolve().name}"
    advice = f"run `{command}` first"
    facts = read_json(folder / "study.json", advice, f"delete the file and run `{command}`")
    if not isinstance(facts, dict) or not {"schema", "name", "alpha"} <= facts.keys():
        raise InputError(f"{folder}/study.json lacks schema, name or alpha; delete the file and run `{command}`")
    require_types(Facts, facts, f"{folder}/study.json")
    try:
        tables = {name: pd.read_parquet(there(folder / f"{name}.parquet", advice)) for name in TABLES}
    except InputError:
        raise
    except (OSError, ValueError) as error:  # pyarrow's errors are among them
        raise InputError(f"cannot read {folder} ({error}); delete the file and run `{command}`") from error
    versions = {"study.json": {facts.get("schema")}}
    for name, table in tables.items():
        if "schema" in table:
            versions[f"{name}.parquet"] = set(table.schema.tolist())
    found = set().union(*versions.values())
    if found != {SCHEMA}:
        said = ", ".join(f"{name} has {sorted(map(str, v))}" for name, v in versions.items())
        kind = "mixed schema versions" if len(found) > 1 else "another schema version"
        raise InputError(f"{folder}: {kind}, {said}, but {SCHEMA} is read here; run `{command}` again")
    for name, table in tables.items():
        check_table(name, table, f"{folder}/{name}.parquet", command)
    runs = tables["runs"].sort_values("run", ignore_index=True)
    runs["alpha"] = runs.alpha.astype(float).where(~runs.arm.isin(PLAIN))
    runs["setting"] = runs.model.astype(str) + " on " + runs.data.astype(str)
    _unique(runs[["run"]], folder / "runs.parquet")
    _unique(runs[["setting", "arm", "alpha", "seed"]], folder / "runs.parquet")
    keys = {name: list(kind.key) for name, kind in TABLES.items()}
    for name in ("curves", "curvature", "outcomes"):
        _unique(tables[name][keys[name]], folder / f"{name}.parquet")
        strange = set(tables[name].run) - set(runs.run)
        if strange:
            raise InputError(f"{folder}/{name}.parquet: run {min(strange)!r} is not in runs.parquet; `{command}` again")
    curvature = tables["curvature"].sort_values(keys["curvature"], ignore_index=True)
    return StudyTables(
        facts,
        runs,
        tables["curves"].sort_values(["run", "quantity", "step"], ignore_index=True),
        _staged(curvature, runs),
        tables["outcomes"].sort_values(["run", "measure", "when", "decoding"], ignore_index=True),
    )


@lru_cache(maxsize=2)  # every table of a study asks for it
def measurements(study: StudyTables) -> pd.DataFrame:
    """run, measure, when, decoding, value: the outcomes; the training loss, which is of each arm's own objective; each
    curvature quantity at the end, the mean over examples; and the growth of embedding norms over the whole run, ‖·‖ at
    the end/‖·‖ at step 0 − 1."""
    last = study.curvature[study.curvature.stage == "after"]
    curved = last.groupby(["run", "quantity"]).value.mean().rename_axis(["run", "measure"]).reset_index()
    norms = study.curves[study.curves.quantity.isin(NORMS)].groupby(["run", "quantity"])
    growth = (norms.value.last() / norms.value.first() - 1).rename_axis(["run", "measure"]).reset_index()
    growth["measure"] += " growth"
    own = study.runs[study.runs.status == "done"]
    trained = [
        own[["run", column]].rename(columns={column: "value"}).assign(measure=measure)
        for column, measure in TRAINED.items()
        if column in own
    ]
    parts = [study.outcomes, *(part.assign(when="end", decoding="") for part in (*trained, curved, growth))]
    return pd.concat([part[["run", "measure", "when", "decoding", "value"]] for part in parts], ignore_index=True)


@dataclass(frozen=True)
class Untrained:
    """The held-out loss before training beside the rest of each run.

    loss: its mean over runs.  best: number of runs in which it is never lower afterwards.  runs: number of runs.
    """

    loss: float
    best: int
    runs: int

    @property
    def mostly_best(self) -> bool:
        """In more than half of the runs."""
        return 2 * self.best > self.runs


def untrained(curves: pd.DataFrame) -> Untrained | None:
    """From the held-out losses along training; None where they do not begin before it."""
    losses = curves[curves.quantity == "held-out loss"]
    start = losses[losses.step == 0].set_index("run").value
    if start.empty:
        return None
    later = losses[losses.step > 0].groupby("run").value.min().reindex(start.index)
    return Untrained(float(start.mean()), int((start <= later).sum()), len(start))


def _overfitting(study: StudyTables) -> str:
    """Where the held-out loss without noise turns, in the mean over seeds; "" where it is lowest at the end."""
    own = study.runs[study.runs.arm == "none"].run
    losses = study.curves[(study.curves.quantity == "held-out loss") & study.curves.run.isin(own)]
    mean = losses.groupby("step").value.mean()
    rise = float(mean.iloc[-1] - mean.min()) if len(mean) else 0.0
    if not rise:
        return ""
    return (
        f"Without noise the held-out loss is lowest at step {mean.idxmin()} of {mean.index.max()} and "
        f"{number(rise, 2)} nats higher at the end: what an arm changes there may be overfitting. The tables have each "
        "run’s lowest, too."
    )


def like_batches(rows: int, batch: int, steps: int) -> float:
    """The size of equal batches whose gradient has the mean variance of those of `steps` steps in passes over `rows`,
    each of which ends with what is left: 1/mean(1/size)."""
    one_pass = [batch] * (rows // batch) + [rows % batch] * (rows % batch > 0)
    sizes = [one_pass[step % len(one_pass)] for step in range(steps)]
    return steps / sum(1 / size for size in sizes)


def notices(study: StudyTables) -> list[str]:
    """What a reader must know first: diverged and missing runs, missing measures, a model that training made worse."""
    said = []
    before = untrained(study.curves)
    if before and before.mostly_best:
        said.append(
            f"In {before.best} of {plural(before.runs, 'run')} the held-out loss is lowest before training: an arm "
            "that lowers it here avoids part of the damage, and does not improve the model."
        )
    elif before and (turn := _overfitting(study)):
        said.append(turn)
    for r in study.runs[study.runs.status == "diverged"].to_dict("records"):
        said.append(f"Diverged, counted and left out of means: {r['run']}.")
    for setting in study.settings:
        part = study.runs[study.runs.setting == setting]
        # A study may have fewer seeds on one data set; uneven seeds within a data set are unfinished runs.
        for (arm, alpha), own in part.groupby(["arm", "alpha"], dropna=False):
            absent = sorted(set(part.seed) - set(own.seed))
            if absent:
                at = "" if arm in PLAIN else f" at α = {alpha:g}"
                said.append(f"Not run yet, {setting}: {arm}{at}, seed {', '.join(map(str, absent))}.")
    training = (study.facts.get("settings") or {}).get("training")
    said += _uneven(study.runs, training["rows"]) if training else []
    if unfinished := study.facts.get("unfinished"):
        more = ", …" if len(unfinished) > FEW else ""
        said.append(f"Not finished and left out, {len(unfinished)} runs: {', '.join(unfinished[:FEW])}{more}.")
    made_with = study.facts.get("made_with") or {}
    if not made_with.get("commit"):
        said.append("Which commits, versions of torch and processors made the runs is not on record.")
    for name, words in (("processor", "processors"), ("torch", "versions of torch")):
        if len(values := made_with.get(name, [])) > 1:
            said.append(f"Runs were made with several {words} ({', '.join(values)}), and differ by rounding too.")
    if not study.primary.outcomes:
        said.append("No primary endpoints were named before the runs: everything here is exploratory.")
    if training and (share := training["rows"] / max(1, training["pool"])) > 0.5:
        said.append(
            f"Each seed draws {training['rows']} of the same {training['pool']} training rows, so two seeds share "
            f"{100 * share:.0f} % of theirs: intervals over seeds are narrower than over new rows."
        )
    unmeasured: dict[str, list[str]] = {}
    for measure, why in study.facts.get("missing", {}).items():
        unmeasured.setdefault(why, []).append(measure)
    said += [f"Not measured, {why}: {', '.join(measures)}." for why, measures in unmeasured.items()]
    return said


def _uneven(runs: pd.DataFrame, rows: int) -> list[str]:
    """What is to be said of arms with several passes over the rows whose batches do not divide them."""
    said = []
    for arm, batch, steps in runs[["arm", "batch", "steps"]].drop_duplicates().itertuples(index=False):
        if rows % batch and batch * steps > rows:
            said.append(
                f"Batches of {arm!s} have {batch} rows, but the last of each pass {rows % batch}: for the gradient's "
                f"variance they are like batches of {fixed(like_batches(rows, batch, steps), 1)}."
            )
    return said


def _unique(keys: pd.DataFrame, path: Path) -> None:
    twice = keys[keys.duplicated()]
    if len(twice):
        said = ", ".join(f"{name} {value}" for name, value in twice.iloc[0].items())
        raise InputError(
            f"{path}: two rows for {said}; a study holds one run of each: give the other study another name"
        )


def _staged(curvature: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """`curvature` with its stage: step 0 is before, the last one after, others during. A diverged run has no end."""
    end = curvature.groupby("run").step.transform("max")
    done = curvature.run.map(runs.set_index("run").status == "done").to_numpy(bool)
    stage = np.where(curvature.step == 0, "before", np.where((curvature.step == end) & done, "after", "during"))
    return curvature.assign(stage=stage)
