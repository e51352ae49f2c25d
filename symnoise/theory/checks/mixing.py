"""L1, X1 and R1: the effect of linear maps, calibration and the first norm on a law.

None needs an expansion in σ. L1 explains why laws of equal variance behave alike at the α in use, where quadratic
theory fails (V1).
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor, nn

from symnoise.core import generator
from symnoise.noise import LAWS, Law, Noise
from symnoise.theory import constants
from symnoise.theory.findings import Findings, timed
from symnoise.theory.ledger import LEVEL, Row, mean_and_half, row

WIDTHS = (16, 64)
RATIOS = (0.1, 0.3, 1.0)  # ‖ε_t‖/‖x_t‖, around those in practice


@timed
def check_mixing(draws: int = 400_000, seed: int = 0) -> Findings:
    """L1, X1 and R1 by sampling.

    L1: excess kurtosis of Σ w_i z_i for one w of independent normal weights, per law and width, with the interval of a
    fourth moment; resolution 0.03, where a sign law's own excess is −2.
    X1: the same draws of gaussian-raw at α and of gaussian at √3 α, float32; they may differ by rounding.
    R1: ‖ε_t‖ of ±1 noise at three widths, exact; and the part of a token's direction that x_t + ε_t keeps, whose mean
    over draws is 1/√(1+r²) up to terms of order 1/d: resolution 1 %.
    """
    rows, table = [], []
    facts: dict[str, Any] = {"subject": "sampled", "seed": seed}
    for width in WIDTHS:
        for law in LAWS.values():
            predicted = (law.kurtosis - constants.GAUSSIAN_KURTOSIS) * float(concentration(_weights(width, seed)))
            measured, half = sampled_excess(law, width, draws, seed)
            rows.append(
                row(
                    "L1",
                    f"excess kurtosis of Σ w_i z_i, {law.name}, d = {width}",
                    predicted,
                    measured,
                    half,
                    key=f"excess.{law.name}.d={width}",
                    resolution=0.03,
                    where=f"sampled, d = {width}",
                    n=draws,
                    **facts,
                )
            )
            table.append({"law": law.name, "width": width, "predicted": predicted, "measured": measured, "half": half})
    return Findings([*rows, _scale_row(seed), *_ratio_rows(seed)], {"mixing": table})


def _weights(width: int, seed: int) -> Float[Tensor, " width"]:
    return torch.randn(width, generator=generator(seed, "weights", width), dtype=torch.float64)


def sampled_excess(law: Law, width: int, draws: int, seed: int) -> tuple[float, float]:
    """Excess kurtosis of Σ w_i z_i over `draws` draws of z, and half its interval."""
    weights = _weights(width, seed)
    z = law.sample((draws, width), generator=generator(seed, "mixing", width, law.name), size=law.variance**-0.5)
    mixed = z.double() @ (weights / weights.norm())
    # The mean of y⁴ − 6y² + 3 is the fourth cumulant too, since E y² = 1, at half the error of y⁴ − 3.
    return mean_and_half(mixed**4 - 6 * mixed**2 + 3)


@timed
def check_first_layer(model: nn.Module, *, where: str, seed: int = 0) -> Findings:
    """L1 on a model's first layer: d Σw⁴/(Σw²)² of the rows of each linear map from the embeddings' width.

    The mean for a row of independent normal weights is 3d/(d+2), so that a law's excess kurtosis falls to 3(κ−3)/(d+2).
    Measured is the median over all rows that are not 0, with its interval from order statistics; "within" 25 % of that.
    No row for a model without such maps.
    """
    maps = first_maps(model)
    if not maps:
        return Findings([])
    width = maps[0].shape[1]
    found = torch.cat([concentration(w[w.any(1)]) * width for w in maps])
    ordered, count = found.sort().values, len(found)
    low = int(stats.binom.ppf((1 - LEVEL) / 2, count, 0.5))
    prediction = constants.GENERIC * width / (width + 2)
    interval = (float(ordered[max(low - 1, 0)]), float(ordered[min(count - low, count - 1)]))
    facts: dict[str, Any] = {"subject": "model", "where": where, "n": count, "seed": seed}
    quantity = "d Σw⁴/(Σw²)² of the first layer's rows, median"
    rule: dict[str, Any] = {"resolution": 0.25 * prediction, "relation": "within", "key": "first-layer"}
    return Findings([row("L1", quantity, prediction, float(ordered.median()), interval, **rule, **facts)])


def concentration(weights: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows"]:
    """Σw⁴/(Σw²)² of each row, in float64: 1/d if all weights are equal, 1 if only one is nonzero."""
    squares = weights.detach().double().square()
    return squares.square().sum(-1) / squares.sum(-1).square()


def first_maps(model: nn.Module) -> list[Float[Tensor, "row width"]]:
    """Weights (rows, d) of the first layer's linear maps from vectors of the embeddings' width d, its attention's
    output map among them, without the gain of the norm before them; none if no first layer has one."""
    width = model.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    for layers in (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)):
        inside: list[Any] = list(layers[0].modules())
        maps = [m.weight for m in inside if isinstance(m, nn.Linear)]
        maps += [m.weight.T for m in inside if type(m).__name__ == "Conv1D"]  # GPT-2's, whose weight is (d, row)
        if maps := [w for w in maps if w.shape[1] == width]:
            return maps
    return []


def _scale_row(seed: int) -> Row:
    """X1."""
    alpha, shape = 5.0, (8, 16, 64)
    X, mask = torch.zeros(shape), torch.ones(shape[:2], dtype=torch.long)
    draws = [
        Noise(*setting).sample(X, mask, generator=generator(seed, "scale"))
        for setting in (("gaussian", alpha, False), ("gaussian", constants.RAW**0.5 * alpha, True))
    ]
    measured = float((draws[0] - draws[1]).abs().max() / draws[0].abs().max())
    rounding = 8 * torch.finfo(torch.float32).eps
    quantity = "largest difference of gaussian-raw(α) and gaussian(√3 α), relative"
    facts: dict[str, Any] = {"subject": "sampled", "where": "sampled, L = 16, d = 64", "n": 8, "seed": seed}
    return row("X1", quantity, 0, measured, rounding, key="scale", resolution=rounding, **facts)


def _ratio_rows(seed: int) -> list[Row]:
    """R1."""
    alpha, length, rows = 5.0, 32, []
    mask = torch.ones((1, length), dtype=torch.long)
    facts: dict[str, Any] = {"subject": "sampled", "seed": seed}
    for width in (16, 64, 576):
        noise = Noise("rademacher", alpha)
        drawn = noise.sample(torch.zeros(1, length, width), mask, generator=generator(seed, "ratio", width))
        size = drawn.double().norm(dim=-1)
        predicted = alpha * (constants.CALIBRATED / length) ** 0.5
        rounding = 8 * torch.finfo(torch.float32).eps * predicted
        named: dict[str, Any] = {
            "key": f"token-norm.d={width}",
            "where": f"sampled, L = {length}, d = {width}",
            "n": length,
        }
        rows.append(
            row("R1", "‖ε_t‖", predicted, float(size.mean()), rounding, resolution=10 * rounding, **named, **facts)
        )
    width, draws = 576, 2_000
    x = torch.randn(width, generator=generator(seed, "token"), dtype=torch.float64)
    x /= x.norm()
    for ratio in RATIOS:
        z = LAWS["rademacher"].sample(
            (draws, width), generator=generator(seed, "shrink", str(ratio)), dtype=torch.float64
        )
        moved = x + ratio * z / math.sqrt(width)
        kept = (moved @ x) / moved.norm(dim=1)
        measured, half = mean_and_half(kept)
        predicted = (1 + ratio**2) ** -constants.SHRINKAGE
        named = {"key": f"shrinkage.r={ratio:g}", "where": f"sampled, d = {width}", "n": draws}
        half += predicted * 2 * ratio**2 / width  # of order 1/d, which the prediction leaves out
        rows.append(
            row("R1", f"direction kept, r = {ratio:g}", predicted, measured, half, resolution=0.01, **named, **facts)
        )
    return rows
