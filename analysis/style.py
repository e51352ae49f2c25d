"""Laws of noise and arms of studies in figures and tables: names, colours, dashes, order.

Colours are Okabe and Ito's (2008), which stay distinct under the common kinds of colour blindness; a law has one colour
everywhere, and a pair shares its law's. How figures look otherwise is in `symnoise.plot.style`.
"""

import re
from collections.abc import Iterable
from typing import Any

from symnoise.plot.style import INK

_LAWS = {
    "none": "#5f5f5f",
    "uniform": "#0072B2",
    "gaussian": "#E69F00",
    "gaussian-raw": "#D55E00",
    "rademacher": "#009E73",
    "penalty": "#8c564b",
    "r3f": "#CC79A7",
    "weight-pair": "#56B4E9",
}
_ALIASES = {
    "none-double-batch": "none",
    "symnoise": "rademacher",
    "symnoise-half-batch": "rademacher",
    "independent-pair": "rademacher",
    "draw-at-pair-size": "rademacher",
    "pair-at-draw-size": "rademacher",
    "uniform-at-raw-size": "uniform",
    "uniform-pair": "uniform",
    "gaussian-pair": "gaussian",
}
NAMES = {
    "none": "no noise",
    "none-double-batch": "no noise, double batch",
    "uniform": "uniform",
    "gaussian": "Gaussian/√3",
    "gaussian-raw": "Gaussian, raw",
    "rademacher": "Rademacher/√3",
    "independent-pair": "two draws",
    "symnoise": "SymNoise",
    "symnoise-half-batch": "SymNoise, half batch",
    "uniform-at-raw-size": "uniform, √3 times as large",
    "uniform-pair": "uniform pair",
    "gaussian-pair": "Gaussian pair",
    "penalty": "curvature penalty",
    "r3f": "R3F",
    "weight-pair": "NSO, a pair in the weights",
    "draw-at-pair-size": "one draw at the pair’s size",
    "pair-at-draw-size": "SymNoise at one draw’s size",
}
# Solid for one draw per row, except Rademacher, whose colour SymNoise shares; arms with another cost are dashed.
_DASHES: dict[str, Any] = {
    "none-double-batch": (0, (4, 2)),
    "rademacher": (0, (1, 1)),
    "independent-pair": (0, (4, 2)),
    "symnoise-half-batch": (0, (4, 1.5, 1, 1.5)),
    "draw-at-pair-size": (0, (2, 1, 1, 1)),
    "pair-at-draw-size": (0, (6, 1.5)),
    "uniform-at-raw-size": (0, (2, 1, 1, 1)),
    "uniform-pair": (0, (4, 2)),
    "gaussian-pair": (0, (4, 2)),
}


# An arm at another learning rate or batch size, as in symnoise-rate-2: dashed by the factor.
_SCALED = re.compile(r"(.+)-(rate|batch)-([\d.]+)")
_FACTORS: dict[str, Any] = {
    **dict.fromkeys(("0.5", "1.125"), (0, (1, 1))),
    **dict.fromkeys(("2", "1.25"), (0, (4, 2))),
    **dict.fromkeys(("4", "1.5"), (0, (4, 1.5, 1, 1.5))),
}
# Weights of the even and the odd part, as in dials-1-3: coloured by the first, as no noise and SymNoise are (0, 0) and
# (1, 0), dashed by the second.
_DIALS = re.compile(r"dials-([\d.]+)-([\d.]+)")
_EVEN = {"0": _LAWS["none"], "1": _LAWS["rademacher"], "2": _LAWS["gaussian"], "3": _LAWS["gaussian-raw"]}
_ODD: dict[str, Any] = {"0": "-", "1": (0, (4, 2)), "3": (0, (1, 1))}


def colour(noise: str) -> str:
    """The colour of the law behind `noise`."""
    if found := _DIALS.fullmatch(noise):
        return _EVEN.get(found[1], INK)
    base = found[1] if (found := _SCALED.fullmatch(noise)) else noise
    return _LAWS.get(_ALIASES.get(base, base), INK)


def name(noise: str) -> str:
    """The reader-facing name of `noise`."""
    if found := _SCALED.fullmatch(noise):
        return f"{name(found[1])}, {found[3]} × {found[2]}"
    if found := _DIALS.fullmatch(noise):
        return f"(μ, λ) = ({found[1]}, {found[2]})"
    return NAMES.get(noise, noise)


def dash(noise: str) -> Any:
    """The dash pattern of `noise`, to distinguish arms of one law."""
    if found := _DIALS.fullmatch(noise):
        return _ODD.get(found[2], "-")
    if found := _SCALED.fullmatch(noise):
        return _FACTORS.get(found[3], "-")
    return _DASHES.get(noise, "-")


def order(noises: Iterable[str]) -> list[str]:
    """The distinct names, in the order of the palette, others after."""
    known = list(NAMES)
    return sorted(dict.fromkeys(noises), key=lambda n: (known.index(n) if n in known else len(known), n))
