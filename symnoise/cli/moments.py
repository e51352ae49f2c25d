"""`symnoise moments`: closed forms of the noise next to sampled values."""

import math
from pathlib import Path
from typing import Any

from symnoise.cli.shared import draw, long_work, show, write
from symnoise.core import InputError, unknown
from symnoise.noise import Noise, sampled_moments, single_draws
from symnoise.noise.moments import SYMBOLS

_MOST = 1e60


def moments(
    *, law: str, alpha: float, length: int, dim: int, draws: int, seed: int, json: Path | None, figure: Path | None
) -> None:
    """Print, and write, predicted and measured moments of one draw of noise."""
    if law not in single_draws():
        raise unknown("law", law, single_draws())
    if _MOST < alpha < math.inf:
        raise InputError(f"--alpha must be at most {_MOST:.0e}, or its moments overflow; got {alpha:g}")
    noise = Noise.named(law, alpha)
    assert noise is not None
    with long_work(json, figure):
        sampled = sampled_moments(noise, length, dim, draws, seed)
    expected = noise.moments(length, dim)
    result: dict[str, Any] = {}
    for name in SYMBOLS:
        estimate = getattr(sampled, name)
        measured = {"measured": float(estimate.value), "stderr": float(estimate.stderr)}
        result[name] = {"predicted": getattr(expected, name), **measured}
    show(
        f"{law}, α = {alpha:g}, L = {length}, d = {dim}, {draws} draws",
        ("", "predicted", "measured", "stderr"),
        [(symbol, *(f"{value:.6g}" for value in result[name].values())) for name, symbol in SYMBOLS.items()],
    )
    draw(figure, "moments", expected, sampled)
    write(json, result | {"law": law, "alpha": alpha, "length": length, "dim": dim, "draws": draws, "seed": seed})
