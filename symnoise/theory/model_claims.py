"""The claims on a language model: a tiny one in float64, or a real one on real text.

A real model has no dense Hessian to compare with, so predictions use Hessian products along the same draws that
are measured, or gradients. Intervals are over draws: they speak of these examples, not of all text.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from symnoise.core import Estimate, generator, track
from symnoise.curvature import (
    HessianProducts,
    JacobianProducts,
    SmoothedCurvature,
    inner,
    probes,
    softmax_curvature,
)
from symnoise.models import EmbeddingLoss, Loss
from symnoise.noise import LAWS, Noise
from symnoise.norms import expected_square_norm, radial_identity, square_norm
from symnoise.theory.findings import Findings, timed
from symnoise.theory.ledger import Row, half_width, mean_and_half, row, slug, variance_interval
from symnoise.theory.subjects import ScaleInvariant


@timed
def check_validity(
    smoothed: SmoothedCurvature,
    alphas: list[float],
    *,
    where: str,
    training: tuple[float, ...],
    subject: str = "model",
    seed: int = 0,
) -> Findings:
    """V1: does T(σ) stay within 10 % of 1 at each α, and P1: does it tend to 1.

    T over all draws and examples is the least-squares slope through 0 of a pair's excess on (σ²/2) zᵀHz: single
    ratios are useless where zᵀHz is near 0. Interval by the jackknife over (draw, example). One row for each α in
    `training`; the smallest α is P1's row, to be 1 to within 10 %.
    """
    rows, table = [], []
    for i, alpha in enumerate(alphas):
        below = smoothed.sigmas[i] ** 2 / 2 * smoothed.forms
        T = slope_through_zero(smoothed.pair[i], below)
        half = half_width(T.stderr, T.dof)
        facts: dict[str, Any] = {"subject": subject, "where": where, "n": T.count, "seed": seed, "resolution": 0.1}
        facts["relation"] = "within"
        if i == 0:
            quantity = f"pair excess over ½εᵀHε, α = {alpha:g}"
            rows.append(row("P1", quantity, 1, float(T.value), half, key=f"excess.alpha={alpha:g}", **facts))
        if alpha in training:
            key = f"slope.alpha={alpha:g}"
            rows.append(row("V1", f"T(σ) at α = {alpha:g}", 1, float(T.value), half, key=key, **facts))
        table.append(
            {"where": where, "alpha": alpha, "sigma": float(smoothed.sigmas[i].mean()), "T": float(T.value)}
            | {"low": float(T.value) - half, "high": float(T.value) + half}
        )
    return Findings(rows, {"validity": table})


@timed
def check_variances_on_text(smoothed: SmoothedCurvature, alphas: list[float], *, where: str, seed: int = 0) -> Findings:
    """P2 at each α: variance over draws relative to its prediction, averaged over the examples (prediction: 1).

    One draw and two draws: against σ²‖g‖² and half of it; interval from the χ² law of sample variances, B(K − 1)
    degrees of freedom. A pair: against (σ⁴/4) times the sample variance of zᵀHz over the very same draws, interval
    by the jackknife. Rows for the smallest α and for α = 5; resolution 50 %, which is what some hundred draws allow.
    """
    K, B = smoothed.forms.shape
    rows, table = [], []
    for i, alpha in enumerate(alphas):
        sigma = smoothed.sigmas[i]
        one = smoothed.pair[i] + smoothed.odd[i]
        predicted = sigma**2 * smoothed.gradient_square_norm
        two = (one[: K // 2] + one[K // 2 : K // 2 * 2]) / 2
        for scheme, values, expected in (("one draw", one, predicted), ("two draws", two, predicted / 2)):
            ratio = float((values.var(0) / expected).mean())
            interval = variance_interval(ratio, B * (len(values) - 1))
            table.append(_variance_point(where, alpha, scheme, values.var(0), expected, ratio, interval))
        expected = sigma**4 / 4 * smoothed.forms.var(0)
        ratios = [float((smoothed.pair[i].var(0) / expected).mean())]
        for k in range(K):
            kept = [j for j in range(K) if j != k]
            expected_k = sigma**4 / 4 * smoothed.forms[kept].var(0)
            ratios.append(float((smoothed.pair[i][kept].var(0) / expected_k).mean()))
        spread = torch.tensor(ratios[1:])
        half = half_width(math.sqrt((K - 1) * float(spread.var(correction=0))), K - 1)
        interval = (ratios[0] - half, ratios[0] + half)
        table.append(_variance_point(where, alpha, "pair", smoothed.pair[i].var(0), expected, ratios[0], interval))
        if alpha in (alphas[0], 5.0):
            for point in table[-3:]:
                quantity = f"variance of {point['scheme']} over prediction, α = {alpha:g}"
                interval = point["low"], point["high"]
                key = f"variance.{slug(point['scheme'])}.alpha={alpha:g}"
                facts: dict[str, Any] = {"key": key, "subject": "model", "where": where, "n": K * B, "seed": seed}
                facts["resolution"] = 0.5
                rows.append(row("P2", quantity, 1, point["ratio"], interval, **facts))
    return Findings(rows, {"variances on text": table})


@timed
def check_coupled_laws(loss: EmbeddingLoss, alpha: float, draws: int, *, where: str, seed: int = 0) -> Findings:
    """S2 and S3 by coupled draws on a model, and P3, per example then averaged.

    S2: what the calibrated laws differ by, relative to what noise does at second order, E|½σ²zᵀHz|: the claim is
    that it is small, so "within" 10 % of 0. From each pair its own ½σ²zᵀHz is taken off, whose mean all laws share.
    S3: excess of the raw Gaussian over the calibrated one on the same z, over σ²zᵀHz: predicted 1 by least squares,
    to 10 %. P3: Var(zᵀHz) of Rademacher less that of Gaussian, relative to the latter, at most 0.
    """
    X = loss.embeddings
    sigma = Noise("uniform", alpha).sigma(loss.lengths, X.shape[-1]).to(X.device)
    product = HessianProducts(loss)
    base = product.values.double()
    pairs: dict[str, list[Tensor]] = {name: [] for name in (*LAWS, "raw gaussian")}
    forms: dict[str, list[Tensor]] = {name: [] for name in LAWS}
    for k in track(range(draws), "coupled draws"):
        owner = generator(seed, "coupled on text", k)
        uniforms = torch.rand(X.shape, generator=owner, dtype=torch.float64).clamp_(min=1e-12)
        z = {
            name: (law.standardised(uniforms).to(X.device) * (loss.mask != 0)[:, :, None]).to(X)
            for name, law in LAWS.items()
        }
        for name, direction in z.items():
            forms[name].append(inner(direction, product(direction)))
        for name, direction in (z | {"raw gaussian": 3**0.5 * z["gaussian"]}).items():
            pairs[name].append(_pair_excess(loss, sigma.to(X)[:, None, None] * direction, base))
    pair = {name: torch.stack(values) for name, values in pairs.items()}
    form = {name: torch.stack(values) for name, values in forms.items()}
    facts: dict[str, Any] = {"subject": "model", "where": where, "n": draws * len(X), "seed": seed}
    size = (sigma**2 / 2 * form["gaussian"].abs()).mean()
    rest = {name: pair[name] - sigma**2 / 2 * form[name] for name in LAWS}
    rows = []
    for a, b in (("uniform", "gaussian"), ("rademacher", "gaussian")):
        mean, half = mean_and_half(((rest[a] - rest[b]) / size).mean(1))
        quantity = f"({a} − {b}) over E|½σ²zᵀHz|, α = {alpha:g}"
        own: dict[str, Any] = {"key": f"difference.{a}-{b}.alpha={alpha:g}", "relation": "within", "resolution": 0.1}
        rows.append(row("S2", quantity, 0, mean, half, **own, **facts))
    T = slope_through_zero(pair["raw gaussian"] - pair["gaussian"], sigma**2 * form["gaussian"])
    quantity = f"raw − calibrated gaussian over σ²zᵀHz, α = {alpha:g}"
    half = half_width(T.stderr, T.dof)
    own = {"key": f"excess.alpha={alpha:g}", "relation": "within", "resolution": 0.1}
    rows.append(row("S3", quantity, 1, float(T.value), half, **own, **facts))
    ratio = (form["rademacher"].var(0) / form["gaussian"].var(0)).log()
    half = half_width(math.sqrt(4 / (draws - 1) / len(X)))  # Var log s² ≈ 2/(K − 1), of two samples
    quantity = "log Var(zᵀHz), rademacher − gaussian"
    own = {"key": "log-variance", "relation": "at most", "resolution": 0}
    rows.append(row("P3", quantity, 0, float(ratio.mean()), half, **own, **facts))
    return Findings(rows)


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
        (z,) = probes(loss, 1, seed=seed, first=k)
        zGz = loss.mean_over_tokens(softmax_curvature(jacobian.logits, jacobian(z)))
        parts["zGz"].append(zGz)
        parts["zRz"].append(inner(z, product(z)) - zGz)
        with torch.no_grad():
            plus, minus = (loss.logits(X + sign * sigma.to(X)[:, None, None] * z) for sign in (1, -1))
        middle = (plus + minus) / 2
        parts["G"].append(loss.mean_over_tokens(softmax_curvature(middle, plus - minus) / 8))
        parts["R"].append(loss.mean_over_tokens(F.cross_entropy(middle, loss.targets, reduction="none")) - base)
    part = {name: torch.stack(values) for name, values in parts.items()}
    facts: dict[str, Any] = {"subject": subject, "where": where, "n": draws * len(X), "seed": seed}
    rows = []
    for name, key, symbol in (
        ("G", "gauss-newton", "⅛Δᵀ∇²ℓΔ over ½σ²zᵀGz"),
        ("R", "rest", "ℓ(f̄) − ℓ over ½σ²zᵀRz"),
    ):
        T = slope_through_zero(part[name], sigma**2 / 2 * part[f"z{name}z"])
        half = half_width(T.stderr, T.dof)
        quantity = f"{symbol}, α = {alpha:g}"
        own: dict[str, Any] = {"key": f"{key}.alpha={alpha:g}", "relation": "within", "resolution": resolution}
        rows.append(row("P4", quantity, 1, float(T.value), half, **own, **facts))
    lowest = float(part["zGz"].min())
    own = {"key": "positive", "relation": "at most", "resolution": 0}
    rows.append(row("P4", "−zᵀGz, the largest over draws", 0, -lowest, 0, **own, **facts))
    return Findings(rows)


@timed
def check_norms(loss: EmbeddingLoss, alpha: float, draws: int = 400, *, where: str, seed: int = 0) -> Findings:
    """N1 and N2 on a model's own embeddings, averaged over the examples.

    N1: growth of ‖X‖² by each law over α²v (predicted 1, to 5 %). N2: the defect of the parallelogram, relative to
    ‖X‖² (predicted 0; bound: float32 rounding of the sum), and one draw's variance over its prediction (1, to 20 %).
    """
    X, mask = loss.embeddings, loss.mask
    clean = square_norm(X, mask)
    rows, table = [], []
    for name in ("uniform", "gaussian", "rademacher", "gaussian-raw"):
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
        rows.append(row("N1", f"(E‖X+ε‖² − ‖X‖²)/α²v, {name}", 1, mean, half, **own, **facts))
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

    Both fail where the loss is not invariant to the scale of X, as in a model whose residual stream adds to X what
    normalised layers make of it.
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
    own: dict[str, Any] = {"key": f"premise{made}", "resolution": rounding}
    rows.append(row("N3", "premise: |cos(X, ∇ℓ)|, largest", 0, worst, rounding, **own, **facts))
    return Findings(rows)


@timed
def check_trained_norms(growth: dict[str, list[float]], trace: float, *, where: str, seed: int = 0) -> Findings:
    """N3 in training: where tr H > 0, noise makes the norms of trained embedding rows grow more than no noise does.

    growth: arm -> relative growth of the mean norm of trained rows, one value a seed, seeds in the same order for all
    arms, "none" among them. trace: mean tr H before training; its sign is the sign predicted. The paired difference
    from "none" has no interval with one seed, and then no verdict but "undecided".
    """
    sign = 1.0 if trace > 0 else -1.0
    rows = []
    for arm, values in growth.items():
        if arm == "none":
            continue
        difference = torch.tensor(values, dtype=torch.float64) - torch.tensor(growth["none"], dtype=torch.float64)
        mean, half = mean_and_half(difference) if len(values) > 1 else (float(difference), math.nan)
        quantity = (
            f"{'−' if trace > 0 else ''}(norm growth of trained rows, {arm} − none), tr H {'>' if trace > 0 else '<'} 0"
        )
        facts: dict[str, Any] = {"subject": "training", "where": where, "n": len(values), "seed": seed}
        facts |= {"key": f"growth.{arm}", "relation": "at most", "resolution": 0}
        rows.append(row("N3", quantity, 0, -sign * mean, half, **facts))
    return Findings(rows)


def slope_through_zero(y: Tensor, x: Tensor) -> Estimate:
    """Least squares through 0, Σxy/Σx² over all entries, standard error by the delete-one jackknife."""
    xy, xx = (x * y).flatten().double(), (x * x).flatten().double()
    n = len(xy)
    left_out = (xy.sum() - xy) / (xx.sum() - xx)
    stderr = ((n - 1) / n * (left_out - left_out.mean()).square().sum()).sqrt()
    return Estimate(xy.sum() / xx.sum(), stderr, count=n, dof=n - 1.0, method="least squares")


def _pair_excess(loss: EmbeddingLoss, epsilon: Tensor, base: Tensor) -> Tensor:
    with torch.no_grad():
        return (loss(loss.embeddings + epsilon).double() + loss(loss.embeddings - epsilon).double()) / 2 - base


def _variance_point(
    where: str,
    alpha: float,
    scheme: str,
    measured: Tensor,
    predicted: Tensor,
    ratio: float,
    interval: tuple[float, float],
) -> dict:
    """A point of the variance figure; `measured` and `predicted` averaged over the examples."""
    return {
        "where": where,
        "alpha": alpha,
        "scheme": scheme,
        "measured": float(measured.mean()),
        "predicted": float(predicted.mean()),
        "ratio": ratio,
        "low": interval[0],
        "high": interval[1],
    }
