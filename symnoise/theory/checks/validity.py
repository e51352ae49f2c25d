"""V1, and P1 on a model: how much of the quadratic term remains at the size of the noise, by two numbers."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from symnoise.curvature import Pooled, SmoothedCurvature, attenuation_slope, ratio_of_means
from symnoise.curvature.pooled import Unit, slopes_without_each
from symnoise.theory.findings import Findings, timed
from symnoise.theory.ledger import LEVEL, row

MARGIN = 0.1  # how far from 1 still counts as the quadratic regime
_MEASURES: dict[str, tuple[Callable[..., Pooled], str]] = {
    "slope": (attenuation_slope, "attenuation slope Σxy/Σx²"),
    "ratio-of-means": (ratio_of_means, "ratio of means Σy/Σx"),
}
# Independent unit: its part of the key, and its words. A single example says nothing about other texts.
_UNITS: dict[Unit, tuple[str, str]] = {"example": ("", "texts like these"), "draw": (".these", "these texts")}


@timed
def check_validity(
    smoothed: SmoothedCurvature,
    alphas: list[float],
    *,
    where: str,
    training: tuple[float, ...],
    subject: str = "model",
    text: str = "",
    seed: int = 0,
) -> Findings:
    """V1: attenuation slope and ratio of means within 10 % of 1 at each α in `training`; P1: slope at the smallest α.

    y is a pair's excess and x = ½εᵀHε (`symnoise.curvature.pooled`). Each of V1's numbers has a row for texts like
    these, whose unit is the example, and one for these texts, whose unit is the draw; with one example only the latter.
    P1, true of any text, has the latter.
    text: a part of the keys, to distinguish the rows of a second text from those of the first.

    Table "validity": both numbers (T the slope) with both intervals for each α; null if an interval is unbounded.
    Table "validity by example": the same for each example over its own draws, and T_without, the slope of the others.
    """
    K, B = smoothed.forms.shape
    units: list[Unit] = ["example", "draw"] if B > 1 else ["draw"]
    other = f".{text}" if text else ""
    rows, pooled, single = [], [], []
    for i, alpha in enumerate(alphas):
        y, x, sigma = smoothed.pair[i], smoothed.second_order[i], smoothed.sigmas[i]
        at = {"where": where, "subject": subject, "alpha": alpha}
        found = {(name, unit): of(y, x, unit, LEVEL) for name, (of, _) in _MEASURES.items() for unit in units}
        facts: dict[str, Any] = {"subject": subject, "where": where, "seed": seed}
        facts |= {"relation": "within", "resolution": MARGIN}
        if i == 0:
            own, facts["n"] = found["slope", "draw"], _count("draw", K, B)
            quantity = f"attenuation slope of pairs’ excess, α = {alpha:g}"
            rows.append(
                row("P1", quantity, 1, own.value, (own.low, own.high), key=f"excess{other}.alpha={alpha:g}", **facts)
            )
        if alpha in training:
            for (name, unit), own in found.items():
                part, words = _UNITS[unit]
                facts |= {"n": _count(unit, K, B), "key": f"{name}{part}{other}.alpha={alpha:g}", "scheme": name}
                quantity = f"{_MEASURES[name][1]} at α = {alpha:g}, {words}"
                rows.append(row("V1", quantity, 1, own.value, (own.low, own.high), **facts))
        pooled.append(at | {"sigma": float(sigma.mean()), "examples": B, "draws": K} | _record(found, units[0]))
        others = slopes_without_each(y, x)
        for b in range(B):
            alone: dict[str, Any] = {"example": b, "sigma": float(sigma[b]), "T_without": float(others[b])}
            single.append({**at, **alone, **_of_example(y[:, b], x[:, b])})
    return Findings(rows, {"validity": pooled, "validity by example": single})


def _count(unit: Unit, draws: int, examples: int) -> int:
    return examples if unit == "example" else draws * examples


def _record(found: dict[tuple[str, Unit], Pooled], first: Unit) -> dict[str, float]:
    """Slope as T, ratio of means as R: intervals for texts like these (if there are several), and for these."""
    record: dict[str, float] = {}
    for name, short in (("slope", "T"), ("ratio-of-means", "R")):
        wide, own = found[name, first], found[name, "draw"]
        record |= {short: wide.value, f"{short}_low": wide.low, f"{short}_high": wide.high}
        record |= {f"{short}_these_low": own.low, f"{short}_these_high": own.high}
    return record


def _of_example(y: Tensor, x: Tensor, level: float = 0.95) -> dict[str, float]:
    record = {"excess": float(y.mean()), "second_order": float(x.mean())}
    for short, of in (("T", attenuation_slope), ("R", ratio_of_means)):
        own = of(y[:, None], x[:, None], "draw", level)
        record |= {short: own.value, f"{short}_low": own.low, f"{short}_high": own.high}
    return record
