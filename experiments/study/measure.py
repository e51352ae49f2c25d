"""Curvature of one run on the held-out prompts, halfway through training and at its end.

    python -m experiments.study.measure STUDY.yaml symnoise_a10_s3

The prompts and the random probes are the same for every run, so differences between runs are paired.
"""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.study.command import run_command
from experiments.study.results import processor, records, weights
from experiments.study.spec import Run, Study
from experiments.study.texts import held_out
from symnoise.core import Estimate, peak_rss_mib, provenance, write_json
from symnoise.curvature import (
    curvature_size,
    finite_curvature,
    inner,
    spectrum,
    trace_parts,
    two_sided_divergence,
)
from symnoise.data import encode
from symnoise.models import EmbeddingLoss, LoadedModel
from symnoise.noise import Noise


def measure(study: Study, run: Run, folder: Path) -> None:
    """Write measure.json: tr H, tr G, tr R, C(σ), the size of the curvature (E|zᵀHz|, ‖H‖_F, the two-sided KL), the top
    eigenvalue, the gradient's norm and N3's two terms, for each example.

    trace_seconds: the Taylor engine's time for one checkpoint.
    """
    place, started = folder / run.name, time.perf_counter()
    steps = {"middle": study.steps(run.arm) // 2, "end": study.steps(run.arm)}
    found: list[dict[str, Any]] = []
    trace_seconds = math.nan
    if records(place / "train.json")["status"] == "done":
        for name, step in steps.items():
            points, trace_seconds = curvature(study, weights(place, name))
            found += [{"step": step, **point} for point in points]
    seconds = time.perf_counter() - started
    took = {"seconds": seconds, "trace_seconds": trace_seconds, "peak_rss_mib": peak_rss_mib()}
    facts = {**took, "processor": processor(), **provenance()}
    write_json(place / "measure.json", {"run": run.name, "measured_by": study.measured_by, "points": found, **facts})


def curvature(study: Study, source: LoadedModel) -> tuple[list[dict[str, Any]], float]:
    """Every quantity of every example, as {example, quantity, value, stderr}; an eigenvalue's stderr is its residual.

    Also returns the seconds that the traces took.
    """
    model, options = source.model, study.measuring
    examples = held_out(study, source.tokenizer, model)[: options.examples]
    batch = encode(examples, source.tokenizer, max_length=study.training.max_length, model=model)
    loss = EmbeddingLoss(model, batch)
    parts = trace_parts(loss, probes=options.probes, precision="float32")  # alike on every machine
    sigma = Noise.neftune(study.alpha).sigma(loss.lengths.cpu(), loss.embeddings.shape[-1]).to(parts.hessian.value)
    size = curvature_size(loss, options.products)
    found = {
        "tr H": parts.hessian,
        "tr G": parts.gauss_newton,
        "tr R": parts.rest,
        "C": finite_curvature(loss, sigma, draws=options.draws),
        "E|zᵀHz|": size.absolute,
        "‖H‖_F": size.frobenius,
        "two-sided KL": two_sided_divergence(loss, sigma, options.draws),
        "gradient norm": Estimate.exact(size.gradient.flatten(1).double().norm(dim=1)),
        # For N3: under its premise, a loss invariant to the scale of X, the first is 0; its claim is about the second.
        "⟨X, ∇ℓ⟩": Estimate.exact(inner(loss.embeddings, size.gradient)),
        "σ² tr H": replace(parts.hessian, value=sigma**2 * parts.hessian.value, stderr=sigma**2 * parts.hessian.stderr),
    }
    points = [
        {"example": b, "quantity": name, "value": float(e.value[b]), "stderr": float(e.stderr[b])}
        for name, e in found.items()
        for b in range(len(loss.ids))
    ]
    for b in range(options.eigen_examples):
        top = spectrum(loss.example(b), k=1, tolerance=1e-2)
        value, residual = float(top.values[0, 0]), float(top.residuals[0, 0])
        points.append({"example": b, "quantity": "top eigenvalue", "value": value, "stderr": residual})
    return points, parts.hessian.seconds


if __name__ == "__main__":
    run_command(measure)()
