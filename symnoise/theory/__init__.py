"""The claims: statement, prediction, measurement, computed verdict."""

from symnoise.theory.checks.mixing import check_first_layer, check_mixing
from symnoise.theory.checks.model_claims import (
    check_coupled_laws,
    check_norms,
    check_radial,
    check_split,
)
from symnoise.theory.checks.noise_moments import check_moments, check_moments_at_scale
from symnoise.theory.checks.pair_claims import check_cancellation, check_least_variance, check_variances
from symnoise.theory.checks.smoothed_loss import check_smoothing_analytically, check_smoothing_sampled
from symnoise.theory.checks.tiny import check_tiny_transformer
from symnoise.theory.checks.validity import check_validity
from symnoise.theory.checks.variances import check_diagonal_on_text, check_variances_on_text
from symnoise.theory.claims import CLAIMS, KINDS, OUTCOMES, PREFERENCES, SUBJECTS, Claim, claim, kind_of
from symnoise.theory.findings import Findings
from symnoise.theory.ledger import LEVEL, Row, counts, row, verdict
from symnoise.theory.subjects import Ridges, ScaleInvariant, Subject, tiny_llama, tiny_transformer

__all__ = [
    "CLAIMS",
    "KINDS",
    "LEVEL",
    "OUTCOMES",
    "PREFERENCES",
    "SUBJECTS",
    "Claim",
    "Findings",
    "Ridges",
    "Row",
    "ScaleInvariant",
    "Subject",
    "check_cancellation",
    "check_coupled_laws",
    "check_diagonal_on_text",
    "check_first_layer",
    "check_least_variance",
    "check_mixing",
    "check_moments",
    "check_moments_at_scale",
    "check_norms",
    "check_radial",
    "check_smoothing_analytically",
    "check_smoothing_sampled",
    "check_split",
    "check_tiny_transformer",
    "check_validity",
    "check_variances",
    "check_variances_on_text",
    "claim",
    "counts",
    "kind_of",
    "row",
    "tiny_llama",
    "tiny_transformer",
    "verdict",
]
