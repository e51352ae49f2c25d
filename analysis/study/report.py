"""The page of a study: ledger, tables and figures, from its result files alone.

Equal files give equal bytes: nothing here reads the clock, and every resample has its own random stream.
"""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.intervals import PERCENT
from analysis.ledger import groups, headline, write_ledger
from analysis.page import drawn, not_drawn, write_page
from analysis.study.claims import ODD_ONE_OUT, Quality, outcome_ledger, outcomes, plain_outcomes
from analysis.study.contrasts import LEVEL, contrasts, plan
from analysis.study.costs import by_arm, costs
from analysis.study.data import StudyTables, measurements, notices, read_study
from analysis.study.dials import slopes
from analysis.study.figures import FIGURES
from analysis.study.figures.shared import at
from analysis.study.precision import precision
from analysis.style import name
from result_schema.measures import CURVATURE, SPLIT
from symnoise.plot.numbers import measurement, number
from symnoise.plot.page import Drawing, write_csv
from symnoise.theory import OUTCOMES, counts

SHOWN = (
    "clean training loss",
    "training loss",
    "held-out loss",
    "ROUGE-L",
    "chrF",
    "length",
    *SPLIT,
    *CURVATURE[1:],
)  # columns of the page's table of arms


def write_study(folder: Path) -> Path:
    """Write ledger.json, ledger.csv, tables/, figures/ and study.html into `folder`; return the page's path.

    Raises `InputError` if a file is missing, corrupted, or of another schema.
    """
    folder = Path(folder)
    study = read_study(folder)
    dials = slopes(study)
    rows = [asdict(made) for made in outcome_ledger(study, dials)]
    compared = contrasts(study)
    tables = {
        "arms": arms(study),
        "contrasts": compared,
        "associations": associated(study),
        "power": plan(compared, study),
        "costs": costs(study.runs),
    }
    if len(dials):
        tables["dials"] = dials
    write_ledger(folder, rows)
    for table, data in tables.items():
        write_csv(folder / "tables" / f"{table}.csv", data)
    write_page(
        folder / "study.html",
        "study.html",
        name=study.name,
        headline=headline(_plain(rows)) if rows else "No claim could be measured: no two arms were compared.",
        counts=counts(rows),
        groups=groups(_plain(rows), {}, OUTCOMES),
        level=PERCENT,
        notices=notices(study),
        drawings=drawings(study, compared, folder / "figures"),
        arms=_arms_shown(tables["arms"]),
        shown=[measure for measure in SHOWN if measure in set(tables["arms"].get("measure", []))],
        contrasts=_contrasts_shown(compared),
        power=_power_shown(tables["power"]),
        primary=study.primary,
        margin=study.equivalence.margin,
        penalty=penalty_said(compared),
        runs=len(study.runs),
        diverged=int((study.runs.status == "diverged").sum()),
        seeds=int(study.runs.seed.nunique()),
        settings=study.settings,
        hours=_total(study.runs, "seconds") / 3600,
        costs=_costs_shown(tables["costs"]),
        precision=precision(folder),
        facts=study.facts,
        command=f"python -m analysis.study results/{folder.resolve().name}",
    )
    return folder / "study.html"


def drawings(study: StudyTables, compared: pd.DataFrame, folder: Path) -> list[Drawing]:
    """Every figure, one per model and data set."""
    found = []
    for k, setting in enumerate(study.settings):
        several = len(study.settings) > 1
        runs = study.runs[study.runs.setting == setting]
        keep = {
            table: getattr(study, table)[getattr(study, table).run.isin(runs.run)]
            for table in ("curves", "curvature", "outcomes")
        }
        one = replace(study, runs=runs, **keep)
        own = compared[compared.setting == setting] if len(compared) else compared
        for figure, module in FIGURES.items():
            title = f"{module.TITLE}: {setting}" if several else module.TITLE
            file = f"{figure}-{k + 1}" if several else figure
            data = module.frame(one, own)
            if len(data):
                found.append(drawn(module, data, folder, file, title))
            else:
                found.append(not_drawn(module, f"needs {module.NEEDS}", folder, file, title))
    return found


def arms(study: StudyTables) -> pd.DataFrame:
    """One row per arm, α and measure: mean and standard deviation over finished runs, and how many diverged."""
    measured = measurements(study).merge(study.runs, on="run")
    lost = study.runs.assign(lost=study.runs.status == "diverged")
    keys = ["setting", "arm", "alpha"]
    totals = lost.groupby(keys, dropna=False).agg(runs=("run", "size"), diverged=("lost", "sum"))
    done = measured[measured.status == "done"].groupby([*keys, "measure", "when", "decoding"], dropna=False).value
    values = done.agg(mean="mean", sd="std", n="count").reset_index()
    made = totals.reset_index().merge(values, on=keys, how="left")
    return by_arm(made, "alpha", "measure", "when", "decoding")


def associated(study: StudyTables) -> pd.DataFrame:
    """O2: the correlation of each curvature quantity with each outcome, between and within settings, with 95 %
    intervals; of reply length with reply scores, since a score that follows length says less about quality; and all of
    it again with the penalty arm, which O2's rows exclude."""
    measured, records = measurements(study), []
    for setting, runs in study.runs.groupby("setting", sort=False):
        own = measured[measured.run.isin(runs.run)]
        for arms_, chosen in (("all but the penalty", runs[runs.arm != ODD_ONE_OUT]), ("all", runs)):
            if arms_ == "all" and ODD_ONE_OUT not in set(runs.arm):
                continue
            for quantity in (*CURVATURE, "tr H", "length"):
                shared = arms_ != "all" and quantity in CURVATURE
                found = plain_outcomes(study, str(setting), quantity) if shared else _outcomes(own, chosen, quantity)
                for outcome in found:
                    for method, made in outcome.associations.items():
                        low, high = made.interval(LEVEL)
                        facts = {"setting": setting, "arms": arms_, "quantity": quantity, "outcome": outcome.label}
                        facts |= {"given": outcome.given, "method": method}
                        ends = {"value": made.value, "low": low, "high": high, "note": made.note}
                        records.append(facts | ends | {"units": made.units, "runs": made.runs})
    return pd.DataFrame(records)


def _outcomes(measured: pd.DataFrame, runs: pd.DataFrame, quantity: str) -> list[Quality]:
    """`outcomes` of a quantity; for reply length, only the scores of the same replies."""
    if quantity != "length":
        return outcomes(measured, runs, quantity)
    found = []
    for decoding in sorted(set(measured[measured.measure == "length"].decoding)):
        own = measured[(measured.decoding == decoding) & (measured.when == "end")]
        found += [replace(outcome, given="") for outcome in outcomes(own, runs, "length") if outcome.given]
    return found


def penalty_said(compared: pd.DataFrame) -> str:
    """What the curvature-penalty arm shows about tr H, in one sentence; "" if it was not run."""
    if compared.empty:
        return ""
    own = compared[(compared["first"] == ODD_ONE_OUT) & (compared.second == "none") & (compared.when == "end")]
    means = own.drop_duplicates("measure").set_index("measure")["mean"]
    if not {"tr H", "tr G", "tr R", "held-out loss"} <= set(means.index):
        return ""
    changes = ", ".join(f"{part} by {number(means[part], 3)}" for part in SPLIT)
    return (
        f"The penalty on ½εᵀHε, compared with no noise, changes {changes}, and the held-out loss by "
        f"{number(means['held-out loss'], 2)} nats. tr R weights the curvature of the logits by the residual and can "
        "have either sign, so tr H is reported in two parts and a lower one counts as neither better nor worse."
    )


def _arms_shown(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One line per arm and α: its measures at the end, as text."""
    lines = []
    for (setting, arm, alpha), own in table.groupby(["setting", "arm", "alpha"], dropna=False, sort=False):
        cells = {}
        for measure in SHOWN:
            here = own[(own.measure == measure) & (own.when == "end")].sort_values("decoding")
            cells[measure] = number(here["mean"].iloc[0]) if len(here) else "–"
        facts = own.iloc[0]
        lines.append(
            {"setting": setting, "arm": name(str(arm)), "alpha": number(alpha), "cells": cells}
            | {"runs": int(facts.runs), "diverged": int(facts.diverged)}
        )
    return lines


def _contrasts_shown(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The primary contrasts, or without any those of the held-out loss, as text."""
    if table.empty:
        return []
    lines = []
    chosen = table[table.primary] if table.primary.any() else table[table.measure == "held-out loss"]
    for c in chosen[chosen.primary | (chosen.family != "controls")].to_dict("records"):
        mean, interval = measurement(c["mean"], c["low"], c["high"])
        pair = f"{name(c['first'])} − {name(c['second'])}"
        lost = c["diverged_first"] + c["diverged_second"]
        lines.append(
            {
                "what": f"{c['measure']}: {_with_alpha(pair, c['alpha'])}",
                "where": f"{c['setting']}, {c['when']}",
                "mean": mean,
                "interval": interval,
                "method": c["method"],
                "pairs": f"{c['pairs']}" + (f", {lost} diverged" if lost else ""),
                "p": _probability(c["p"], c["floor"]),
                "holm": _probability(c["holm"]),
                "verdict": c["verdict"],
            }
        )
    return lines


def _power_shown(table: pd.DataFrame) -> list[dict[str, str]]:
    """The plan, as text."""
    lines = []
    for p in table.to_dict("records"):
        pair = f"{name(p['first'])} − {name(p['second'])}"
        needed = p.get("seeds_needed", math.nan)
        lines.append(
            {
                "what": f"{p['measure']}: {_with_alpha(pair, p['alpha'])}",
                "where": p["setting"],
                "effect": number(p.get("effect", math.nan), 2),
                "pairs": str(p["pairs"]),
                "sd": number(p["sd"], 2),
                "detectable": number(p["detectable"], 2),
                "needed": number(needed),
            }
        )
    return lines


def _costs_shown(table: pd.DataFrame) -> list[dict[str, str]]:
    """The costs of an arm's runs, as text."""
    return [
        {
            "arm": _with_alpha(name(c["arm"]), c["alpha"]),
            "where": c["setting"],
            "seconds": number(c["seconds"], 3),
            "ratio": number(c["ratio"], 3),
            "share": f"{100 * c['trace_share']:.1f} %",
            "speed": number(c["tokens_per_second"], 3),
            "memory": number(c["peak_rss_mib"], 3),
        }
        for c in table.to_dict("records")
    ]


def _with_alpha(what: str, alpha: float) -> str:
    return f"{what}, {at(alpha)}" if at(alpha) else what


def _probability(p: float, floor: float = 0.0) -> str:
    """`0.002, the smallest possible` where p is the floor of its test."""
    if math.isnan(p):
        return "–"
    if p <= floor * (1 + 1e-9):
        return f"{number(p, 2)}, the smallest possible"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _total(runs: pd.DataFrame, column: str) -> float:
    return float(runs[column].sum()) if column in runs else math.nan


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows as read back from JSON, where a non-finite number is null."""
    return [
        {key: None if isinstance(v, float) and not np.isfinite(v) else v for key, v in made.items()} for made in rows
    ]
