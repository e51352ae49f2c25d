"""P2 and P3 on a model: variances over draws, and how much the diagonal of H reduces them."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Estimate, jackknife_variance, track, without_each
from symnoise.curvature import HessianProducts, SmoothedCurvature, random_probes
from symnoise.models import Loss
from symnoise.theory import constants
from symnoise.theory.findings import Findings, timed
from symnoise.theory.ledger import half_width, mean_and_half, row, slug


@timed
def check_variances_on_text(smoothed: SmoothedCurvature, alphas: list[float], *, where: str, seed: int = 0) -> Findings:
    """P2 at each α: variance over draws relative to its prediction, averaged over the examples (prediction: 1).

    One draw and two draws: compared with σ²‖g‖² and half of it. A pair: compared with (σ⁴/4) times the variance of
    zᵀHz over the same draws, with `bias_correction`; few draws leave it too near 1 where large zᵀHz are attenuated. The
    interval is from the spread over the examples, which are the unit. Rows for the smallest α and for α = 5, with a
    resolution of 50 %; none for two draws, whose variance is half that of one for any loss.
    """
    rows, table = [], []
    for i, alpha in enumerate(alphas):
        sigma = smoothed.sigmas[i]
        one = sigma**2 * smoothed.gradient_square_norm
        pair = constants.PAIR * sigma**4 * smoothed.forms.var(0)
        for scheme, measured, expected, correction in (
            ("one draw", _variance_of_one(smoothed, i), one, 1.0),
            ("two draws", _variance_of_two(smoothed, i), constants.TWO_DRAWS * one, 1.0),
            ("pair", smoothed.pair[i].var(0), pair, bias_correction(smoothed.pair[i], smoothed.forms)),
        ):
            ratio, half = mean_and_half(measured / expected * correction)
            point = {"where": where, "subject": "model", "alpha": alpha, "scheme": scheme, "ratio": ratio}
            point |= {"low": ratio - half, "high": ratio + half}
            table.append(point | {"measured": float(measured.mean()), "predicted": float(expected.mean())})
            if scheme != "two draws" and alpha in (alphas[0], 5.0):
                facts: dict[str, Any] = {"subject": "model", "where": where, "n": len(sigma), "seed": seed}
                facts |= {"key": f"variance.{slug(scheme)}.alpha={alpha:g}", "scheme": scheme, "resolution": 0.5}
                quantity = f"variance of {scheme} over prediction, α = {alpha:g}"
                rows.append(row("P2", quantity, 1, ratio, half, **facts))
    return Findings(rows, {"variances on text": table})


def bias_correction(y: Float[Tensor, "draw batch"], x: Float[Tensor, "draw batch"]) -> Float[Tensor, " batch"]:
    """Of Var y/Var x from K ≥ 4 draws, estimated by (s_y²/s_x²)·(1 − 2(1 − r²)/(K − 2)): the second factor, with r
    their correlation.

    Without bias where y is linear in x, which is normal, plus an independent rest; s_y²/s_x² alone is too large, by up
    to (K − 1)/(K − 3) where the rest is all. Otherwise few draws bias it, too: towards 1 where y bends with x (0.75 for
    0.69 with y = 2 tanh(x/2) and 6 normal draws), upwards where x is skewed.
    """
    a, b = y - y.mean(0), x - x.mean(0)
    correlation = (a * b).sum(0).square() / (a.square().sum(0) * b.square().sum(0))
    return 1 - 2 * (1 - correlation) / (len(y) - 2)


def _variance_of_one(smoothed: SmoothedCurvature, i: int) -> Float[Tensor, " batch"]:
    """Var ℓ(X+σz) from both sides of each draw: the odd part has mean 0 and no covariance with the even one."""
    return smoothed.odd[i].square().mean(0) + smoothed.pair[i].var(0)


def _variance_of_two(smoothed: SmoothedCurvature, i: int) -> Float[Tensor, " batch"]:
    """Var ½[ℓ(X+σz) + ℓ(X+σz′)] from draws 2k and 2k + 1; the sides (+, +) and (+, −) are equally likely."""
    half = len(smoothed.forms) // 2
    odd, even = (part[i][: 2 * half].unflatten(0, (half, 2)) for part in (smoothed.odd, smoothed.pair))
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64, device=odd.device)[:, None, None]
    return ((odd[:, 0] + signs * odd[:, 1]) / 2).square().mean((0, 1)) + even.mean(1).var(0)


def diagonal_square(u: Float[Tensor, "probe *shape"]) -> Float[Tensor, ""]:
    """Σ_i H_ii² without bias, from u_k = z_k∘Hz_k of independent probes: the mean of Σ_i u_ki u_li over pairs k ≠ l.

    E u_ki = H_ii, since coordinates of z are independent with unit variance. For K Rademacher probes its variance is
    2/(K(K−1)) [Σ_i r_i² + Σ_{i≠j} H_ij⁴] + (4/K) [Σ_i H_ii² r_i + Σ_{i≠j} H_ii H_jj H_ij²], r_i = Σ_{j≠i} H_ij².
    """
    count = len(u)
    u = u.flatten(1).double()
    return (u.sum(0).square().sum() - u.square().sum()) / (count * (count - 1))


@timed
def check_diagonal_on_text(loss: Loss, count: int, *, where: str, seed: int = 0) -> Findings:
    """P3 on a model: how much less than Gaussian noise Rademacher noise varies, (κ − 3)/2 · Σ_i H_ii²/‖H‖_F² at κ = 1.

    ‖H‖_F² = E‖Hz‖² and Σ H_ii² by `diagonal_square`, of all examples together, from the same `count` Rademacher probes.
    Interval by the delete-one jackknife over probes, which overstates the variance of a mean over pairs of probes
    (Efron and Stein 1981).
    """
    product = HessianProducts(loss)
    along = []
    for k in track(range(count), "Hessian products"):
        (z,) = random_probes(loss, 1, seed=seed, first=k)
        Hz = product(z)
        along.append((z.double() * Hz.double(), Hz.double().square().sum((1, 2))))
    u = torch.stack([first for first, _ in along])
    frobenius = torch.stack([second.sum() for _, second in along])

    def share(kept: Tensor) -> Tensor:
        return diagonal_square(u[kept]) / frobenius[kept].mean()

    stderr = jackknife_variance(without_each(share, count)).sqrt()
    gain = (1 - constants.GAUSSIAN_KURTOSIS) / constants.FROBENIUS
    found = Estimate(gain * share(torch.arange(count)), abs(gain) * stderr, count=count, dof=count - 1.0)
    facts: dict[str, Any] = {"subject": "model", "where": where, "n": count * len(loss.embeddings), "seed": seed}
    facts |= {"key": "diagonal", "relation": "at most", "resolution": 0}
    quantity = "Var(zᵀHz) of rademacher over that of gaussian, less 1: −ΣH_ii²/‖H‖_F²"
    return Findings([row("P3", quantity, 0, float(found.value), half_width(found.stderr, found.dof), **facts)])
