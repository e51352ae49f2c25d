"""P1 to P3 on functions with known derivatives: cancellation per draw, variances, and the law of least variance."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from symnoise.core import generator
from symnoise.noise import LAWS, Law
from symnoise.theory import constants
from symnoise.theory.findings import Findings, timed
from symnoise.theory.ledger import limit_and_half, row, slug, variance_and_half
from symnoise.theory.subjects import Subject


@timed
def check_cancellation(subject: Subject, sigma: float, draws: int = 256, seed: int = 0) -> Findings:
    """P1: the order in σ of the remainder beyond ½εᵀHε, for a pair (4) and, as a control, for a single draw (3).

    Order: log₂ of the ratio at σ and σ/2 of the root mean square over draws, extrapolated to σ = 0; to 0.1. The next
    term is σ² smaller for a pair but only σ for a single draw, whose control therefore starts from σ/8.
    """
    z = _rademacher(subject, draws, seed, "cancellation")
    forms, slopes = subject.forms(z), z @ subject.gradient

    def order(of: Callable[[float], Tensor], start: float, next_term: int) -> tuple[float, float]:
        size = [math.log2(float(of(start / 2**k).square().mean().sqrt())) for k in range(3)]
        return limit_and_half(size[0] - size[1], size[1] - size[2], next_term)

    def pair(s: float) -> Tensor:
        return subject.pair(s * z) - constants.SECOND * s**2 * forms

    def single(s: float) -> Tensor:
        return subject.evaluate(subject.x + s * z) - subject.value - s * slopes - constants.SECOND * s**2 * forms

    facts: dict[str, Any] = {"resolution": 0.1, **subject.facts, "n": draws, "seed": seed}
    quantity = "order in σ of one draw's remainder (control)"
    rows = [
        row(
            "P1",
            "order in σ of a pair's remainder",
            constants.ORDER_OF_PAIR,
            *order(pair, sigma, 2),
            key="order.pair",
            **facts,
        ),
        row("P1", quantity, constants.ORDER_OF_DRAW, *order(single, sigma / 8, 1), key="order.one-draw", **facts),
    ]
    return Findings(rows)


@timed
def check_variances(subject: Subject, sigma: float, draws: int = 8_192, seed: int = 0) -> Findings:
    """P2 with Rademacher noise at σ/16, and the three variances at larger σ for the figure; resolved to 10 %."""
    z = _rademacher(subject, 2 * draws, seed, "variances")
    H = subject.hessian
    slope = float(subject.gradient.square().sum())
    form_variance = variance_of_form(H, LAWS["rademacher"])
    rows, table = [], []
    for s in np.geomspace(sigma / 16, sigma * 2, 6):
        s = float(s)
        plus, minus = (subject.evaluate(subject.x + sign * s * z[:draws]) for sign in (1, -1))
        other = subject.evaluate(subject.x + s * z[draws:])
        for name, values, predicted in (
            ("one draw", plus, s**2 * slope),
            ("two draws", (plus + other) / 2, constants.TWO_DRAWS * s**2 * slope),
            ("pair", (plus + minus) / 2, constants.PAIR * s**4 * form_variance),
        ):
            measured, half = variance_and_half(values)
            table.append(
                {"where": subject.where, "sigma": s, "scheme": name, "predicted": predicted}
                | {"measured": measured, "low": measured - half, "high": measured + half}
            )
            if len(table) <= 3:  # the smallest σ, where the leading order is all there is
                facts: dict[str, Any] = {**subject.facts, "n": draws, "seed": seed, "resolution": 0.1 * predicted}
                facts |= {"key": f"variance.{slug(name)}", "scheme": name}
                rows.append(row("P2", f"variance of {name}", predicted, measured, half, **facts))
    return Findings(rows, {"variances": table})


@timed
def check_least_variance(subject: Subject, draws: int = 100_000, seed: int = 0) -> Findings:
    """P3: Var(zᵀHz) of each law against its formula, to 5 %, and that no other law's is below Rademacher's."""
    H, n = subject.hessian, len(subject.x)
    facts: dict[str, Any] = {**subject.facts, "n": draws, "seed": seed}
    rows, found = [], {}
    for name, law in LAWS.items():
        z = law.sample((draws, n), generator=generator(seed, "forms", name), dtype=torch.float64) / law.variance**0.5
        predicted = variance_of_form(H, law)
        found[name] = variance_and_half(subject.forms(z))
        own: dict[str, Any] = {"key": f"variance.{name}", "resolution": 0.05 * predicted}
        measured, half = found[name]
        rows.append(row("P3", f"Var(zᵀHz), {name}", predicted, measured, half, **own, **facts))
    for name in (name for name in LAWS if name != "rademacher"):
        excess = found["rademacher"][0] - found[name][0]
        half = math.hypot(found["rademacher"][1], found[name][1])
        quantity = f"Var(zᵀHz), rademacher − {name}"
        own = {"key": f"least.{name}", "resolution": 0, "relation": "at most"}
        rows.append(row("P3", quantity, 0, excess, half, **own, **facts))
    return Findings(rows)


def variance_of_form(H: Tensor, law: Law) -> float:
    """Var(zᵀHz) = 2‖H‖_F² + (κ − 3) Σ H_ii² for independent coordinates of the standardised law."""
    frobenius, diagonal = float(H.square().sum()), float(H.diagonal().square().sum())
    return constants.FROBENIUS * frobenius + (law.kurtosis - constants.GAUSSIAN_KURTOSIS) * diagonal


def _rademacher(subject: Subject, draws: int, seed: int, purpose: str) -> Tensor:
    owner = generator(seed, purpose)
    return LAWS["rademacher"].sample((draws, len(subject.x)), generator=owner, dtype=torch.float64)
