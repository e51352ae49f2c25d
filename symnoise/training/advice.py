"""Which α? What a model and its rows say of each α, and the two sentences that follow from the numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Estimate, InputError
from symnoise.curvature import Pooled, attenuation_slope, ratio_of_means, root_ratio, smoothed_curvature
from symnoise.models import EmbeddingLoss
from symnoise.noise import Noise
from symnoise.theory.checks.validity import MARGIN
from symnoise.theory.ledger import verdict
from symnoise.training.budget import Record, VarianceBudget

ALPHAS = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0)  # 5, 10 and 15 are the published ones, the others show the trend
# The study micro-r-sweep tried α = 2, 5, 10, 15, 30 with the embedding norms of SmolLM2: r from 0.04 to 0.58.
# Held-out loss was lowest at α = 15, r = 0.29, of the runs with noise; at r = 0.58 it was not lower than without noise.
# Its rows are like those of pretraining, and no run ended below the model before training.
BEST_RATIO, RATIOS_TRIED = 0.29, (0.04, 0.58)
PAIR_COST = 2.0  # forward-backward passes of a pair per one of a single draw: two passes, or one of a doubled batch
NEGLIGIBLE = 0.1  # a batch larger by a tenth is within what anyone rounds a batch size by
# study -> SymNoise minus two independent draws in training and held-out loss, nats, and seeds; a test compares them
# with its tables. Fine-tuning lowers the held-out loss in transfer and raises it in mirror.
MIRROR = {"transfer": (-0.027, -0.003, 20), "mirror": (-0.027, 0.004, 30)}
_REGIME = {"holds": "yes", "fails": "no", "undecided": "undecided"}


@dataclass(frozen=True)
class AtAlpha:
    """What was measured at one α; intervals are over rows, that of rho over batches.

    ratio:     quartiles over all tokens of r = ‖ε_t‖/‖x_t‖.
    slope:     attenuation slope of a pair's excess against ½εᵀHε; 1 where the quadratic theory holds.
    mean:      ratio of their means, which is what training averages.
    cancelled: √(Σodd²/Σpair²) over draws and rows: the odd part of the loss, first order in ε, which a pair cancels, in
               units of the even part, second order, which it keeps.
    rho:       V_odd/V_batch: on the gradient's variance a pair acts like a batch at most 1 + ρ times as large (G1).
    """

    alpha: float
    ratio: tuple[float, float, float]
    slope: Pooled
    mean: Pooled
    cancelled: Pooled
    rho: Estimate

    @property
    def quadratic(self) -> str:
        """Whether both pooled numbers are within 10 % of 1: "yes", "no" (at least one is not) or "undecided"."""
        found = [verdict("within", 1, pooled.low, pooled.high, MARGIN) for pooled in (self.slope, self.mean)]
        return _REGIME["fails" if "fails" in found else "holds" if set(found) == {"holds"} else "undecided"]


def token_ratios(loss: EmbeddingLoss) -> Float[Tensor, " token"]:
    """r = ‖ε_t‖/‖x_t‖ at α = 1 of every real token whose embedding is not 0, (token,); r is proportional to α.

    ‖ε_t‖ = α/√(3L) whatever the width (claim R1): exactly for ±1 noise, in root mean square for other laws.
    """
    dim = loss.embeddings.shape[-1]
    size = Noise.symnoise(1.0).sigma(loss.lengths.cpu(), dim) * math.sqrt(dim)
    norms = loss.embeddings.double().norm(dim=-1)
    return (size.to(norms)[:, None] / norms)[(loss.mask != 0) & (norms > 0)]


def measure_rows(loss: EmbeddingLoss, draws: int, seed: int, alphas: Sequence[float] = ALPHAS) -> Record:
    """What `at_each_alpha` needs of some rows, as JSON: their tokens' ratios, and `SmoothedCurvature` at each α."""
    dim = loss.embeddings.shape[-1]
    sigmas = torch.stack([Noise.symnoise(alpha).sigma(loss.lengths.cpu(), dim) for alpha in alphas])
    found = smoothed_curvature(loss, sigmas, "rademacher", draws, seed)
    parts = {"pair": found.pair, "odd": found.odd, "second_order": found.second_order, "ratios": token_ratios(loss)}
    return {name: part.tolist() for name, part in parts.items()}


def at_each_alpha(records: Sequence[Record], budgets: Sequence[VarianceBudget]) -> list[AtAlpha]:
    """The measurements at the α of each of `budgets`, which are those of the `records`, of `measure_rows`.

    Raises `InputError` for fewer than two rows, which allow no interval.
    """
    parts = {
        name: torch.cat([torch.tensor(record[name], dtype=torch.float64) for record in records], -1)
        for name in ("pair", "odd", "second_order", "ratios")
    }
    rows = parts["pair"].shape[-1]
    if rows < 2:
        raise InputError("advice needs 2 rows or more: one row says nothing of others")
    low, middle, high = torch.quantile(parts["ratios"], torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    found = []
    for budget, y, odd, x in zip(budgets, parts["pair"], parts["odd"], parts["second_order"], strict=True):
        found.append(
            AtAlpha(
                alpha=budget.alpha,
                ratio=(budget.alpha * low, budget.alpha * middle, budget.alpha * high),
                slope=attenuation_slope(y, x, "example"),
                mean=ratio_of_means(y, x, "example"),
                cancelled=root_ratio(odd, y, "example"),
                rho=budget.rho,
            )
        )
    return found


def alpha_of_ratio(found: Sequence[AtAlpha], ratio: float) -> float:
    """The α at which the median token has r = `ratio`."""
    return ratio * found[0].alpha / found[0].ratio[1]


def advice(found: Sequence[AtAlpha]) -> tuple[str, str]:
    """What to try and what not to expect, each one sentence, from the numbers at the α nearest to the one to try."""
    alpha = alpha_of_ratio(found, BEST_RATIO)
    near = min(found, key=lambda one: abs(math.log(one.alpha / alpha)))
    low, high = RATIOS_TRIED
    attempt = (
        f"Try one draw (--noise uniform) and a mirrored pair (--noise symnoise) at α = {alpha:.2g}, where r = "
        f"{BEST_RATIO:g}, which of r = {low:g} to {high:g} had the lowest held-out loss of runs with noise in the "
        f"study micro-r-sweep; {_pair(near)}."
    )
    studies = " and ".join(
        f"{_signed(training)} and {_signed(held_out)} nats (study {name}, {seeds} seeds)"
        for name, (training, held_out, seeds) in MIRROR.items()
    )
    expect = (
        "Do not expect a lower training loss with the mirror to mean a lower held-out loss: at the same cost, SymNoise "
        f"minus two draws was {studies}; fine-tuning lowered the held-out loss in the first and raised it in the "
        f"second. {_THEORY[near.quadratic].format(alpha=near.alpha)}."
    )
    return attempt, expect


_THEORY = {
    "yes": "Here tr H does describe what noise does to the loss at α = {alpha:g}",
    "no": "Nor expect tr H to describe what noise does to the loss at α = {alpha:g}, where the quadratic theory fails",
    "undecided": "Whether tr H describes what noise does to the loss at α = {alpha:g} is undecided: more --examples, "
    "without --quick, narrow the intervals",
}


def _pair(near: AtAlpha) -> str:
    """A pair against the batch that the same cost buys, by the interval of ρ."""
    rho, extra = near.rho, PAIR_COST - 1
    low, high = (float(end) for end in rho.interval())
    at = f"at α = {near.alpha:g} a pair (--noise symnoise)"
    worth = f"a batch at most {1 + float(rho):.3g} ({1 + low:.3g} to {1 + high:.3g}) times as large"
    if high < NEGLIGIBLE:
        return f"{at} is worth {worth}, which is next to nothing for twice the cost"
    if high < extra:
        return f"{at} is worth {worth}, less than the doubled batch that costs the same"
    if low > extra:
        return f"{at} is worth {worth}, which removes more variance than the doubled batch that costs the same"
    return f"whether {at} removes more variance than a doubled batch, which costs the same, is undecided"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
