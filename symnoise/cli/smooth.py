"""`symnoise smooth`: curvature at the size of the noise."""

import math
from pathlib import Path
from typing import Any

import torch

from symnoise.cli.shared import batches, draw, load, long_work, numbers, positive, show, write
from symnoise.core import plus_minus
from symnoise.curvature import SmoothedCurvature, attenuation_slope, ratio_of_means, smoothed_curvature
from symnoise.curvature.pooled import Unit
from symnoise.noise import Noise


def smooth(
    *,
    alphas: str,
    noise: str,
    draws: int,
    batch: int,
    seed: int,
    json: Path | None,
    figure: Path | None,
    data: str,
    **source: Any,
) -> None:
    """Print, and write, how much of the quadratic term remains at the σ of each of the comma-separated `alphas`."""
    strengths = numbers("--alphas", alphas)
    positive("--batch", batch)
    with long_work(json, figure):
        text = load(data=data, **source)
        found = []
        for ids in batches(len(text), batch):
            loss = text.loss(ids)
            dim = loss.embeddings.shape[-1]
            sigmas = torch.stack([Noise.neftune(alpha).sigma(loss.lengths.cpu(), dim) for alpha in strengths])
            found.append(smoothed_curvature(loss, sigmas, noise, draws, seed))
    smoothed = SmoothedCurvature.joined(found)
    rows = [_row(smoothed, i, alpha) for i, alpha in enumerate(strengths)]
    hessian = float(smoothed.forms.mean())
    show(
        f"{text.model.name} on {data}: {noise}, {draws} mirrored draws; mean zᵀHz {hessian:.4g}",
        ("α", "σ", "slope Σxy/Σx²", "ratio Σy/Σx", "C(σ)"),
        [
            (
                f"{r['alpha']:g}",
                f"{r['sigma']:.3g}",
                _span(r, "slope"),
                _span(r, "ratio"),
                plus_minus(r["C"], r["stderr"]),
            )
            for r in rows
        ],
        "y: a pair’s excess, x: ½εᵀHε. The slope says how much of large curvature is left at this σ, the ratio how "
        f"much of the mean, which is what training averages. 95 % intervals over {_UNITS[rows[0]['unit']]}; C(σ) with "
        f"one standard error over draws.{text.notes()}",
    )
    draw(figure, "smoothed_curvature", smoothed, None, strengths)
    facts = text.facts() | {"noise": noise, "draws": draws, "batch": batch, "seed": seed}
    write(json, facts | {"hessian_trace": hessian, "rows": rows}, text.model)


_UNITS = {"example": "examples (texts like these)", "draw": "draws (this text alone)"}


def _row(smoothed: SmoothedCurvature, i: int, alpha: float) -> dict[str, Any]:
    """One α: both pooled numbers with 95 % intervals over examples, or over draws if there is only one example."""
    y, x, sigma = smoothed.pair[i], smoothed.second_order[i], smoothed.sigmas[i]
    unit: Unit = "example" if len(sigma) > 1 else "draw"
    slope, ratio = attenuation_slope(y, x, unit), ratio_of_means(y, x, unit)
    C, ratios = smoothed.C[i], smoothed.T[i]
    row = {"sigma": float(sigma.mean()), "alpha": alpha, "C": float(C.mean().value), "stderr": float(C.mean().stderr)}
    for name, found in (("slope", slope), ("ratio", ratio)):
        row |= {name: found.value, f"{name}_stderr": found.stderr}
        row |= {f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_unbounded": found.unbounded}
    keys = ("sigma", "C", "stderr", "ratio", "ratio_stderr")
    each = zip(sigma, C.value, C.stderr, ratios.value, ratios.stderr, strict=True)
    examples = [dict(zip(keys, map(float, example), strict=True)) for example in each]
    return row | {"unit": unit, "per_example": examples}


def _span(row: dict[str, Any], name: str) -> str:
    """Such as `0.92 (0.80 to 1.04)`, or why there is no interval."""
    if row[f"{name}_unbounded"]:
        return f"{row[name]:.3g} (unbounded: Σx may be 0)"
    if math.isnan(row[f"{name}_low"]):
        return f"{row[name]:.3g}"
    return f"{row[name]:.3g} ({row[f'{name}_low']:.3g} to {row[f'{name}_high']:.3g})"
