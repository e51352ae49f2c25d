"""Contrasts of the published studies, as rows and in words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.paper.published import Published, StudyResults
from analysis.study.claims import MIRRORED
from analysis.study.contrasts import LEVEL
from result_schema.measures import ENDS
from result_schema.study import dials_of
from symnoise.core import student_t
from symnoise.plot.numbers import listed, with_interval
from symnoise.theory.ledger import slug

# study -> model and data in words, and its single draw: what noise does depends on them.
REGIMES = {
    "transfer": ("Small Llama pretrained on conversations, fine-tuned on instructions", "rademacher"),
    "transfer-dolly": ("The same, fine-tuned on Dolly", "rademacher"),
    "transfer-open-platypus": ("The same, on a stand-in for OpenPlatypus", "rademacher"),
    "transfer-evol-instruct": ("The same, on Evol-Instruct", "rademacher"),
    "transfer-longer": ("The model of `transfer`, pretrained again, for twice as many steps", "rademacher"),
    "transfer-replies": ("The model of `transfer-longer`, on rows of up to 192 tokens, not 128", "uniform"),
    "mirror": ("Small Llama pretrained on rows like those that it is fine-tuned on", "rademacher"),
    "dials": ("The first seeds of the same, by parts", "dials-1-1"),
    "dials-one-pass": ("The same model, rows seen once", "dials-1-1"),
    "micro": ("Small Llama with smaller embeddings, so that noise is larger relative to them", "uniform"),
    "micro-one-pass": ("A model pretrained by the same recipe on other rows, rows seen once", "uniform"),
    "smollm2-mirror": ("SmolLM2 on Alpaca", "uniform"),
    "smollm2-dolly": ("The same, on Dolly", "uniform"),
    "smollm2-open-platypus": ("The same, on a stand-in for OpenPlatypus", "uniform"),
    "smollm2-evol-instruct": ("The same, on Evol-Instruct", "uniform"),
    "smollm2-sharegpt": ("The same, on ShareGPT", "uniform"),
}
MODELS = ("the small Llama", "SmolLM2")
REPEATED = "dials"  # shares its runs of SymNoise and of no noise with the study before it
ODD = "dials-0-1"  # the odd part of a draw alone; SymNoise is the even part alone
HELD_OUT, CURVED = ENDS[1:]
LENGTHS = ("length, greedy", "length, repetition penalty 1.2")  # of replies: without a penalty, and NEFTune's
UNCLEAR = "no clear difference"
_IN_TABLES = {  # -> kind of noise in `pairs_of`
    "one draw − none": "one draw",
    "SymNoise − none": "SymNoise",
    "SymNoise − one draw": "SymNoise against one draw",
    "SymNoise − two draws": "the mirror",
}
# D1 in parts -> keys of its rows.
D1_PARTS = {
    "curvature-falls": ("D1.slope.tr-g.even",),
    "loss-falls": ("D1.slope.held-out-loss.even",),
    "same-without-odd": tuple(f"D1.slope.{slug(measure)}.odd" for measure in ENDS),
}

Rows = Mapping[str, Mapping[Any, Any]]  # measure -> the row of a contrast


def every(published: Published) -> dict[str, StudyResults | None]:
    """All studies with several seeds, by name."""
    return published.studies | published.mechanism


def distinct(found: Mapping[str, StudyResults | None]) -> dict[str, StudyResults]:
    """The studies of `REGIMES` that have been run, in its order, but for the one that repeats another's runs."""
    return {name: study for name in REGIMES if name != REPEATED and (study := found.get(name))}


def model_of(study: str) -> str:
    """Which of `MODELS` a study of `REGIMES` is of."""
    return MODELS[study.startswith("smollm2")]


def pairs_of(draw: str, *kinds: str) -> dict[str, tuple[str, str]]:
    """Kind of noise, of `kinds` or any -> the two arms that are compared for it, where one draw is the arm `draw`."""
    arms = {"one draw": (draw, "none"), "its odd part": (ODD, "none"), "SymNoise": ("symnoise", "none")}
    arms |= {"SymNoise against one draw": ("symnoise", draw), "the mirror": MIRRORED[0]}
    return {kind: pair for kind, pair in arms.items() if not kinds or kind in kinds}


def comparisons_with(draw: str) -> dict[str, tuple[str, str]]:
    """The four comparisons of a study whose single draw is the arm `draw`, in the words of tables and as arms."""
    pairs = pairs_of(draw)
    return {what: pairs[kind] for what, kind in _IN_TABLES.items()}


def by_training(study: StudyResults, when: str) -> float:
    """The held-out loss without noise at the end, or at the lowest of each run ("best"), minus that before training;
    mean over seeds, NaN where it was not measured."""
    before = study.untrained.loss if study.untrained else math.nan
    return without_noise(study, HELD_OUT, when) - before


def without_noise(study: StudyResults, measure: str, when: str = "end") -> float:
    """The mean over seeds, `measure` as in `StudyResults.contrasts`; NaN where it was not measured."""
    one, _, decoding = measure.partition(", ")
    arms = study.tables["arms"].query("arm == 'none' and when == @when")
    means = arms[(arms.measure == one) & (arms.decoding.fillna("") == decoding)]
    return float(means["mean"].iloc[0]) if len(means) else float("nan")


def ends_lowest(study: StudyResults, pairs: Iterable[tuple[str, str]]) -> bool:
    """Whether in each of the contrasts every run has its lowest held-out loss at the last step, as far as they tell."""
    both = [[rows_of(study, *pair, when).get(HELD_OUT, {}) for when in ("best", "end")] for pair in pairs]
    return all(best.get("mean") == end.get("mean") and best.get("sd") == end.get("sd") for best, end in both)


def leaves_out_0(row: Mapping[Any, Any]) -> bool:
    return bool(row["low"] > 0 or row["high"] < 0)


def corrected(row: Mapping[Any, Any]) -> bool:
    """Whether Holm's correction decides: of an endpoint named before its runs, with so many pairs that a permutation
    test can be significant at all."""
    return bool(row.get("primary", False)) and row["verdict"] != "too few seeds"


def direction(row: Mapping[Any, Any]) -> str:
    """`lower` or `higher`, by the 95 % interval and, where it decides, Holm's p; else that the difference is not clear,
    or has no interval, as where a run diverged, which no interval of the others counts."""
    diverged = row.get("diverged_first", 0) or row.get("diverged_second", 0)
    if diverged or not (math.isfinite(row["low"]) and math.isfinite(row["high"])):
        return "without an interval"
    p = row.get("holm", math.nan) if corrected(row) else 0.0
    return UNCLEAR if p > 1 - LEVEL or not leaves_out_0(row) else "higher" if row["low"] > 0 else "lower"


def signs(found: Mapping[str, Rows], measure: str, *, brief: bool = False) -> str:
    """`lower in a and b, no clear difference in c`, where names -> rows; no names where all that measured it agree.
    In brief those that are not clear are counted: `no clear difference in 5 others`."""
    names: dict[str, list[str]] = {"lower": [], "higher": [], UNCLEAR: []}
    for name, rows in found.items():
        if measure in rows:
            names.setdefault(direction(rows[measure]), []).append(f"`{name}`")
    said = {word: own for word, own in names.items() if own}
    if len(said) == 1 and len(next(iter(said.values()))) == len(found):
        ((word, own),) = said.items()
        return f"{word}{ {1: '', 2: ' in both'}.get(len(own), f' in all {len(own)}') }"
    where = {word: listed(own) for word, own in said.items()}
    if brief and UNCLEAR in where:
        where[UNCLEAR] = f"{len(said[UNCLEAR])} others"
    return ", ".join(f"{word} in {names}" for word, names in where.items())


def by_two(found: Mapping[str, Mapping[str, Rows]]) -> str:
    """What two kinds of noise change, each with its contrasts by study; said once where both do the same."""
    said = []
    for measure in (HELD_OUT, CURVED):
        each = {kind: signs(rows, measure) for kind, rows in found.items()}
        parts = [f"by {kind} {sign}" for kind, sign in each.items()]
        once = f"by both {next(iter(each.values()))}"
        named = measure.replace("held", "Held")  # tr G keeps its small letter
        said.append(f"{named}: {once if len(set(each.values())) == 1 else '; '.join(parts)}.")
    return " ".join(said)


def answers(found: Mapping[str, Rows], *measures: str) -> str:
    """`training loss lower; tr G no clear difference`: `signs` of each measure."""
    return "; ".join(f"{plain(measure)} {signs(found, measure)}" for measure in measures)


def plain(measure: str) -> str:
    """The training loss without noise is the only one here."""
    return measure.removeprefix("clean ")


def side_by_side(study: StudyResults, pairs: Iterable[tuple[str, str]], *measures: str) -> dict[str, str]:
    """measure -> the contrasts of the pairs in their order; and how many seeds. Empty if one has not been run."""
    rows = [at_end(study, *pair) for pair in pairs]
    if not all(set(measures) <= set(row) for row in rows):
        return {}
    found = {measure: listed([with_interval(row[measure]) for row in rows]) for measure in measures}
    return found | {"seeds": str(int(rows[0][measures[0]]["pairs"]))}


def at_end(study: StudyResults, first: str, second: str) -> dict[str, dict[Any, Any]]:
    """`rows_of` at the end of training. Against no noise, an arm that is a cell of the plane of dials has that
    cell's, unless the contrast is an endpoint."""
    rows, weights = rows_of(study, first, second, "end"), dials_of(first)
    cells = study.frames.get("dials", pd.DataFrame())
    if second == "none" and weights and len(cells):
        at = cells[(cells.even == weights[0]) & (cells.odd == weights[1])].rename(columns={"seeds": "pairs"})
        endpoints = {measure: row for measure, row in rows.items() if row["primary"]}
        return rows | {str(row["measure"]): row for row in at.to_dict("records")} | endpoints
    return rows


def rows_of(study: StudyResults, first: str, second: str, when: str) -> dict[str, dict[Any, Any]]:
    """measure -> the contrast's row at the study's own α."""
    return study.contrasts.get((first, second, when), {})


def mean_over(rows: Sequence[Mapping[Any, Any]]) -> dict[str, float]:
    """The mean of contrasts of several studies, each with the same weight and a variance of its own, with Student's
    interval of Welch and Satterthwaite's degrees of freedom."""
    parts = [row["sd"] ** 2 / row["pairs"] for row in rows]
    variance = sum(parts)
    dof = variance**2 / sum(part**2 / (row["pairs"] - 1) for part, row in zip(parts, rows, strict=True))
    half = student_t(LEVEL, dof) * math.sqrt(variance) / len(rows)
    mean = sum(row["mean"] for row in rows) / len(rows)
    return {"mean": mean, "low": mean - half, "high": mean + half}
