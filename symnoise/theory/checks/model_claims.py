"""The claims on a language model: a tiny one in float64, or a real one on real text.

A real model has no dense Hessian to compare with, so predictions use gradients, or Hessian products along the measured
draws. Intervals are over draws: they are for these examples, not for all text.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from symnoise.core import Estimate, generator, track
from symnoise.curvature import (
    HessianProducts,
    JacobianProducts,
    attenuation_slope,
    even_and_odd,
    inner,
    random_probes,
    softmax_curvature,
)
from symnoise.models import EmbeddingLoss, Loss
from symnoise.noise import LAWS, Noise, single_draws
from symnoise.norms import expected_square_norm, radial_identity, square_norm
from symnoise.theory import constants
from symnoise.theory.checks.smoothed_loss import RAW_REACH, SPARSE
from symnoise.theory.findings import Findings, timed
from symnoise.theory.ledger import LEVEL, Row, half_width, mean_and_half, row, value_and_half, variance_interval
from symnoise.theory.subjects import ScaleInvariant


@timed
def check_coupled_laws(loss: EmbeddingLoss, alpha: float, draws: int, *, where: str, seed: int = 0) -> Findings:
    """S2 and S3 by coupled draws on a model, averaged over these examples.

    From each pair its own ½σ²zᵀHz is subtracted, whose mean all laws share; by S2 the rest is linear in κ. All in units
    of E|½σ²zᵀHz|, the second-order effect of noise. S2, "linear": deviation of the sparse law of κ = 10 from the line
    through Rademacher (κ = 1) and the sparse law of κ = 100, within 10 % of 0. S2, "difference": the difference of two
    laws in use, draw by draw, within 10 % of 0; for these examples, and with the unit's own error left out. Where few
    coordinates carry fourth order, rare draws carry the difference, which these may not have.
    S3: excess of the raw Gaussian over the calibrated one on the same z, over σ²zᵀHz: predicted 1 by least squares,
    to 10 %.
    """
    X = loss.embeddings
    sigma = Noise("uniform", alpha).sigma(loss.lengths, X.shape[-1]).to(X.device)
    product = HessianProducts(loss)
    base = product.values.double()
    laws = {law.name: law for law in (LAWS["rademacher"], LAWS["uniform"], LAWS["gaussian"], *SPARSE)}
    pairs: dict[str, list[Tensor]] = {name: [] for name in (*laws, "raw gaussian")}
    forms: dict[str, list[Tensor]] = {name: [] for name in laws}
    for k in track(range(draws), "coupled draws"):
        owner = generator(seed, "coupled on text", k)
        uniforms = torch.rand(X.shape, generator=owner, dtype=torch.float64).clamp_(min=1e-12)
        z = {
            name: (law.standardised(uniforms).to(X.device) * (loss.mask != 0)[:, :, None]).to(X)
            for name, law in laws.items()
        }
        for name, direction in z.items():
            forms[name].append(inner(direction, product(direction)))
        for name, direction in (z | {"raw gaussian": RAW_REACH * z["gaussian"]}).items():
            pairs[name].append(even_and_odd(loss, X, sigma.to(X)[:, None, None] * direction, base)[0])
    pair = {name: torch.stack(values) for name, values in pairs.items()}
    form = {name: torch.stack(values) for name, values in forms.items()}
    facts: dict[str, Any] = {"subject": "model", "where": where, "n": draws * len(X), "seed": seed}
    facts |= {"relation": "within", "resolution": 0.1}
    size = (constants.SECOND * sigma**2 * form["gaussian"].abs()).mean()
    rest = {name: (pair[name] - constants.SECOND * sigma**2 * form[name]) / size for name in laws}
    second = constants.SECOND * (constants.RAW - 1) * sigma**2 * form["gaussian"]
    excess, interval = _slope_through_zero(pair["raw gaussian"] - pair["gaussian"], second)
    quantity = f"raw − calibrated gaussian over σ²zᵀHz, α = {alpha:g}"
    own = {"key": f"excess.alpha={alpha:g}", **facts}
    return Findings([*_by_kurtosis(rest, alpha, facts), row("S3", quantity, 1, excess, interval, **own)])


def _by_kurtosis(rest: dict[str, Tensor], alpha: float, facts: dict[str, Any]) -> list[Row]:
    """S2's rows: dependence of the remaining excess, (draw, example), on κ; draws of each example are the unit."""
    middle, far = SPARSE
    slope = (rest[far.name] - rest["rademacher"]) / (far.kurtosis - LAWS["rademacher"].kurtosis)
    beyond = rest[middle.name] - rest["rademacher"] - (middle.kurtosis - LAWS["rademacher"].kurtosis) * slope
    quantity = f"excess at κ = 10 beyond the line from κ = 1 to 100, over E|½σ²zᵀHz|, α = {alpha:g}"
    bend, error = value_and_half(Estimate.from_draws(beyond).mean())
    rows = [row("S2", quantity, 0, bend, error, key=f"linear.alpha={alpha:g}", **facts)]
    for a, b in (("uniform", "gaussian"), ("rademacher", "gaussian")):
        mean, half = value_and_half(Estimate.from_draws(rest[a] - rest[b]).mean())
        quantity = f"({a} − {b}) over E|½σ²zᵀHz|, beyond second order, α = {alpha:g}"
        rows.append(row("S2", quantity, 0, mean, half, key=f"difference.{a}-{b}.alpha={alpha:g}", **facts))
    return rows


@timed
def check_split(
    loss: EmbeddingLoss,
    alpha: float,
    draws: int,
    *,
    where: str,
    resolution: float = 0.1,
    subject: str = "model",
    seed: int = 0,
) -> Findings:
    """P4 at one α, both parts along the same draws, by least squares through 0 against ½σ²zᵀGz and ½σ²zᵀRz.

    ⅛Δᵀ∇²ℓΔ is the first, ℓ(f̄) − ℓ the second, zᵀRz = zᵀHz − zᵀGz; predicted 1 each. And zᵀGz ≥ 0 for every draw.
    """
    X = loss.embeddings
    sigma = Noise("uniform", alpha).sigma(loss.lengths, X.shape[-1]).to(X.device)
    product, jacobian = HessianProducts(loss), JacobianProducts(loss)
    base = product.values.double()
    parts: dict[str, list[Tensor]] = {"G": [], "zGz": [], "R": [], "zRz": []}
    for k in track(range(draws), "pairs, split"):
        (z,) = random_probes(loss, 1, seed=seed, first=k)
        zGz = loss.mean_over_tokens(softmax_curvature(jacobian.logits, jacobian(z)))
        parts["zGz"].append(zGz)
        parts["zRz"].append(inner(z, product(z)) - zGz)
        with torch.no_grad():
            plus, minus = (loss.logits(X + sign * sigma.to(X)[:, None, None] * z) for sign in (1, -1))
        middle = (plus + minus) / 2
        parts["G"].append(loss.mean_over_tokens(constants.LOGIT_DIFFERENCE * softmax_curvature(middle, plus - minus)))
        parts["R"].append(loss.mean_over_tokens(F.cross_entropy(middle, loss.targets, reduction="none")) - base)
    part = {name: torch.stack(values) for name, values in parts.items()}
    facts: dict[str, Any] = {"subject": subject, "where": where, "n": draws * len(X), "seed": seed}
    rows = []
    for name, key, symbol in (
        ("G", "gauss-newton", "⅛Δᵀ∇²ℓΔ over ½σ²zᵀGz"),
        ("R", "rest", "ℓ(f̄) − ℓ over ½σ²zᵀRz"),
    ):
        T, interval = _slope_through_zero(part[name], constants.SECOND * sigma**2 * part[f"z{name}z"])
        quantity = f"{symbol}, α = {alpha:g}"
        own: dict[str, Any] = {"key": f"{key}.alpha={alpha:g}", "relation": "within", "resolution": resolution}
        rows.append(row("P4", quantity, 1, T, interval, **own, **facts))
    lowest = float(part["zGz"].min())
    own = {"key": "positive", "relation": "at most", "resolution": 0}
    rows.append(row("P4", "−zᵀGz, the largest over draws", 0, -lowest, 0, **own, **facts))
    return Findings(rows)


@timed
def check_norms(loss: EmbeddingLoss, alpha: float, draws: int = 400, *, where: str, seed: int = 0) -> Findings:
    """N1 and N2 on a model's own embeddings, averaged over the examples.

    N1: growth of ‖X‖² by each law over E‖ε‖², M1's (predicted 1, to 5 %). N2: the defect of the parallelogram,
    relative to ‖X‖² (predicted 0; bound: float32 rounding of the sum), and one draw's variance over its
    prediction (1, to 20 %).
    """
    X, mask = loss.embeddings, loss.mask
    clean = square_norm(X, mask)
    rows, table = [], []
    for name in single_draws():
        noise = Noise.named(name, alpha)
        assert noise is not None
        expected = expected_square_norm(X, mask, noise)
        owner = generator(seed, "norms", name)
        grown, defects = [], []
        for _ in range(draws):
            epsilon = noise.sample(X, mask, generator=owner).double()
            plus, minus = (square_norm(X.double() + sign * epsilon, mask) for sign in (1, -1))
            grown.append(plus)
            defects.append(((plus + minus) / 2 - clean - square_norm(epsilon, mask)).abs() / clean)
        values = torch.stack(grown)
        facts: dict[str, Any] = {"subject": "model", "where": where, "n": draws * len(X), "seed": seed}
        mean, half = mean_and_half(((values - clean) / (expected.mean - clean)).mean(1))
        own: dict[str, Any] = {"key": f"growth.{name}", "resolution": 0.05}
        rows.append(row("N1", f"(E‖X+ε‖² − ‖X‖²)/E‖ε‖², {name}", 1, mean, half, **own, **facts))
        table += [
            {"law": name, "example": b, "clean": float(clean[b]), "predicted": float(expected.mean[b])}
            | {"measured": float(values[:, b].mean()), "stderr": float(values[:, b].std() / draws**0.5)}
            for b in range(len(X))
        ]
        if name in ("uniform", "rademacher"):
            worst, bound = float(torch.stack(defects).max()), 1e-12  # sums of 1e5 squares in float64
            own = {"key": f"parallelogram.{name}", "resolution": bound}
            rows.append(row("N2", f"parallelogram defect over ‖X‖², {name}", 0, worst, bound, **own, **facts))
            ratio = float((values.var(0) / expected.variance).mean())
            interval = variance_interval(ratio, len(X) * (draws - 1))
            own = {"key": f"variance.{name}", "resolution": 0.2}
            rows.append(row("N2", f"Var‖X+ε‖² over prediction, {name}", 1, ratio, interval, **own, **facts))
    return Findings(rows, {"norms": table})


@timed
def check_radial(loss: Loss, probes: int = 8, *, where: str, subject: str = "model", seed: int = 0) -> Findings:
    """N3: ⟨X, ∇ tr H⟩ over −2 tr H (predicted 1, to 10 %), and its premise ⟨X, ∇ℓ⟩ = 0, relative to ‖X‖‖∇ℓ‖.

    The mean of |tr H| in the denominator is estimated: noise in it makes the ratio smaller, and its own error is not
    in the interval. Both fail if the loss is not invariant to the scale of X, as in a model whose residual stream
    adds the output of normalised layers to X.
    """
    identity = radial_identity(loss, probes=probes, seed=seed)
    defect = identity.defect.mean()
    scale = 2 * float(identity.trace.value.abs().mean())
    half = half_width(defect.stderr, defect.dof) / scale
    facts: dict[str, Any] = {"subject": subject, "where": where, "n": probes * len(loss.embeddings), "seed": seed}
    made = ".scale-invariant" if isinstance(loss, ScaleInvariant) else ""
    rows: list[Row] = [
        row(
            "N3",
            "(⟨X, ∇ tr H⟩ + 2 tr H)/2|tr H|",
            0,
            float(defect.value) / scale,
            half,
            key=f"identity{made}",
            scheme="identity",
            relation="within",
            resolution=0.1,
            **facts,
        )
    ]
    product = HessianProducts(loss)
    X = loss.embeddings
    sine = inner(X, product.gradient) / (inner(X, X) * inner(product.gradient, product.gradient)).sqrt()
    rounding = 1e-3 if X.dtype is torch.float32 else 1e-12
    worst = float(sine.abs().max())
    own: dict[str, Any] = {"key": f"premise{made}", "scheme": "premise", "resolution": rounding}
    rows.append(row("N3", "premise: |cos(X, ∇ℓ)|, largest", 0, worst, rounding, **own, **facts))
    return Findings(rows)


def _slope_through_zero(y: Tensor, x: Tensor) -> tuple[float, tuple[float, float]]:
    """Least squares through 0 with its interval; every entry is a unit, whichever example it belongs to."""
    found = attenuation_slope(y.reshape(-1, 1), x.reshape(-1, 1), "draw", LEVEL)
    return found.value, (found.low, found.high)
