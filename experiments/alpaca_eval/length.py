"""How much of a gain in preferences is left at equal length of replies (claim Z1): several adjustments, side by side.

A gain is the win rate of one model minus that of another, both against the same reference replies. The length of a
reply follows from the model that wrote it, so no adjustment is free of assumptions; each makes its own:

raw               none: the mean difference over the instructions that both have a preference for.
like length       the same, over instructions where the two replies differ in length by a small factor at most.
difference        the intercept of a least-squares line of the difference on the log ratio of the two lengths.
strata            win rates within strata of length over the reference's, weighted by the pooled share of each stratum.
two fits          the difference of the two length-controlled win rates (`winrate.length_controlled`).
all generators    logit E[win] = θ_g + δ_i + φ·tanh((length − reference's)/s) over all generators g and instructions i,
                  δ_i ~ N(0, τ²); the difference of the mean win rates at equal length. s: standard deviation.
own slopes        the same with a slope φ_g and a scale s_g for each generator: closest to AlpacaEval's length control.

Standard errors: bootstrap over instructions, the same draws for every adjustment of a pair.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit

from experiments.alpaca_eval.winrate import length_controlled, read_annotations
from result_schema.files import read_settings
from result_schema.typed import require_types
from symnoise.core import InputError, track

Vector = NDArray[np.float64]
Gain = Callable[["Pair", Vector], float]  # of a pair, with a weight for each instruction
COLUMNS = ("generator", "instruction", "preference", "reference_characters", "model_characters")
RAW = "raw"
_EXAMPLE = "experiments/configs/length/7b.yaml"
_STEPS, _FLAT = 50, 1e-6  # of Newton's method: at most, and where every derivative is this small it has converged
_SURE = 1e-5  # mean p(1 − p) over a generator's preferences; one loss in a thousand wins has 1e-3


@dataclass(frozen=True)
class Plan:
    """What is compared and how, written before it is computed; see experiments/configs/length/7b.yaml."""

    name: str
    pairs: list[tuple[str, str]]
    controls: list[tuple[str, str]]
    share: float
    like: float
    strata: list[float]
    instruction_scale: float
    bootstrap: dict[str, int]


def read_plan(path: Path) -> Plan:
    """`InputError` for a key that is missing or unknown."""
    given, known = read_settings(path, "a comparison", _EXAMPLE), fields(Plan)
    if wrong := {field.name for field in known} ^ given.keys():
        raise InputError(
            f"{path}: {', '.join(sorted(wrong))} missing or unknown; see experiments/configs/length/7b.yaml"
        )
    require_types(Plan, given, str(path))
    return Plan(**given)


def read_preferences(files: Sequence[Path]) -> pd.DataFrame:
    """`COLUMNS` of all files: a .csv or .csv.gz with these, or AlpacaEval's annotations, without their texts.

    preference: AlpacaEval's, from 1 to 2 or 0 for a draw; becomes the win, 0 to 1. Rows without one are left out.
    """
    table = pd.concat([_table(Path(file)) for file in files], ignore_index=True)
    twice = table[table.duplicated(["generator", "instruction"])]
    if len(twice):
        raise InputError(f"two preferences about {twice.generator.iloc[0]} on the same instruction")
    wins = table.preference.where(table.preference != 0, 1.5) - 1
    return table.assign(win=wins).dropna(subset="win").drop(columns="preference")


def _table(file: Path) -> pd.DataFrame:
    if ".csv" in file.suffixes:
        table = pd.read_csv(file)
        if missing := set(COLUMNS) - set(table):
            raise InputError(f"{file} lacks the columns {', '.join(sorted(missing))}")
        return table[list(COLUMNS)]
    rows = [
        (row["generator_2"], row["instruction"], row["preference"], len(row["output_1"]), len(row["output_2"]))
        for row in read_annotations(file)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


@dataclass(frozen=True)
class Pair:
    """Two generators on the instructions that both have a preference and a reply for, by row of `table`.

    table: for each instruction, win and characters of both (plain, noisy) and of the reference.
    every: preferences of all generators on these instructions; `row` is the instruction's place in `table`.
    """

    table: pd.DataFrame
    every: pd.DataFrame
    plain: str
    noisy: str
    plan: Plan

    @staticmethod
    def of(preferences: pd.DataFrame, plain: str, noisy: str, plan: Plan) -> "Pair":
        sides = {}
        for side, generator in (("plain", plain), ("noisy", noisy)):
            own = preferences[preferences.generator == generator].set_index("instruction")
            if own.empty:
                raise InputError(f"the files have no preferences about {generator}")
            sides[side] = own[own.model_characters > 0]
        one, two = sides["plain"], sides["noisy"].reindex(sides["plain"].index)
        table = pd.DataFrame(
            {"win_plain": one.win, "win_noisy": two.win, "reference": one.reference_characters}
            | {"plain": one.model_characters, "noisy": two.model_characters}
        ).dropna()
        if len(table) < 2:
            raise InputError(f"{plain} and {noisy} have fewer than 2 instructions in common")
        place = pd.Series(range(len(table)), index=table.index)
        every = preferences[preferences.instruction.isin(table.index)]
        return Pair(table, every.assign(row=every.instruction.map(place)), plain, noisy, plan)

    @cached_property
    def difference(self) -> Vector:
        """Win of the noisy minus win of the plain model, for each instruction."""
        return (self.table.win_noisy - self.table.win_plain).to_numpy()

    @cached_property
    def log_ratio(self) -> Vector:
        """log(characters of the noisy model's reply / of the plain model's)."""
        return np.log((self.table.noisy / self.table.plain).to_numpy())

    @cached_property
    def strata(self) -> dict[str, NDArray[np.int64]]:
        """The stratum of each reply, by its length over the reference's."""
        reference = self.table.reference.clip(lower=1)
        return {side: np.digitize(self.table[side] / reference, self.plan.strata) for side in ("plain", "noisy")}

    @cached_property
    def all_generators(self) -> "AllGenerators":
        return AllGenerators.of(self.every, self.plan.instruction_scale)


def raw(pair: Pair, weights: Vector) -> float:
    return float(np.average(pair.difference, weights=weights))


def like_length(pair: Pair, weights: Vector) -> float:
    alike = weights * (np.abs(pair.log_ratio) <= np.log(pair.plan.like))
    return float(np.average(pair.difference, weights=alike)) if alike.any() else float("nan")


def difference(pair: Pair, weights: Vector) -> float:
    scale = np.sqrt(weights)
    columns = np.column_stack([scale, scale * pair.log_ratio])
    return float(np.linalg.lstsq(columns, scale * pair.difference, rcond=None)[0][0])


def strata(pair: Pair, weights: Vector) -> float:
    """Over strata in which both have replies."""
    of, shares, gains = pair.strata, [], []
    for stratum in range(len(pair.plan.strata) + 1):
        own = {side: weights * (of[side] == stratum) for side in of}
        if all(one.any() for one in own.values()):
            shares.append(own["plain"].sum() + own["noisy"].sum())
            gains.append(
                np.average(pair.table.win_noisy, weights=own["noisy"])
                - np.average(pair.table.win_plain, weights=own["plain"])
            )
    return float(np.average(gains, weights=shares)) if shares else float("nan")


def two_fits(pair: Pair, weights: Vector) -> float:
    again = np.repeat(np.arange(len(weights)), weights.astype(int))
    table = pair.table.iloc[again]
    rates = [
        length_controlled(table[f"win_{side}"].to_numpy(), (table[side] - table.reference).to_numpy())[0]
        for side in ("plain", "noisy")
    ]
    return (rates[1] - rates[0]) / 100


def all_generators(pair: Pair, weights: Vector) -> float:
    return pair.all_generators.gain(pair.plain, pair.noisy, weights, own_slopes=False)


def own_slopes(pair: Pair, weights: Vector) -> float:
    return pair.all_generators.gain(pair.plain, pair.noisy, weights, own_slopes=True)


ADJUSTMENTS: dict[str, Gain] = {
    RAW: raw,
    "like length": like_length,
    "difference": difference,
    "strata": strata,
    "two fits": two_fits,
    "all generators": all_generators,
    "own slopes": own_slopes,
}


@dataclass(frozen=True)
class AllGenerators:
    """The regression on all generators, by Newton's method on the penalised likelihood.

    wins: of each preference.  apart: characters of the reply minus the reference's.  generator, instruction: indices.
    """

    wins: Vector
    apart: Vector
    generator: NDArray[np.int64]
    instruction: NDArray[np.int64]
    names: list[str]
    instructions: int
    scale: float

    @staticmethod
    def of(every: pd.DataFrame, scale: float) -> "AllGenerators":
        codes, names = pd.factorize(every.generator, sort=True)
        return AllGenerators(
            every.win.to_numpy(float),
            (every.model_characters - every.reference_characters).to_numpy(float),
            codes.astype(np.int64),
            every.row.to_numpy(np.int64),
            [str(name) for name in names],
            int(every.row.max()) + 1,
            scale,
        )

    def gain(self, plain: str, noisy: str, weights: Vector, own_slopes: bool) -> float:
        """Difference of the mean win rates at equal length. weights: how often each instruction counts."""
        start = self._whole_sample[own_slopes]
        levels, effects, _ = self._parts(self.fit(weights, own_slopes, start))
        one, two = (levels[self.names.index(name)] for name in (plain, noisy))
        return float(np.average(expit(two + effects) - expit(one + effects), weights=weights))

    def fit(self, weights: Vector, own_slopes: bool, start: Vector | None = None) -> Vector:
        """θ of each generator, δ of each instruction, and the slopes φ (one, or one for each generator).

        An instruction that is drawn k times counts as k instructions, whose effects are the same by symmetry; the
        effect of one that is not drawn is 0. Raises `InputError` where there is no maximum, or it is not reached.
        """
        X, of_row = self._columns[own_slopes], weights[self.instruction]
        prior = np.zeros(X.shape[1])
        prior[len(self.names) :][: self.instructions] = np.maximum(weights, 1) / self.scale**2
        x = np.zeros(X.shape[1]) if start is None else start
        for _ in range(_STEPS):
            p = expit(X @ x)
            slope = X.T @ (of_row * (p - self.wins)) + prior * x
            if np.abs(slope).max() < _FLAT:
                self._require_uncertain(p, of_row)
                return x
            bend = (X.T @ X.multiply((of_row * p * (1 - p))[:, None])).toarray()
            x = x - np.linalg.solve(bend + np.diag(prior), slope)
        raise InputError(f"the regression on all generators did not converge in {_STEPS} steps")

    def _parts(self, x: Vector) -> tuple[Vector, Vector, Vector]:
        G, n = len(self.names), self.instructions
        return x[:G], x[G : G + n], x[G + n :]

    def _require_uncertain(self, p: Vector, of_row: Vector) -> None:
        """If length determines every preference about a generator, its fitted probabilities tend to 0 and 1."""
        counts = np.bincount(self.generator, of_row, len(self.names))
        spread = np.bincount(self.generator, of_row * p * (1 - p), len(self.names)) / np.maximum(counts, 1)
        if (sure := (spread < _SURE) & (counts > 0)).any():
            name = self.names[int(sure.argmax())]
            raise InputError(f"length determines every preference about {name}: there is no effect to fit")

    @cached_property
    def _whole_sample(self) -> dict[bool, Vector]:
        """The fits in which every instruction counts once, from which those of resamples start."""
        return {own: self.fit(np.ones(self.instructions), own) for own in (False, True)}

    @cached_property
    def _columns(self) -> dict[bool, sparse.csr_matrix]:
        """By own slopes: a column for each generator and instruction, and tanh(apart/s) for each slope.

        s is the standard deviation over all generators for the one slope, that of each generator for its own.
        """
        of_each = pd.Series(self.apart).groupby(self.generator).transform("std").to_numpy()
        once = np.zeros_like(self.generator)
        G, one = len(self.names), np.ones(len(self.wins))
        slopes = {
            False: (np.tanh(self.apart / self.apart.std(ddof=1)), once, 1),
            True: (np.tanh(self.apart / of_each), self.generator, G),
        }
        rows = np.arange(len(self.wins))
        return {
            own: sparse.hstack(
                [
                    sparse.csr_matrix((values, (rows, column)), (len(rows), size))
                    for values, column, size in (
                        (one, self.generator, G),
                        (one, self.instruction, self.instructions),
                        slope,
                    )
                ],
                "csr",
            )
            for own, slope in slopes.items()
        }


def compared(preferences: pd.DataFrame, plan: Plan) -> list[dict[str, Any]]:
    """A record for each pair and adjustment: gain, stderr, left (the gain minus `share` of the raw one) and its stderr.

    role: "pair" or "control". n: instructions, of which `used` are of like length, for that adjustment. characters:
    mean length of both.
    """
    made = []
    roles = [*(("pair", names) for names in plan.pairs), *(("control", names) for names in plan.controls)]
    for role, (plain, noisy) in roles:
        pair = Pair.of(preferences, plain, noisy, plan)
        facts = {"role": role, "plain": plain, "noisy": noisy, "n": len(pair.table)}
        facts |= {f"characters_{side}": float(pair.table[side].mean()) for side in ("plain", "noisy")}
        made += [facts | record for record in _estimates(pair)]
    return made


def _estimates(pair: Pair) -> list[dict[str, Any]]:
    n, draws = len(pair.table), pair.plan.bootstrap["draws"]
    random = np.random.default_rng(pair.plan.bootstrap["seed"])
    counts = random.multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
    gains = {name: gain(pair, np.ones(n)) for name, gain in ADJUSTMENTS.items()}
    again = {
        name: np.array([gain(pair, weights) for weights in track(counts, f"{pair.noisy}, {name}")])
        for name, gain in ADJUSTMENTS.items()
    }
    used = int((np.abs(pair.log_ratio) <= np.log(pair.plan.like)).sum())
    return [
        {"adjustment": name, "gain": gains[name], "stderr": float(again[name].std(ddof=1))}
        | {"left": gains[name] - pair.plan.share * gains[RAW]}
        | {"left_stderr": float((again[name] - pair.plan.share * again[RAW]).std(ddof=1))}
        | {"used": used if name == "like length" else n}
        for name in ADJUSTMENTS
    ]
