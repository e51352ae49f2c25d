"""`symnoise smooth`: curvature at the size of the noise."""

from pathlib import Path
from typing import Any

import torch

from symnoise.cli.shared import at, batches, joined, load, long_work, numbers, pm, positive, show, write
from symnoise.curvature import smoothed_curvature
from symnoise.noise import Noise


def smooth(
    *, alphas: str, noise: str, draws: int, batch: int, seed: int, json: Path | None, data: str, **source: Any
) -> None:
    """Print, and write, T(σ) and C(σ) at the σ of each of the comma-separated `alphas`."""
    strengths = numbers("--alphas", alphas)
    positive("--batch", batch)
    with long_work(json):
        text = load(data=data, **source)
        found = []
        for ids in batches(len(text), batch):
            loss = text.loss(ids)
            dim = loss.embeddings.shape[-1]
            sigmas = torch.stack([Noise.neftune(alpha).sigma(loss.lengths.cpu(), dim) for alpha in strengths])
            found.append(smoothed_curvature(loss, sigmas, noise, draws, seed))
    rows: list[dict[str, Any]] = []
    for i, alpha in enumerate(strengths):
        C, T = (joined([at(getattr(part, name), i) for part in found]) for name in ("C", "T"))
        sigma = torch.cat([part.sigmas[i] for part in found])
        examples = zip(sigma, C.value, C.stderr, T.value, T.stderr, strict=True)
        keys = ("sigma", "C", "stderr", "T", "T_stderr")
        rows.append(
            {"sigma": float(sigma.mean()), "alpha": alpha, "T": float(T.mean().value), "C": float(C.mean().value)}
            | {"stderr": float(C.mean().stderr), "T_stderr": float(T.mean().stderr)}
            | {"per_example": [dict(zip(keys, map(float, example), strict=True)) for example in examples]}
        )
    hessian = torch.cat([part.forms.mean(0) for part in found])
    show(
        f"{text.model.name} on {data}: {noise}, {draws} mirrored draws; mean zᵀHz {float(hessian.mean()):.4g}",
        ("α", "σ", "T(σ)", "C(σ)"),
        [(f"{r['alpha']:g}", f"{r['sigma']:.3g}", pm(r["T"], r["T_stderr"]), pm(r["C"], r["stderr"])) for r in rows],
    )
    facts = {"model": text.model.name, "data": data, "noise": noise, "draws": draws, "seed": seed}
    write(json, facts | {"hessian_trace": float(hessian.mean()), "rows": rows})
