"""What was found, in plain sentences with their numbers: for the README's top and the paper's abstract."""

import math
from typing import Any

from analysis.numbers import fixed, measurement, number
from analysis.paper.published import Published, StudyResults
from analysis.study.pairs import pairs_needed

STUDY = "micro"  # the one with all arms and ten seeds
WORTH_KNOWING = 0.002  # nats of held-out loss
ALPHAS = (5, 10, 15)  # what is trained with


def findings(published: Published) -> list[str]:
    """The range of validity, then what noise and what the mirror does; where it has not been run, nothing is said."""
    said = [_validity(published.rows)]
    study = published.studies.get(STUDY)
    if study is not None:
        said += [_noise(study), _mirror(study), _penalty(study), _open(study)]
    return [sentence for sentence in said if sentence]


def _validity(rows: list[dict[str, Any]]) -> str:
    found = {row["key"]: row for row in rows if row["subject"] == "model"}
    slopes = [found.get(f"V1.slope.alpha={alpha:g}") for alpha in ALPHAS]
    if None in slopes:
        return ""
    numbers = ", ".join(fixed(row["measured"], 2) for row in slopes if row)
    ratios = [found.get(f"V1.ratio-of-means.alpha={alpha:g}") for alpha in ALPHAS]
    unknown = all(row is not None and row["verdict"] == "undecided" for row in ratios)
    return (
        f"**Does the Hessian describe noise of the size in use?** Of large curvature {numbers} is left at α = "
        f"{', '.join(map(str, ALPHAS))} (SmolLM2, texts like these; 1 is the quadratic theory)."
        + (" What is left of the mean curvature, which training averages, is undecided at each." if unknown else "")
    )


def _noise(study: StudyResults) -> str:
    rows = _end(study, "uniform", "none")
    if not {"tr G", "held-out loss"} <= set(rows):
        return ""
    return (
        "**What does noise change?** Uniform (NEFTune) minus no noise: Δ tr G = "
        f"{_said(rows['tr G'])}, Δ held-out loss = {_said(rows['held-out loss'])} nats ({_where(study)})."
    )


def _mirror(study: StudyResults) -> str:
    rows = _end(study, "symnoise", "independent-pair")
    if not {"training loss", "tr G", "held-out loss"} <= set(rows):
        return ""
    return (
        "**What does the mirror add?** SymNoise minus two independent draws, which cost the same: "
        f"Δ training loss = {_said(rows['training loss'])} nats, Δ tr G = {_said(rows['tr G'])}, Δ held-out loss = "
        f"{_said(rows['held-out loss'])} nats."
    )


def _penalty(study: StudyResults) -> str:
    rows = _end(study, "penalty", "none")
    if not rows:
        return ""
    changes = ", ".join(f"Δ {part} = {number(rows[part]['mean'], 3)}" for part in ("tr H", "tr G"))
    return (
        f"**Is a lower tr H flatter?** A penalty on it, minus no noise: {changes}, Δ held-out loss = "
        f"{fixed(rows['held-out loss']['mean'], 2)} nats. So tr H is shown as tr G + tr R."
    )


def _open(study: StudyResults) -> str:
    row = _end(study, "symnoise", "independent-pair").get("held-out loss")
    if row is None:
        return ""
    needed = pairs_needed(WORTH_KNOWING, row["sd"]) if row["sd"] > 0 else math.nan
    said = (
        f"**How many seeds decide the mirror?** To find {WORTH_KNOWING:g} nats of held-out loss with 80 %, about "
        f"{needed:.0f} pairs by the spread seen; there are {row['pairs']:.0f}."
    )
    if not study.tables["contrasts"].primary.any():
        said += " No endpoints were named before the runs, so every contrast here is exploratory."
    return said


def _end(study: StudyResults, first: str, second: str) -> dict[str, dict[Any, Any]]:
    """measure -> the contrast's row at the end of training, at the study's own α."""
    compared = study.at_own_alpha(study.tables["contrasts"])
    own = compared[(compared["first"] == first) & (compared.second == second) & (compared.when == "end")]
    return {str(row["measure"]): row for row in own[own.decoding.isna()].to_dict("records")}


def _said(row: dict[Any, Any]) -> str:
    mean, interval = measurement(row["mean"], row["low"], row["high"])
    return f"{mean} ({interval})"


def _where(study: StudyResults) -> str:
    pairs = int(study.tables["contrasts"].pairs.max())
    return f"study `{STUDY}`, α = {study.facts['alpha']:g}, {pairs} paired seeds, 95 % intervals"
