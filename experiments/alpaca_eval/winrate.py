"""Win rate and length-controlled win rate from AlpacaEval's annotations."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.alpaca_eval.files import Row, matched, read_rows
from symnoise.core import InputError


@dataclass(frozen=True)
class WinRate:
    """In percent, with standard errors.

    length_effect: φ of `length_controlled`, in logits. count, missing: instructions with and without a preference.
    lengths: mean characters of the reference and of the model. note: why a number is missing (NaN).
    """

    win_rate: float
    stderr: float
    length_controlled: float
    length_controlled_stderr: float
    length_effect: float
    count: int
    missing: int
    lengths: tuple[float, float]
    note: str = ""


def read_annotations(path: Path, instructions: str = "") -> list[Row]:
    """instruction, output_1 and generator_1 (the reference), output_2 and generator_2 (the model), and preference: from
    1 (the reference is better) to 2 (the model is), 1.5 or 0 for a draw, null where the judge gave none.

    `InputError` if a preference is none of these, if there is more than one pair of generators, or, with
    `instructions`, if the annotations are about other instructions.
    """
    rows = read_rows(path, "output_1", "output_2")
    for row in rows:
        p = row.get("preference")
        if p is not None and (not isinstance(p, int | float) or not (p == 0 or 1 <= p <= 2 or p != p)):
            raise InputError(f"{path}: the preference {p!r} is not one of AlpacaEval's: 1 to 2, 0 for a draw, or null")
    pairs = {(str(row.get("generator_1")), str(row.get("generator_2"))) for row in rows}
    if len(pairs) > 1:
        raise InputError(f"{path} compares {len(pairs)} pairs of generators; give one file for each pair")
    if instructions:
        matched(read_rows(instructions), rows, instructions, str(path))
    return rows


def win_rate(rows: list[Row]) -> WinRate:
    """The mean of preference − 1 in percent, with s/√n, and the same as it would be at equal lengths."""
    given = [float("nan") if row.get("preference") is None else float(row["preference"]) for row in rows]
    preference = np.array(given)
    known = np.isfinite(preference)
    wins = np.where(preference == 0, 1.5, preference)[known] - 1
    lengths = np.array([[len(row["output_1"]), len(row["output_2"])] for row in rows], float)
    if len(wins) < 2:
        raise InputError(f"{len(wins)} of {len(rows)} annotations have a preference; at least 2 are needed")
    controlled, error, effect, note = length_controlled(wins, (lengths[:, 1] - lengths[:, 0])[known])
    mean, stderr = float(100 * wins.mean()), float(100 * wins.std(ddof=1) / len(wins) ** 0.5)
    facts = {"count": len(wins), "missing": int((~known).sum()), "note": note}
    sizes = (float(lengths[:, 0].mean()), float(lengths[:, 1].mean()))
    return WinRate(mean, stderr, controlled, error, effect, lengths=sizes, **facts)  # type: ignore[arg-type]


def length_controlled(wins: NDArray[np.float64], longer: NDArray[np.float64]) -> tuple[float, float, float, str]:
    """The win rate if every reply were as long as its reference, its standard error, φ, and a note.

    wins: in [0, 1], for each instruction.  longer: characters of the model's reply − those of the reference.

        logit E[win] = θ + φ·tanh(longer/s),    s: sample standard deviation of `longer`;    100/(1 + exp(−θ))

    After Dubois et al. 2024 (arXiv 2404.04475), without the parts that need their files. The official number has a term
    for the difficulty of each instruction (γ, from all models on the leaderboard), is fitted together with the
    baseline's own replies in long and short forms, and is regularised (L1, by cross-validation). This is plain
    quasi-binomial maximum likelihood with sandwich errors (HC1), and the delta method for the win rate. It is not
    comparable with numbers of the public leaderboard.
    """
    from statsmodels.genmod.families import Binomial
    from statsmodels.genmod.generalized_linear_model import GLM

    s = longer.std(ddof=1)
    x = np.tanh(longer / s) if s > 0 else np.zeros_like(wins)
    if why := _no_maximum(wins, longer):
        return float("nan"), float("nan"), float("nan"), why
    columns = np.column_stack([np.ones_like(x), x] if s > 0 else [np.ones_like(x)])
    made = GLM(wins, columns, family=Binomial()).fit(cov_type="HC1")
    p = 1 / (1 + np.exp(-made.params[0]))
    effect = float(made.params[1]) if s > 0 else float("nan")
    return float(100 * p), float(100 * p * (1 - p) * made.bse[0]), effect, ""


def _no_maximum(wins: NDArray[np.float64], longer: NDArray[np.float64]) -> str:
    """Why the likelihood of `length_controlled` has no maximum; "" if it has one."""
    won, lost = longer[wins > 0], longer[wins < 1]
    if not (len(won) and len(lost)):
        return "all preferences are the same"
    if longer.max() == longer.min():  # φ is left out
        return ""
    if lost.max() < won.min() or won.max() < lost.min():
        return "length determines every preference"
    for border, split in ((won.min(), lost.max() == won.min()), (won.max(), won.max() == lost.min())):
        if split:
            there = int((longer == border).sum())
            return (
                f"{there} of {len(wins)} replies are longer than their references by the same {border:.0f} characters, "
                f"and length determines every preference of the other {len(wins) - there}: too few to fit its effect"
            )
    return ""
