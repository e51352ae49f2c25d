"""The ledger: predictions, measurements with intervals, and the verdicts computed from them."""

import math
import re
from dataclasses import dataclass
from typing import Any

from scipy import stats
from torch import Tensor

from symnoise.core import Estimate, student_t
from symnoise.theory.claims import Kind, claim, kind_of

# Every interval has this coverage. A ledger has some 70 rows, so at 95 % three or four true claims would be
# reported as failing; at 99.9 % it is one in fifteen ledgers.
LEVEL = 0.999


@dataclass(frozen=True)
class Row:
    """One measurement compared with one claim.

    id, statement: of the claim.  quantity: what was measured, and `where`: on what, both as text for readers.
    key, subject:  stable names of the same two, by which rows are selected: key such as "P2.variance.pair.alpha=5",
                   subject one of `SUBJECTS`.
    scheme:        which of the claim's numbers this is, if it has several: for P2 "one draw", "two draws" or "pair",
                   for V1 "slope" or "ratio-of-means", for N3 "premise" or "identity"; else "".
    kind:          "identity" (checks the implementation, cannot otherwise fail) or "prediction", by `KINDS`.
    prediction:    the number that the claim gives, computed before measuring.
    measured:      the value, with its interval [low, high]: a confidence interval of coverage `LEVEL`, or a bound
                   on rounding and extrapolation if nothing is random; null if there is none.
    relation:      "equals": the interval must contain the prediction, and reach no further than `resolution` from the
                   value; "at most": the interval must lie below the prediction; "within": inside prediction ±
                   resolution.
    verdict:       "holds", "fails" or "undecided", by `verdict`.
    n, seed, seconds: sample size, seed, time taken.
    """

    id: str
    statement: str
    quantity: str
    prediction: float
    measured: float
    low: float
    high: float
    relation: str
    resolution: float
    verdict: str
    where: str
    n: int
    seed: int
    kind: Kind
    key: str
    subject: str
    scheme: str = ""
    seconds: float = float("nan")


def verdict(relation: str, prediction: float, low: float, high: float, resolution: float) -> str:
    """`holds`, `fails` or `undecided`, from the interval alone, of which one end may be open; `undecided` without one.

    "equals":  fails if the prediction is outside [low, high]; holds if it is inside and high − low ≤ 2·resolution;
               otherwise the interval is too wide to decide.
    "at most": holds if high ≤ prediction, fails if low > prediction.
    "within":  holds if [low, high] is inside prediction ± resolution, fails if it is outside.
    """
    if not math.isfinite(prediction) or math.isnan(low + high) or not any(map(math.isfinite, (low, high))):
        return "undecided"
    if relation == "equals":
        if not low <= prediction <= high:
            return "fails"
        return "holds" if high - low <= 2 * resolution else "undecided"
    if relation == "at most":
        return "holds" if high <= prediction else "fails" if low > prediction else "undecided"
    if relation == "within":
        if prediction - resolution <= low and high <= prediction + resolution:
            return "holds"
        return "fails" if high < prediction - resolution or low > prediction + resolution else "undecided"
    raise ValueError(f"unknown relation {relation!r}")


def row(
    id: str,
    quantity: str,
    prediction: float,
    measured: float,
    half: float | tuple[float, float],
    *,
    key: str,
    subject: str,
    resolution: float,
    where: str,
    n: int = 1,
    seed: int = 0,
    relation: str = "equals",
    scheme: str = "",
) -> Row:
    """A row with its computed verdict; the interval is `measured` ± `half`, or `half` itself if it is a pair.
    Nothing is decided where nothing was measured (NaN).

    key: what was measured, without the claim's id in front: "variance.pair.alpha=5".
    """
    prediction, measured = float(prediction), float(measured)
    low, high = half if isinstance(half, tuple) else (measured - float(half), measured + float(half))
    decision = "undecided" if math.isnan(measured) else verdict(relation, prediction, low, high, resolution)
    key = f"{id}.{key}"
    return Row(
        id=id,
        statement=claim(id).statement,
        quantity=quantity,
        prediction=prediction,
        measured=measured,
        low=low,
        high=high,
        relation=relation,
        resolution=float(resolution),
        verdict=decision,
        where=where,
        n=n,
        seed=seed,
        kind=kind_of(key, subject),
        key=key,
        subject=subject,
        scheme=scheme,
    )


def slug(text: str) -> str:
    """Text as a part of a key: `one draw` → `one-draw`, `ROUGE-L` → `rouge-l`."""
    return re.sub(r"[^\w.=]+", "-", text.lower()).strip("-")


def half_width(stderr: float | Tensor, dof: float = math.inf) -> float:
    """Half width of a Student-t interval of coverage `LEVEL`."""
    return student_t(LEVEL, dof) * float(stderr)


def value_and_half(estimate: Estimate) -> tuple[float, float]:
    """The value of a scalar estimate, and the half width of its interval."""
    return float(estimate.value), half_width(estimate.stderr, estimate.dof)


def mean_and_half(draws: Tensor) -> tuple[float, float]:
    """Mean of independent draws, and the half width of its interval."""
    return value_and_half(Estimate.from_draws(draws))


def variance_and_half(draws: Tensor) -> tuple[float, float]:
    """Sample variance of independent draws, and the half width of its interval (`Estimate.variance`)."""
    return value_and_half(Estimate.variance(draws))


def variance_interval(variance: float, dof: float) -> tuple[float, float]:
    """Interval of a variance by the χ² law, for near-normal draws with `dof` degrees of freedom."""
    tail = (1 - LEVEL) / 2
    return variance * dof / float(stats.chi2.isf(tail, dof)), variance * dof / float(stats.chi2.ppf(tail, dof))


def limit_and_half(coarse: float, fine: float, order: int = 2) -> tuple[float, float]:
    """The limit at σ = 0 of a quantity q + cσ^order + …, from its values at σ and σ/2, with how far it moved.

    Richardson: fine + (fine − coarse)/(2^order − 1); half width: the whole size of that correction, plus rounding
    at 1e-6 of the value.
    """
    correction = (fine - coarse) / (2**order - 1)
    return fine + correction, abs(correction) + 1e-6 * abs(fine)


def counts(rows: list[dict[str, Any]] | list[Row]) -> dict[str, int]:
    """Number of rows that hold, fail or remain undecided."""
    verdicts = [r.verdict if isinstance(r, Row) else r["verdict"] for r in rows]
    return {word: verdicts.count(word) for word in ("holds", "fails", "undecided")}


__all__ = [
    "LEVEL",
    "Row",
    "counts",
    "half_width",
    "limit_and_half",
    "mean_and_half",
    "row",
    "slug",
    "value_and_half",
    "variance_and_half",
    "variance_interval",
    "verdict",
]
