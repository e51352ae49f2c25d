"""S1 to S3: the effect of smoothing by each law on the loss."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from symnoise.core import generator
from symnoise.noise import LAWS, Law, sparse
from symnoise.theory import constants
from symnoise.theory.findings import Findings, Table, timed
from symnoise.theory.ledger import Row, limit_and_half, mean_and_half, row
from symnoise.theory.subjects import Ridges, Subject

SPARSE = (sparse(10), sparse(100))  # K1: kurtoses far from those of the laws in use
RAW_REACH = 3**0.5  # how much further an uncalibrated Gaussian reaches than a calibrated law
# σ of the slopes. Below 0.02 a difference of order σ⁶ drowns in float64 rounding; above 0.1 the next order shows.
_SIGMAS = tuple(float(s) for s in np.geomspace(0.02, 0.1, 6))


@timed
def check_smoothing_analytically(seed: int = 0) -> Findings:
    """S1, S2 and S3 on a function whose smoothed values are known in closed form, without sampling.

    Slopes are local, log₂ of the ratio at σ and σ/2, extrapolated to σ = 0; the half width is the size of that
    extrapolation. A slope must be resolved to 0.1, a ratio to 2 %.
    """
    ridges = Ridges.drawn(seed=seed)
    facts: dict[str, Any] = {"where": "analytic function", "subject": "analytic", "seed": seed}
    rows = [*_rest_rows(ridges, facts), *_law_rows(ridges, facts), *_raw_rows(ridges, facts)]
    return Findings(rows, {"slopes": _closed_form_points(ridges, facts["where"])})


def _rest_rows(ridges: Ridges, facts: dict[str, Any]) -> list[Row]:
    """S1: the order in σ of what the second- and fourth-order terms leave out, law by law."""
    rows = []
    for law in LAWS:
        measured, half = _slope(partial(_remainder, ridges, LAWS[law]), 0.08)
        quantity = f"order in σ of what S1 leaves out, {law}"
        rows.append(
            row("S1", quantity, constants.ORDER_OF_REST, measured, half, key=f"order.{law}", resolution=0.1, **facts)
        )
    return rows


def _law_rows(ridges: Ridges, facts: dict[str, Any]) -> list[Row]:
    """S2: order and coefficient of the difference between two laws, and the ratio of two such differences."""
    rows, fine = [], _SIGMAS[1]
    uniform, gaussian, rademacher = (LAWS[name] for name in ("uniform", "gaussian", "rademacher"))
    for a, b in (
        (uniform, gaussian),
        (rademacher, gaussian),
        (rademacher, uniform),
        *((s, rademacher) for s in SPARSE),
    ):
        start = fine / a.kurtosis**0.5 if a in SPARSE else fine  # a sparse coordinate is √κ times σ
        difference = partial(_difference, ridges, a, b)
        measured, half = _slope(difference, start)
        own: dict[str, Any] = {"key": f"order.{a.name}-{b.name}", "resolution": 0.1}
        quantity = f"slope of {a.name} − {b.name}"
        rows.append(row("S2", quantity, constants.ORDER_OF_LAWS, measured, half, **own, **facts))
        predicted = (a.kurtosis - b.kurtosis) * constants.FOURTH * float(ridges.fourth.sum())
        measured, half = _limit(partial(_over_power, difference, 4), start)
        own = {"key": f"coefficient.{a.name}-{b.name}", "resolution": 0.02 * abs(predicted)}
        rows.append(row("S2", f"({a.name} − {b.name})/σ⁴", predicted, measured, half, **own, **facts))
    measured, half = _limit(
        lambda s: _difference(ridges, rademacher, gaussian, s) / _difference(ridges, uniform, gaussian, s), fine
    )
    quantity = "(rademacher − gaussian)/(uniform − gaussian)"
    predicted = (rademacher.kurtosis - gaussian.kurtosis) / (uniform.kurtosis - gaussian.kurtosis)
    rows.append(row("S2", quantity, predicted, measured, half, key="ratio", resolution=0.02 * predicted, **facts))
    return rows


def _raw_rows(ridges: Ridges, facts: dict[str, Any]) -> list[Row]:
    """S3: order and coefficient of what an uncalibrated Gaussian adds."""
    raw_excess, fine = partial(_raw_excess, ridges), _SIGMAS[1]
    slope, slope_half = _slope(raw_excess, fine)
    own: dict[str, Any] = {"key": "order", "resolution": 0.1}
    order = row("S3", "slope of raw gaussian − uniform", constants.ORDER_OF_RAW, slope, slope_half, **own, **facts)
    measured, half = _limit(partial(_over_power, raw_excess, 2), fine)
    predicted = constants.SECOND * (constants.RAW - 1) * ridges.trace
    own = {"key": "coefficient", "resolution": 0.02 * abs(predicted)}
    return [order, row("S3", "(raw gaussian − uniform)/σ²", predicted, measured, half, **own, **facts)]


def _closed_form_points(ridges: Ridges, where: str) -> Table:
    """The sizes of three differences at each σ, for the log-log figure."""
    uniform, gaussian, rademacher = (LAWS[name] for name in ("uniform", "gaussian", "rademacher"))
    return [
        {"where": where, "sigma": sigma, "first": first, "second": second}
        | {"value": abs(value), "low": None, "high": None}
        for sigma in _SIGMAS
        for first, second, value in (
            ("uniform", "gaussian", _difference(ridges, uniform, gaussian, sigma)),
            ("rademacher", "gaussian", _difference(ridges, rademacher, gaussian, sigma)),
            ("gaussian-raw", "uniform", _raw_excess(ridges, sigma)),
        )
    ]


def _remainder(ridges: Ridges, law: Law, sigma: float) -> float:
    """What smoothing by `law` adds beyond the second and the fourth order in σ."""
    fourth = constants.MIXED * ridges.mixed_fourth + law.kurtosis * float(ridges.fourth.sum())
    second = constants.SECOND * sigma**2 * ridges.trace
    return ridges.smoothed(law, sigma) - second - constants.FOURTH * sigma**4 * fourth


def _difference(ridges: Ridges, a: Law, b: Law, sigma: float) -> float:
    return ridges.smoothed(a, sigma) - ridges.smoothed(b, sigma)


def _raw_excess(ridges: Ridges, sigma: float) -> float:
    """Smoothing by the raw Gaussian minus smoothing by the uniform law."""
    return ridges.smoothed(LAWS["gaussian"], RAW_REACH * sigma) - ridges.smoothed(LAWS["uniform"], sigma)


def _over_power(of: Callable[[float], float], power: int, sigma: float) -> float:
    return of(sigma) / sigma**power


def _slope(of: Callable[[float], float], sigma: float) -> tuple[float, float]:
    """The order of `of` in σ: its slope on logarithmic axes as σ → 0, with the half width."""
    at = [math.log2(abs(of(sigma * 2**k))) for k in (1, 0, -1)]
    return limit_and_half(at[0] - at[1], at[1] - at[2])


def _limit(of: Callable[[float], float], sigma: float) -> tuple[float, float]:
    """The limit of `of` as σ → 0, with the half width."""
    return limit_and_half(of(sigma), of(sigma / 2))


@timed
def check_smoothing_sampled(subject: Subject, sigma: float, draws: int, seed: int = 0) -> Findings:
    """S1 to S3 on `subject` by coupled draws: one uniform variate pushed through each law's quantile function.

    S1: C(σ/4) against tr H. S2: from each mirrored pair ½σ²zᵀHz is subtracted, whose mean is the same for all laws; the
    rest is of order σ⁴, so the sampling noise shrinks with the signal. S3: the raw Gaussian's excess, from the same
    variates. Coefficients are extrapolated to σ = 0 draw by draw (Richardson from σ/2 and σ/4), so that intervals are
    those of sampling. Resolution: 10 % for S1 and S3, 25 % for S2, a small difference of large numbers even when
    coupled.
    """
    uniforms = torch.rand((draws, len(subject.x)), generator=generator(seed, "coupled"), dtype=torch.float64)
    uniforms.clamp_(min=1e-12)  # the quantile of 0 is −∞
    trace = float(subject.hessian.trace())
    laws = LAWS | {law.name: law for law in SPARSE[:1]}
    z = {name: law.standardised(uniforms) for name, law in laws.items()}
    z["gaussian-raw"] = RAW_REACH * z["gaussian"]
    form = {name: subject.forms(draw) for name, draw in z.items()}
    sigmas = [sigma / 2**k for k in range(3)]
    pair = {(name, s): subject.pair(s * draw) for name, draw in z.items() for s in sigmas}
    fourth = {(name, s): (value - constants.SECOND * s**2 * form[name]) / s**4 for (name, s), value in pair.items()}
    facts: dict[str, Any] = {**subject.facts, "n": draws, "seed": seed}

    def at_zero(values: dict[tuple[str, float], torch.Tensor], name: str) -> torch.Tensor:
        return (4 * values[name, sigmas[-1]] - values[name, sigmas[-2]]) / 3

    def difference(a: str, b: str, s: float) -> torch.Tensor:
        if "gaussian-raw" in (a, b):  # the second order is the signal
            return pair[a, s] - pair[b, s]
        return s**4 * (fourth[a, s] - fourth[b, s])

    rows = []
    for name in LAWS:
        mean, half = mean_and_half(pair[name, sigmas[-1]] / (constants.SECOND * sigmas[-1] ** 2))
        own: dict[str, Any] = {"key": f"C.{name}", "resolution": 0.1 * abs(trace)}
        rows.append(row("S1", f"C(σ) for small σ, {name}", trace, mean, half, **own, **facts))
    for a, b in (("uniform", "gaussian"), ("rademacher", "gaussian"), (SPARSE[0].name, "rademacher")):
        mean, half = mean_and_half(at_zero(fourth, a) - at_zero(fourth, b))
        predicted = (laws[a].kurtosis - laws[b].kurtosis) * constants.FOURTH * float(subject.fourth.sum())
        own = {"key": f"sampled-coefficient.{a}-{b}", "resolution": 0.25 * abs(predicted)}
        rows.append(row("S2", f"({a} − {b})/σ⁴", predicted, mean, half, **own, **facts))
    excess = {(n, s): value / s**2 for (n, s), value in pair.items()}
    mean, half = mean_and_half(at_zero(excess, "gaussian-raw") - at_zero(excess, "uniform"))
    predicted = constants.SECOND * (constants.RAW - 1) * trace
    own = {"key": "sampled-coefficient", "resolution": 0.1 * abs(predicted)}
    rows.append(row("S3", "(raw gaussian − uniform)/σ²", predicted, mean, half, **own, **facts))

    names = (("uniform", "gaussian"), ("rademacher", "gaussian"), ("gaussian-raw", "uniform"))
    table = [_point(subject.where, s, a, b, *mean_and_half(difference(a, b, s))) for s in sigmas for a, b in names]
    return Findings(rows, {"slopes": table})


def _point(where: str, sigma: float, first: str, second: str, mean: float, half: float) -> dict:
    """A point of the log-log figure: the size of a difference, with the interval of its size."""
    value = abs(mean)
    return {
        "where": where,
        "sigma": sigma,
        "first": first,
        "second": second,
        "value": value,
        "low": value - half,
        "high": value + half,
    }
