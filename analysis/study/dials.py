"""Which weight do outcomes follow: the even one (curvature) or the odd one (gradient noise)?

Claim D1: with weights μ and λ of the noise's even and odd parts, a step's mean given ε depends only on μ, and its
variance on λ². So an outcome that follows μ is due to curvature, one that follows λ² to gradient noise.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pandas as pd

from analysis.study.contrasts import LEVEL
from analysis.study.data import StudyTables, measurements
from analysis.study.pairs import holm, student
from result_schema.study import dials_of

EVEN, ODD = TERMS = ("even", "odd²")


def slopes(study: StudyTables) -> pd.DataFrame:
    """Outcome = a + b μ + c λ² at the study's own α, by least squares in each seed that finished all cells; one row
    per term.

    mean, stderr, low, high, p: of a slope over the seeds, by `student` at 95 %: rows, their order and initial weights
    are a seed's own, so seeds are the unit.  lack: lack of fit of the plane, the root mean square of the cells' mean
    residuals over the range of the cells' means; near 0 where two slopes suffice.  span: of the term over the cells.
    diverged: seeds left out since one of their cells did.
    primary: the slopes named in the study file, of its outcomes, at the end of training; holm: p adjusted over them.
    Empty if the cells do not identify both slopes.
    """
    found: list[dict[str, Any]] = []
    for fact, table in by_cell(study):
        found += [{**fact, **row} for row in _fitted(table)]
    result = pd.DataFrame(found)
    if result.empty:
        return result
    named = result.measure.isin(study.primary.outcomes) & (result.when == "end") & (result.decoding == "")
    result["primary"] = named & study.primary.slopes
    result["holm"] = holm(result.p.where(result.primary).tolist(), study.primary.endpoints)
    return result


def by_cell(study: StudyTables) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Every measure at the study's own α: setting, measure, when, decoding, the number of seeds with a cell that
    diverged, and the values, a row per seed and a column per cell (μ, λ)."""
    known = {arm: cell for arm in study.runs.arm.unique() if (cell := dials_of(arm)) is not None}
    for setting, runs in study.runs.groupby("setting", sort=False):
        at_own = runs[runs.arm.isin(known) & (runs.alpha.isna() | (runs.alpha == study.facts["alpha"]))]
        own = measurements(study).merge(at_own[["run", "arm", "seed"]], on="run")
        diverged = at_own[at_own.status == "diverged"].seed.nunique()
        for (measure, when, decoding), part in own.groupby(["measure", "when", "decoding"]):
            table = part.pivot(index="seed", columns="arm", values="value").rename(columns=known)
            facts = {"setting": setting, "measure": measure, "when": when, "decoding": decoding}
            yield facts | {"diverged": diverged}, table


def cells(table: pd.DataFrame) -> list[tuple[float, float]]:
    """(μ, λ) of the columns of a table of `by_cell`."""
    return cast("list[tuple[float, float]]", table.columns.tolist())


def _fitted(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of the two terms, of a table of `by_cell`."""
    whole = table.dropna()
    if len(whole) < 2:
        return []
    design = np.array([[1, even, odd**2] for even, odd in cells(whole)])
    if np.linalg.matrix_rank(design) < design.shape[1]:  # cells on a line identify only one of the two slopes
        return []
    values = whole.to_numpy(float).T
    # From the first cell on, so that what no cell changes has slope 0 and not rounding, of which p would make much.
    values = values - values[0]
    fit = np.linalg.lstsq(design, values, rcond=None)[0]
    means = values.mean(axis=1)
    left = means - design @ fit.mean(axis=1)
    spread = float(np.ptp(means))
    lack = float(np.sqrt(np.mean(left**2))) / spread if spread else math.nan
    return [
        {"term": term, "seeds": fit.shape[1], **student(fit[i], LEVEL), "lack": lack, "span": np.ptp(design[:, i])}
        for i, term in enumerate(TERMS, start=1)
    ]
