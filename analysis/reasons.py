"""Why rows on the pretrained model fail: the evidence in the run itself, as sentences.

Each function takes the rows of its claim and the tables, and uses nothing else. Rows are selected by key and subject,
never by displayed words.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.validity import first_text, radius, without_one
from analysis.ledger import PRETRAINED
from symnoise.plot.numbers import number

Rows = list[dict[str, Any]]
Tables = dict[str, pd.DataFrame]


def reasons(rows: Rows, tables: Tables) -> dict[str, list[str]]:
    """claim id -> sentences, for each claim with a failing row."""
    found: dict[str, list[str]] = {}
    for id in dict.fromkeys(row["id"] for row in rows):
        own = [row for row in rows if row["id"] == id]
        failing = [row["subject"] for row in own if row["verdict"] == "fails"]
        if failing:
            # The tables are about the pretrained model.
            on_model = any(subject in PRETRAINED for subject in failing)
            search = _SEARCH.get(id, _nothing) if on_model else _nothing
            found[id] = search(own, tables) or _nothing(own, tables)
    return found


SLOPE = "On the first text the attenuation slope T(σ)"


def _nothing(rows: Rows, tables: Tables) -> list[str]:
    return ["This run recorded no evidence on why."]


def _range(rows: Rows, tables: Tables) -> list[str]:
    """V1 and other limits of the quadratic regime: its range, and how many examples have negative tr H."""
    said = []
    if "validity" in tables:
        pooled = first_text(tables["validity"])
        edge = radius(pooled)
        values = ", ".join(f"{number(t, 3)} at α = {a:g}" for a, t in zip(pooled.alpha, pooled["T"], strict=True))
        others = f"; {without_one(tables)}" if "validity by example" in tables else ""
        said.append(
            f"{SLOPE} first leaves 1 ± 10 % at α ≈ {number(edge, 2)} (linear in α² between the measured ones{others})."
            if np.isfinite(edge)
            else f"{SLOPE} stays within 1 ± 10 % up to α = {pooled.alpha.max():g}."
        )
        said.append(f"It is {values}.")
        # Training averages a different number.
        means = ", ".join(f"{number(r, 3)} at α = {a:g}" for a, r in zip(pooled.alpha, pooled["R"], strict=True))
        said.append(f"The mean excess over its second-order term, Σy/Σx: {means}.")
    return said + _negative(tables)


def _negative(tables: Tables) -> list[str]:
    if "curvature" not in tables:
        return []
    hessian = tables["curvature"].query("quantity == 'tr H'")
    hessian = hessian[hessian.method == hessian.method.iloc[0]]
    below = int((hessian.value < 0).sum())
    return [
        f"tr H is negative in {below} of {len(hessian)} examples: curvature of both signs cancels in it, and in T’s "
        "denominator, while fourth-order terms need not cancel."
        if below
        else f"tr H is positive in all {len(hessian)} examples."
    ]


def _raw_gaussian(rows: Rows, tables: Tables) -> list[str]:
    """S3: the uncalibrated law has √3 times the σ of the calibrated one."""
    if "validity" not in tables:
        return []
    pooled = first_text(tables["validity"])
    reached = 5 * 3**0.5  # the check is at α = 5
    at = float(np.interp(reached, pooled.alpha, pooled["T"]))
    return [
        f"An uncalibrated Gaussian at α = 5 has the σ of a calibrated law at α = {number(reached, 2)}, where T(σ), "
        f"interpolated, is {number(at, 2)}; if the excess were purely second order, it would be 1.",
        *_range(rows, tables)[:1],
    ]


def _variances(rows: Rows, tables: Tables) -> list[str]:
    """P2: the term that one draw’s formula omits, and the effect of T on a pair’s, where the prediction fails."""
    if "variances on text" not in tables:
        return []
    said = []
    failing = {row["scheme"] for row in rows if row["verdict"] == "fails"}
    if failing & {"one draw", "two draws"}:
        text = tables["variances on text"].pivot_table(index="alpha", columns="scheme", values="predicted")
        share = text["pair"] / text["one draw"]
        values = ", ".join(f"{number(100 * s, 2)} % at α = {a:g}" for a, s in share.items())
        said.append(
            f"The leading-order formula omits the second-order term, which by its own prediction adds to one "
            f"draw’s variance {values}."
        )
    if "pair" in failing and "validity" in tables:
        pooled = first_text(tables["validity"])
        squares = ", ".join(f"{number(t**2, 2)} at α = {a:g}" for a, t in zip(pooled.alpha, pooled["T"], strict=True))
        said.append(f"Were every pair’s excess T(σ) times its prediction, its variance would be T² times: {squares}.")
    return said + _range(rows, tables)[:1]


def _cancellation(rows: Rows, tables: Tables) -> list[str]:
    """P1: is a pair's excess at the smallest α above float32 resolution?"""
    if "validity by example" not in tables:
        return []
    single = tables["validity by example"]
    least = single[single.alpha == single.alpha.min()]
    eps = float(np.finfo(np.float32).eps)
    return [
        f"At α = {least.alpha.iloc[0]:g} the size of a pair’s excess, averaged over examples, is "
        f"{number(least.excess.abs().mean(), 2)} nats; float32 resolves {number(eps, 2)} of a loss, and the excess is "
        "a difference of losses.",
        *_range(rows, tables)[:2],
    ]


# For N3: key of each premise -> key of the identity that rests on it.
_IDENTITY = {
    "N3.premise": "N3.identity",
    "N3.premise.scale-invariant": "N3.identity.scale-invariant",
}


def _radial(rows: Rows, tables: Tables) -> list[str]:
    """N3: does its premise, scale invariance, hold; and if so, does the identity?"""
    premises = [row for row in rows if row["scheme"] == "premise"]
    broken = [row for row in premises if row["verdict"] == "fails"]
    identities = {(row["key"], row["subject"]): row["verdict"] for row in rows if row["scheme"] == "identity"}
    said = []
    if broken:
        sizes = ", ".join(f"{number(row['measured'], 3)} for {row['where']}" for row in broken)
        said.append(
            f"The premise fails: if ℓ were invariant to the scale of X, ⟨X, ∇ℓ⟩ would be 0, but the largest "
            f"|cos(X, ∇ℓ)| is {sizes}. The residual stream adds the output of normalised layers to X, so scaling X "
            "changes the loss."
        )
    for row in premises:
        identity = identities.get((_IDENTITY[row["key"]], row["subject"]))
        if row["verdict"] == "holds" and identity:
            said.append(f"Where the premise holds ({row['where']}), the identity: {identity}.")
    return said


_SEARCH: dict[str, Callable[[Rows, Tables], list[str]]] = {
    "V1": _range,
    "S2": _range,
    "S3": _raw_gaussian,
    "P1": _cancellation,
    "P2": _variances,
    "P4": _range,
    "N3": _radial,
}
