"""One wrong number in a claim's formula turns a verdict: a ledger that could not say no would be worth nothing."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import ModuleType

import pytest

from symnoise.curvature import smoothed_curvature, smoothing
from symnoise.models import EmbeddingLoss, float64_throughout
from symnoise.noise import LAWS, Noise, moments, sampled_moments
from symnoise.norms import closed_forms, radial
from symnoise.theory import (
    CLAIMS,
    Ridges,
    Row,
    ScaleInvariant,
    check_cancellation,
    check_first_layer,
    check_least_variance,
    check_mixing,
    check_moments,
    check_norms,
    check_radial,
    check_smoothing_analytically,
    check_smoothing_sampled,
    check_split,
    check_validity,
    check_variances,
    constants,
    tiny_llama,
)
from symnoise.theory.checks import mixing, noise_moments, smoothed_loss
from tests.tiny import tiny

TINY = {"subject": "tiny", "where": "tiny"}


def small_alpha() -> list[Row]:
    """V1 and P4 of the tiny transformer where σ is small enough for both to hold."""
    model, text = tiny_llama()
    loss, alpha = EmbeddingLoss(model, text), 0.02
    with float64_throughout():
        sigma = Noise.neftune(alpha).sigma(loss.lengths, loss.embeddings.shape[-1])
        smoothed = smoothed_curvature(loss, sigma[None], draws=64)
        found = check_validity(smoothed, [alpha], training=(alpha,), **TINY) + check_split(loss, alpha, 32, **TINY)
    return found.rows


def rays() -> list[Row]:
    """N3 where its premise holds."""
    model, text = tiny_llama()
    with float64_throughout():
        return check_radial(ScaleInvariant(EmbeddingLoss(model, text)), 16, **TINY).rows


def norms() -> list[Row]:
    """N1 and N2, at an α at which the noise is as large as the embeddings: both terms of N2's variance count."""
    model, text = tiny_llama()
    return check_norms(EmbeddingLoss(model, text), 5.0, draws=2_000, where="tiny").rows


def first_layer() -> list[Row]:
    """L1 on a model whose weights are independent and normal."""
    return check_first_layer(tiny("llama"), where="tiny").rows


def analytic(check: Callable, *args: float) -> Callable[[], list[Row]]:
    return lambda: check(Ridges.drawn().subject(), *args).rows


CHECKS: dict[str, Callable[[], list[Row]]] = {
    "moments": lambda: check_moments().rows,
    "exact smoothing": lambda: check_smoothing_analytically().rows,
    "sampled smoothing": analytic(check_smoothing_sampled, 0.1, 100_000),
    "cancellation": analytic(check_cancellation, 0.1),
    "variances": analytic(check_variances, 0.1),
    "least variance": analytic(check_least_variance),
    "small alpha": small_alpha,
    "norms": norms,
    "rays": rays,
    "mixing": lambda: check_mixing().rows,
    "first layer": first_layer,
}


def of_law(law: str, **wrong: float) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setitem(LAWS, law, replace(LAWS[law], **wrong))


def of_module(module: ModuleType, name: str, wrong: float) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(module, name, wrong)


# claim, check, what is put wrong, and how
FLIPS = [
    ("M1", "moments", "1/3 of the calibration", of_module(constants, "CALIBRATED", 0.35)),
    ("M1", "moments", "variance of uniform", of_law("uniform", variance=0.35)),
    ("M2", "moments", "kurtosis of uniform", of_law("uniform", kurtosis=2.0)),
    ("M2", "moments", "kurtosis of gaussian", of_law("gaussian", kurtosis=3.5)),
    ("M2", "moments", "1 in κ − 1", of_module(moments, "LEAST_KURTOSIS", 0.8)),
    ("M2", "moments", "1/8 of the mean norm", of_module(moments, "DEFICIT", 1 / 4)),
    ("S1", "exact smoothing", "1/2", of_module(constants, "SECOND", 0.51)),
    ("S1", "exact smoothing", "1/24", of_module(constants, "FOURTH", 1 / 25)),
    ("S1", "exact smoothing", "3 of the mixed terms", of_module(constants, "MIXED", 2.9)),
    ("S1", "exact smoothing", "order 6", of_module(constants, "ORDER_OF_REST", 5)),
    ("S1", "exact smoothing", "kurtosis of rademacher", of_law("rademacher", kurtosis=1.1)),
    ("S1", "sampled smoothing", "1/2", of_module(constants, "SECOND", 0.6)),
    ("S2", "exact smoothing", "kurtosis of uniform", of_law("uniform", kurtosis=2.0)),
    ("S2", "exact smoothing", "kurtosis of gaussian", of_law("gaussian", kurtosis=3.2)),
    ("S2", "exact smoothing", "1/24", of_module(constants, "FOURTH", 1 / 25)),
    ("S2", "exact smoothing", "order 4", of_module(constants, "ORDER_OF_LAWS", 3)),
    ("S2", "sampled smoothing", "1/24", of_module(constants, "FOURTH", 1 / 18)),
    ("S3", "exact smoothing", "3 of the raw variance", of_module(constants, "RAW", 2.9)),
    ("S3", "exact smoothing", "√3 of its reach", of_module(smoothed_loss, "RAW_REACH", 1.7)),
    ("S3", "exact smoothing", "order 2", of_module(constants, "ORDER_OF_RAW", 3)),
    ("S3", "sampled smoothing", "√3 of its reach", of_module(smoothed_loss, "RAW_REACH", 1.5)),
    ("P1", "cancellation", "1/2", of_module(constants, "SECOND", 0.51)),
    ("P1", "cancellation", "order 4", of_module(constants, "ORDER_OF_PAIR", 3)),
    ("P1", "cancellation", "order 3", of_module(constants, "ORDER_OF_DRAW", 2)),
    ("P1", "small alpha", "1/2", of_module(smoothing, "SECOND_ORDER", 0.6)),
    ("P2", "variances", "1/2 of two draws", of_module(constants, "TWO_DRAWS", 0.6)),
    ("P2", "variances", "1/4 of a pair", of_module(constants, "PAIR", 0.3)),
    ("P2", "variances", "2 of ‖H‖_F²", of_module(constants, "FROBENIUS", 2.4)),
    ("P3", "least variance", "2 of ‖H‖_F²", of_module(constants, "FROBENIUS", 2.2)),
    ("P3", "least variance", "3 in κ − 3", of_module(constants, "GAUSSIAN_KURTOSIS", 2.5)),
    ("P3", "least variance", "kurtosis of uniform", of_law("uniform", kurtosis=2.4)),
    ("P4", "small alpha", "1/8", of_module(constants, "LOGIT_DIFFERENCE", 1 / 6)),
    ("P4", "small alpha", "1/2", of_module(constants, "SECOND", 0.6)),
    ("V1", "small alpha", "1/2", of_module(smoothing, "SECOND_ORDER", 0.6)),
    ("N1", "norms", "variance of uniform", of_law("uniform", variance=0.4)),
    ("N2", "norms", "4 of the cross term", of_module(closed_forms, "CROSS", 6)),
    ("N2", "norms", "1 in κ − 1", of_module(closed_forms, "LEAST_KURTOSIS", -1)),
    ("N3", "rays", "−2", of_module(radial, "DEGREE", -1)),
    ("L1", "mixing", "kurtosis of uniform", of_law("uniform", kurtosis=2.4)),
    ("L1", "mixing", "3 in κ − 3", of_module(constants, "GAUSSIAN_KURTOSIS", 2.5)),
    ("L1", "first layer", "3 of generic rows", of_module(constants, "GENERIC", 5)),
    ("X1", "mixing", "3 of the raw variance", of_module(constants, "RAW", 2.9)),
    ("R1", "mixing", "1/3 of the calibration", of_module(constants, "CALIBRATED", 0.35)),
    ("R1", "mixing", "½ of the shrinkage", of_module(constants, "SHRINKAGE", 0.6)),
]


@pytest.fixture(autouse=True, scope="module")
def sampled_once():
    """What is sampled depends on the laws, which few flips change, and not on the constants of predictions."""
    moments_of = cache(lambda _law, *arguments: sampled_moments(*arguments))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixing, "sampled_excess", cache(mixing.sampled_excess))
        patch.setattr(noise_moments, "sampled_moments", lambda noise, *rest: moments_of(LAWS[noise.law], noise, *rest))
        yield


@cache
def right(check: str) -> dict[str, str]:
    """Verdicts by key, with everything as it is."""
    return {row.key: row.verdict for row in CHECKS[check]()}


@pytest.mark.parametrize(("claim", "check", "what", "flip"), FLIPS, ids=[f"{c}, {w}, {k}" for c, k, w, _ in FLIPS])
def test_one_wrong_number_turns_a_verdict(claim, check, what, flip, monkeypatch) -> None:
    before = {key: verdict for key, verdict in right(check).items() if key.startswith(f"{claim}.")}
    assert set(before.values()) == {"holds"}
    flip(monkeypatch)
    after = {row.key: row.verdict for row in CHECKS[check]()}
    assert "fails" in {after[key] for key in before}


def test_every_claim_with_a_formula_has_a_flip() -> None:
    assert {claim for claim, *_ in FLIPS} == set(CLAIMS) - {"M3"}  # M3 has no number: every odd moment is 0
    # Every number of `constants` is among those that are put wrong.
    seen: set[str] = set()
    for *_, flip in FLIPS:
        with pytest.MonkeyPatch.context() as patch:
            kept = dict(vars(constants))
            flip(patch)
            seen |= {name for name, value in vars(constants).items() if kept.get(name) != value}
    assert seen == {name for name in vars(constants) if name.isupper()}
