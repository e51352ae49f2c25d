"""The claims that are tested by measurement: the statement of each, and its derivation.

`CLAIMS` are theorems or follow from them, and one run on one model measures all of them. `OUTCOMES` are about the
results of fine-tuning, and need runs over many seeds; `PREFERENCES` are about published judgements. `KINDS` says which
rows of a ledger can be false of a real model, and which only check the implementation.

Notation: X embeddings of one example, n = L·d coordinates, ℓ its loss, g = ∇ℓ, H = ∇²ℓ; ε = σz, coordinates of z
independent, symmetric, of unit variance and kurtosis κ; a raw draw has variance v.
"""

from dataclasses import dataclass
from typing import Literal

from symnoise.core import unknown


@dataclass(frozen=True)
class Claim:
    """id, the statement, and its derivation in a line."""

    id: str
    statement: str
    derivation: str


CLAIMS = {
    claim.id: claim
    for claim in (
        Claim("M1", "E‖ε‖² = α²v for every L and d; α²/3 once calibrated", "n coordinates of variance s²v, s² = α²/n"),
        Claim(
            "M2",
            "Var‖ε‖² = n s⁴v²(κ − 1), 0 for Rademacher; E‖ε‖ ≈ α√v(1 − (κ−1)/8n)",
            "n independent squares of variance s⁴v²(κ − 1); delta method for the root, log-gamma for Gaussian",
        ),
        Claim("M3", "a pair has zero mean exactly: every odd moment over {+ε, −ε} vanishes", "(−ε)ᵏ = −εᵏ for odd k"),
        Claim(
            "S1",
            "E ℓ(X+σz) = ℓ + (σ²/2) tr H + (σ⁴/24)[3 Σ_{i≠j} ℓ_iijj + κ Σ ℓ_iiii] + O(σ⁶)",
            "Taylor expansion; odd moments vanish, E z_i²z_j² = 1, E z_i⁴ = κ",
        ),
        Claim(
            "S2",
            "calibrated laws differ only at order σ⁴, by (κ_a − κ_b)(σ⁴/24) Σ ℓ_iiii: the excess is linear in κ",
            "S1: the laws share every term but κ Σ ℓ_iiii",
        ),
        Claim(
            "S3",
            "an uncalibrated Gaussian differs at order σ²: its excess is σ² tr H",
            "S1 at three times the variance: (3σ² − σ²)/2 · tr H",
        ),
        Claim(
            "P1",
            "½[ℓ(X+ε) + ℓ(X−ε)] = ℓ + ½ εᵀHε + O(‖ε‖⁴): odd terms cancel for each draw",
            "Taylor expansions at +ε and −ε, added",
        ),
        Claim(
            "P2",
            "variance over draws: one σ²‖g‖², two independent ½σ²‖g‖², a pair (σ⁴/4) Var(zᵀHz)",
            "leading term of each: σ g·z, its mean over two draws, and ½σ² zᵀHz",
        ),
        Claim(
            "P3",
            "Var(zᵀHz) = 2‖H‖_F² + (κ − 3) Σ H_ii², least for Rademacher",
            "fourth moments of independent coordinates; κ ≥ 1 with equality for ±1 alone",
        ),
        Claim(
            "P4",
            "pair loss = ℓ(f̄) + ⅛ Δᵀ∇²ℓΔ + O(σ⁴), so tr H = tr G + tr R with G ⪰ 0",
            "Taylor expansion of ℓ in the logits about the mean f̄ of the two sides, Δ their difference",
        ),
        Claim(
            "V1",
            "y = ½[ℓ(X+ε) + ℓ(X−ε)] − ℓ, x = ½εᵀHε: slope Σxy/Σx² and ratio of means Σy/Σx → 1, and are within 10 % of "
            "1 at the training σ",
            "P1; how far the quadratic regime reaches is for measurement to say",
        ),
        Claim("N1", "E‖X+ε‖² = ‖X‖² + E‖ε‖²", "E ε = 0; E‖ε‖² by M1"),
        Claim(
            "N2",
            "½(‖X+ε‖² + ‖X−ε‖²) = ‖X‖² + ‖ε‖² for each pair; one draw has variance 4σ²‖X‖² + nσ⁴(κ−1)",
            "parallelogram law; Var(2X·ε) + Var‖ε‖², uncorrelated since odd moments vanish",
        ),
        Claim(
            "N3",
            "where ℓ(cX) = ℓ(X): ⟨X, ∇ tr H⟩ = −2 tr H, so with tr H > 0 noise pushes norms outward",
            "H(cX) = H(X)/c², differentiated at c = 1",
        ),
        Claim(
            "L1",
            "after a linear map with weights w, Σ w_i z_i has excess kurtosis (κ − 3) Σw⁴/(Σw²)²: about 3(κ − 3)/d for "
            "generic rows of width d, so that laws of one variance become alike",
            "fourth cumulants of independent terms add; Σw⁴/(Σw²)² ≈ 3/d for independent normal weights",
        ),
        Claim("X1", "gaussian-raw at α has the law of gaussian at √3 α", "α/√(Ld) = (√3 α)/√(Ld) · 1/√3"),
        Claim(
            "R1",
            "a token's noise has norm ‖ε_t‖ = α/√(3L) whatever d; after a norm, its own direction keeps 1/√(1+r²), "
            "r = ‖ε_t‖/‖x_t‖",
            "d coordinates of variance α²/(3Ld); ε_t is nearly orthogonal to x_t, so ‖x_t + ε_t‖² ≈ (1 + r²)‖x_t‖²",
        ),
    )
}

OUTCOMES = {
    claim.id: claim
    for claim in (
        Claim(
            "O1",
            "SymNoise leaves a smaller curvature on held-out prompts than NEFTune at the same E‖ε‖², and than two "
            "independent draws at the same cost",
            "P3 and P4: a pair presses on (σ²/2) tr H with the least variance, and on agreement of its two sides",
        ),
        Claim(
            "O2",
            "curvature after training correlates with held-out quality: the less curved, the better",
            "no theorem: that flat minima generalise is the conjecture under test",
        ),
        Claim(
            "O3",
            "calibrated uniform, Gaussian and Rademacher noise differ in outcome by at most a fifth of what noise does",
            "S2: the laws differ at fourth order only",
        ),
        Claim(
            "O4",
            "outcomes are in the order none < NEFTune < SymNoise",
            "O1 and O2 would give it; reported for LLaMA-2-7B with a judge, here on measures against references",
        ),
        Claim(
            "D1",
            "curvature is what noise works by: tr G and the held-out loss fall with the weight μ of a draw's even "
            "part, and over the cells no outcome changes with λ², λ the weight of its odd part",
            "a step's mean given ε has μ alone, its variance λ²; so what follows λ² is owed to noise in the gradient",
        ),
        Claim(
            "G1",
            "a mirrored pair lowers the gradient's variance by less than the doubled batch that costs the same, for "
            "which ρ = V_odd/V_batch < 1 is enough",
            "over (batch, ε) it is V_batch + V_even + V_odd; a pair removes V_odd, a doubled batch half of all three, "
            "which is more where V_odd < V_batch + V_even",
        ),
        Claim(
            "E1",
            "noise lowers log p(end) where the reference goes on; the mirror adds no more than is worth knowing",
            "no theorem: longer replies come with noise at 7B, and a lower hazard of ending would explain them",
        ),
    )
}

PREFERENCES = {
    claim.id: claim
    for claim in (
        Claim(
            "Z1",
            "at equal length of replies, at most half of what NEFTune gains in a judge's preferences is left",
            "no theorem: judges prefer long replies, and models fine-tuned with noise write longer ones",
        ),
    )
}


Kind = Literal["identity", "prediction"]
SUBJECTS = ("sampled", "analytic", "tiny", "model", "training", "study", "preferences")


@dataclass(frozen=True)
class Rule:
    """Rows whose key begins with `key` and that were measured on one of `subjects` are of this kind, and why."""

    key: str
    subjects: tuple[str, ...]
    kind: Kind
    why: str


# The first matching rule applies; longer keys come first. An identity is algebra or exact mathematics: it checks the
# implementation and cannot otherwise fail. A prediction could be false of a model or of training.
KINDS = (
    Rule("N3.identity.scale-invariant", SUBJECTS, "identity", "Euler's theorem: ℓ is made homogeneous of degree 0"),
    Rule("N3.premise.scale-invariant", SUBJECTS, "identity", "ℓ is made homogeneous of degree 0"),
    Rule("P4.positive", SUBJECTS, "identity", "zᵀGz is a mean of variances"),
    Rule("P3", SUBJECTS, "identity", "fourth moments of independent coordinates, for any symmetric matrix H"),
    Rule("M1", SUBJECTS, "identity", "moments of independent coordinates"),
    Rule("M2", SUBJECTS, "identity", "moments of independent coordinates"),
    Rule("M3", SUBJECTS, "identity", "ε and −ε are added"),
    Rule("L1", ("sampled",), "identity", "cumulants of independent terms add"),
    Rule("L1", ("model",), "prediction", "trained weights need not be like independent normal ones"),
    Rule("X1", SUBJECTS, "identity", "the same draws, scaled"),
    Rule("R1", SUBJECTS, "identity", "lengths in high dimension, for any token"),
    Rule("N1", SUBJECTS, "identity", "a square expanded, for any X"),
    Rule("N2", SUBJECTS, "identity", "the parallelogram law, for any X"),
    *(
        Rule(id, ("analytic", "tiny"), "identity", "Taylor's theorem where σ is made as small as it asks")
        for id in ("S1", "S2", "S3", "P1", "P2", "P4")
    ),
    *(
        Rule(id, ("model", "training"), "prediction", "a leading order that need not reach the σ of training")
        for id in ("S1", "S2", "S3", "P1", "P2", "P4")
    ),
    Rule("V1", SUBJECTS, "prediction", "how far the quadratic regime reaches is for the model to say"),
    Rule("N3", SUBJECTS, "prediction", "needs a loss invariant to the scale of X, which a residual stream is not"),
    *(Rule(id, SUBJECTS, "prediction", "no theorem says what training brings") for id in OUTCOMES),
    Rule("Z1", ("preferences",), "prediction", "no theorem says what a judge prefers"),
)


def kind_of(key: str, subject: str) -> Kind:
    """Whether rows of this key on this subject are identities or predictions, by `KINDS`; `ValueError` if unknown."""
    for rule in KINDS:
        if f"{key}.".startswith(f"{rule.key}.") and subject in rule.subjects:
            return rule.kind
    raise ValueError(f"KINDS has no rule for {key!r} measured on {subject!r}")


def claim(id: str) -> Claim:
    """The claim with this id, of `CLAIMS`, `OUTCOMES` or `PREFERENCES`; `InputError` if there is none."""
    known = CLAIMS | OUTCOMES | PREFERENCES
    if id not in known:
        raise unknown("claim", id, known)
    return known[id]
