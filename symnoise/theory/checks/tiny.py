"""Every claim that applies to a model, on a tiny float64 transformer whose derivatives are known exactly."""

from typing import Any

import torch

from symnoise.curvature import smoothed_curvature
from symnoise.models import EmbeddingLoss, float64_throughout
from symnoise.noise import Noise
from symnoise.theory.checks.model_claims import check_radial, check_split
from symnoise.theory.checks.pair_claims import check_cancellation, check_least_variance, check_variances
from symnoise.theory.checks.smoothed_loss import check_smoothing_sampled
from symnoise.theory.checks.validity import check_validity
from symnoise.theory.findings import Findings
from symnoise.theory.subjects import ScaleInvariant, tiny_llama, tiny_transformer

SMALL, TRAINING = 0.02, 5.0  # α: σ = 0.002, where the quadratic regime must hold, and what NEFTune trains with


def check_tiny_transformer(draws: int, seed: int = 0) -> Findings:
    """S1 to P3 from the dense Hessian, then P1, V1, P4 and N3 by the checks used on real models.

    N3 twice: on the model itself, whose residual stream breaks the premise, and on the same loss made invariant to
    the scale of X, where the identity must hold. draws: for S1 to S3.
    """
    subject = tiny_transformer(seed)
    found = (
        check_smoothing_sampled(subject, 0.02, draws, seed)
        + check_cancellation(subject, 0.02, seed=seed)
        + check_variances(subject, 0.02, seed=seed)
        + check_least_variance(subject, seed=seed)
    )
    model, text = tiny_llama(seed=seed)
    loss, alphas = EmbeddingLoss(model, text), [SMALL, TRAINING]
    facts: dict[str, Any] = {**subject.facts, "seed": seed}
    with float64_throughout():
        sigmas = [Noise.neftune(alpha).sigma(loss.lengths, loss.embeddings.shape[-1]) for alpha in alphas]
        smoothed = smoothed_curvature(loss, torch.stack(sigmas), draws=256, seed=seed)
        on_model = (
            check_validity(smoothed, alphas, training=(TRAINING,), **facts)
            + check_split(loss, SMALL, 32, **facts)
            + check_radial(loss, 32, **facts)
            + check_radial(ScaleInvariant(loss), 32, **facts | {"where": f"{subject.where}, of X/‖X‖"})
        )
    return found + Findings(on_model.rows)  # their tables belong to the figures of the real model
