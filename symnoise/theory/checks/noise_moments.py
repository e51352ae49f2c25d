"""M1 to M3: moments of the noise, sampled."""

from typing import Any

import torch

from symnoise.core import generator
from symnoise.noise import Moments, Noise, SampledMoments, law, noise_names, sampled_moments, single_draws
from symnoise.theory import constants
from symnoise.theory.findings import Findings, Table, timed
from symnoise.theory.ledger import Row, row, value_and_half

# float32 rounds the scale and each square: a few units in the last place of ‖ε‖².
_ROUNDING = 4 * torch.finfo(torch.float32).eps


@timed
def check_moments(alpha: float = 5.0, length: int = 8, dim: int = 16, draws: int = 100_000, seed: int = 0) -> Findings:
    """M1, M2 and M3 for each law over `draws` draws of (length, dim), float32 as in training.

    Resolution: 1 % of a mean, 10 % of a variance, and for a mean norm its whole distance from α√v, which is what M2
    predicts. Rademacher norms do not vary; their intervals are float32 rounding only.
    """
    rows: list[Row] = []
    table: Table = []
    where = f"sampled, L = {length}, d = {dim}"
    for name in single_draws():
        noise = Noise.named(name, alpha)
        assert noise is not None
        expected = noise.moments(length, dim)
        found = sampled_moments(noise, length, dim, draws, seed)
        facts: dict[str, Any] = {"where": where, "subject": "sampled", "n": draws, "seed": seed}
        rows += _moment_rows(name, noise, expected, found, facts)
        table += _moment_records(name, expected, found)
    rows.append(_pair_row(alpha, length, dim, seed, where))
    return Findings(rows, {"moments": table, "square_norms": _histogram(alpha, length, dim, seed)})


def _moment_rows(name: str, noise: Noise, expected: Moments, found: SampledMoments, facts: dict[str, Any]) -> list[Row]:
    """M1 and M2 of one law; intervals are widened by what float32 rounds."""
    mean, half = _mean_and_half(found)
    variance, spread = value_and_half(found.var_square_norm)
    scale = max(expected.var_square_norm, (_ROUNDING * mean) ** 2 * 10)
    spread += (_ROUNDING * mean) ** 2
    first, width = value_and_half(found.mean_norm)
    deficit = abs(noise.alpha * noise.calibration * law(noise.law).variance ** 0.5 - expected.mean_norm)
    width += _ROUNDING * first
    of_square = facts | {"key": f"mean-square-norm.{name}", "resolution": 0.01 * mean}
    of_variance = facts | {"key": f"var-square-norm.{name}", "resolution": 0.1 * scale}
    of_norm = facts | {"key": f"mean-norm.{name}", "resolution": max(deficit, 10 * _ROUNDING * first)}
    return [
        row("M1", f"E‖ε‖², {name}", _mean_square_norm(noise), mean, half, **of_square),
        row("M2", f"Var‖ε‖², {name}", expected.var_square_norm, variance, spread, **of_variance),
        row("M2", f"E‖ε‖, {name}", expected.mean_norm, first, width, **of_norm),
    ]


def _moment_records(name: str, expected: Moments, found: SampledMoments) -> Table:
    """The three moments of one law, for the figure; the mean of ‖ε‖² with the interval of its row in the ledger."""
    return [
        {"law": name, "quantity": quantity, "predicted": predicted, "measured": measured, "half": half}
        for quantity, predicted, (measured, half) in (
            ("mean square norm", expected.mean_square_norm, _mean_and_half(found)),
            ("variance of the square norm", expected.var_square_norm, value_and_half(found.var_square_norm)),
            ("mean norm", expected.mean_norm, value_and_half(found.mean_norm)),
        )
    ]


def _mean_and_half(found: SampledMoments) -> tuple[float, float]:
    """E‖ε‖² with its half width and what float32 rounds."""
    mean, half = value_and_half(found.mean_square_norm)
    return mean, half + _ROUNDING * mean


@timed
def check_moments_at_scale(
    alpha: float = 5.0, length: int = 128, dim: int = 576, draws: int = 200, seed: int = 0
) -> Findings:
    """M1 at the shape of real fine-tuning, where E‖ε‖² must be the same number; resolution 1 %."""
    rows = []
    for name in single_draws():
        noise = Noise.named(name, alpha)
        assert noise is not None
        mean, half = _mean_and_half(sampled_moments(noise, length, dim, draws, seed))
        predicted = _mean_square_norm(noise)
        where = f"sampled, L = {length}, d = {dim}"
        facts: dict[str, Any] = {"resolution": 0.01 * mean, "where": where, "n": draws, "seed": seed}
        facts |= {"subject": "sampled", "key": f"mean-square-norm-at-scale.{name}"}
        rows.append(row("M1", f"E‖ε‖², {name}", predicted, mean, half, **facts))
    return Findings(rows)


def _mean_square_norm(noise: Noise) -> float:
    """M1: α²v, and α²/3 for every calibrated law, for all L and d."""
    return noise.alpha**2 * (constants.CALIBRATED if noise.calibrated else law(noise.law).variance)


def _pair_row(alpha: float, length: int, dim: int, seed: int, where: str) -> Row:
    """M3: the largest |first, third or fifth moment| over 100 mirrored pairs; exactly 0, also in floating point."""
    shape, worst, draws = torch.empty((100, length, dim)), 0.0, 100
    mask = torch.ones((draws, length), dtype=torch.long)
    pairs = [name for name, setting in noise_names().items() if setting and setting[2] and setting[3]]
    for name in pairs:
        noise = Noise.named(name, alpha)
        assert noise is not None
        plus, minus = noise.sample_pair(shape, mask, generator=generator(seed, "pairs", name))
        worst = max(worst, *(float((plus**k + minus**k).abs().max()) for k in (1, 3, 5)))
    facts: dict[str, Any] = {
        "key": "odd-moments",
        "subject": "sampled",
        "where": where,
        "n": len(pairs) * draws,
        "seed": seed,
    }
    return row("M3", "largest odd moment over {+ε, −ε}", 0, worst, 0, resolution=0, **facts)


def _histogram(alpha: float, length: int, dim: int, seed: int) -> list[dict]:
    """‖ε‖² of 2,000 draws of each law, for the figure."""
    records = []
    for name in single_draws():
        noise = Noise.named(name, alpha)
        assert noise is not None
        values = sampled_moments(noise, length, dim, 2_000, seed + 1).norms.square()
        records += [{"law": name, "square_norm": float(v)} for v in values]
    return records
