"""The findings in plain sentences with their numbers, for the top of the README and the paper's abstract."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.family_ledgers import MAIN, Slope
from analysis.length import WORDS
from analysis.paper.published import Budgets, Length, Published, StudyResults
from analysis.study.claims import MIRRORED
from result_schema.study import LARGEST_MARGIN
from symnoise.plot.numbers import fixed, listed, number, with_interval
from symnoise.theory import counts
from symnoise.theory.ledger import slug, verdict

STUDY = "micro"  # the study with all arms
ALPHAS = (5, 10, 15)  # the training α
QUOTED = {"micro": 15.0, "smollm2": 10.0}  # α of the variance budgets that are quoted: that of the model's studies
# study -> model and data in words, and its single draw: what noise does depends on them.
REGIMES = {
    "transfer": ("A small Llama, pretrained on conversations and fine-tuned on instructions", "rademacher"),
    "mirror": ("The same model pretrained on rows like those that it is fine-tuned on", "rademacher"),
    "smollm2-mirror": ("SmolLM2 on Alpaca", "uniform"),
}
ENDS = ("clean training loss", "held-out loss", "tr G")

_BY = {"holds": "holds by", "fails": "fails by", "undecided": "is undecided by"}


def findings(published: Published) -> list[str]:
    """What noise does, what the mirror adds, what curvature has to do with it; nothing on studies not yet run."""
    scaled = {"step-size": _rates, "step-size-sgd": _rates_of_sgd, "batch-match": _batches}
    tested = [tell(study) for name, tell in scaled.items() if (study := published.mechanism.get(name))]
    arms = published.studies.get(STUDY)
    said = [
        _noise(published.mechanism),
        _parts(published.mechanism),
        _told(published, scale=_law_or_size),
        _told(published, micro_r_flips=_wrong_labels),
        _mirror(published.mechanism),
        _listed("**Is it gradient noise?**", [_variance(published.budgets), *tested]),
    ]
    said += [_told(published, divisor=_adamw_in_parts), _validity(published.rows, published.slopes)]
    said += [_penalty(arms) if arms else "", _length(published.length) if published.length else ""]
    return [sentence for sentence in said if sentence]


def _listed(head: str, parts: Sequence[str]) -> str:
    """The parts as a list below the head; "" without any."""
    return head + "".join(f"\n    - {part}" for part in parts if part) if any(parts) else ""


def _told(published: Published, **tell: Callable[[StudyResults], str]) -> str:
    """What each function says of its study, for those that have been run; "_" stands for "-" in their names."""
    found = {name: published.mechanism.get(name.replace("_", "-")) for name in tell}
    return " ".join(filter(None, (tell[name](study) for name, study in found.items() if study)))


def _validity(rows: list[dict[str, Any]], others: list[Slope]) -> str:
    found = {row["key"]: row for row in rows if row["subject"] == "model"}
    slopes = [found.get(f"V1.slope.alpha={alpha:g}") for alpha in ALPHAS]
    if None in slopes:
        return ""
    numbers = ", ".join(fixed(row["measured"], 2) for row in slopes if row)
    ratios = [found.get(f"V1.ratio-of-means.alpha={alpha:g}") for alpha in ALPHAS]
    unknown = all(row is not None and None in (row["low"], row["high"]) for row in ratios)
    return (
        "**Does the Hessian describe noise of the size in use?** The remaining share of large curvature (attenuation "
        f"slope) is {numbers} at α = {', '.join(map(str, ALPHAS))} (SmolLM2, texts like these; the quadratic theory "
        "predicts 1)."
        + (" Of the mean curvature, which training averages, these texts bound the share at no α." if unknown else "")
        + _in_order_of_r(others)
    )


def _in_order_of_r(found: list[Slope]) -> str:
    """How large the noise is in the main model, and the slopes of others with their r."""
    told = slopes_by_model(found)
    if not told:
        return ""
    return (
        " The same α is noise of another size in another model: r, its norm over that of a token's embedding, is "
        f"{told[MAIN]} in SmolLM2. The slope is {told['others']}."
    )


def slopes_by_model(found: list[Slope]) -> dict[str, str]:
    """`MAIN`: the r of the main model; "others": slopes and r of the others, smaller r first. Empty without
    either."""

    def listed_of(model: str) -> tuple[str, str]:
        own = [one for one in found if one.model == model]
        return ", ".join(fixed(one.row["measured"], 2) for one in own), ", ".join(number(one.r, 2) for one in own)

    parts = {model: listed_of(model) for model in dict.fromkeys(one.model for one in found)}
    if MAIN not in parts or len(parts) == 1:
        return {}
    _, r = parts.pop(MAIN)
    others = [f"{slopes} in {model}, where r is {ratios}" for model, (slopes, ratios) in parts.items()]
    return {MAIN: r, "others": "; ".join(others)}


def _noise(found: Mapping[str, StudyResults | None]) -> str:
    """One draw and SymNoise against no noise, by model and data, with what training itself did to the held-out loss."""
    said = []
    for name, (where, draw) in REGIMES.items():
        study = found.get(name)
        pairs = [(draw, "none"), ("symnoise", "none")]
        if study is None or not (part := _side_by_side(study, pairs, "held-out loss", "tr G")):
            continue
        before = study.untrained
        best = f"; held-out loss lowest before training in {before.best} of {before.runs} runs" if before else ""
        said.append(
            f"{where} (study `{name}`, α = {study.facts['alpha']:g}, {part['seeds']} seeds{best}): Δ held-out loss = "
            f"{part['held-out loss']} nats, Δ tr G = {part['tr G']}."
        )
    return _listed("**What does noise do?** One draw minus no noise, then SymNoise minus no noise:", said)


def _parts(found: Mapping[str, StudyResults | None]) -> str:
    """The even and the odd part of a draw, each alone, against no noise."""
    measures, said = ("held-out loss", "tr G"), []
    if study := found.get("transfer"):
        part = _side_by_side(study, [("symnoise", "none"), ("dials-0-1", "none")], *measures)
        said += [("Where fine-tuning lowers the held-out loss (study `transfer`", part)] if part else []
    for name, where in (("dials", "Where it only raises it"), ("dials-one-pass", "The same, rows seen once")):
        if (study := found.get(name)) and (part := _cells(study, *measures)):
            said.append((f"{where} (study `{name}`", part))
    told = [
        f"{where}, {part['seeds']} seeds): Δ held-out loss = {part['held-out loss']} nats, Δ tr G = {part['tr G']}."
        for where, part in said
    ]
    return _listed(
        "**Which part of a draw does it?** Its even part alone, then its odd part alone, minus no noise, in the small "
        "Llama:",
        told,
    )


def _cells(study: StudyResults, *measures: str) -> dict[str, str]:
    """measure -> the cells (1, 0) and (0, 1) of the dials against (0, 0); and how many seeds. Empty without them."""
    cells = study.frames.get("dials", pd.DataFrame())
    rows = {(row["measure"], row["even"], row["odd"]): row for row in cells.to_dict("records")}
    if not all((measure, *cell) in rows for measure in measures for cell in ((1, 0), (0, 1))):
        return {}
    found = {m: f"{with_interval(rows[m, 1, 0])} and {with_interval(rows[m, 0, 1])}" for m in measures}
    return found | {"seeds": str(rows[measures[0], 1, 0]["seeds"])}


def _mirror(found: Mapping[str, StudyResults | None]) -> str:
    """SymNoise against two draws, by model and data, and its neighbours. The answer is that of all the former."""
    known = {name: study for name in REGIMES if (study := found.get(name))}
    parts = {name: part for name, study in known.items() if (part := _side_by_side(study, MIRRORED, *ENDS))}
    if not parts:
        return ""
    rows = [_end(known[name], *pair) for name in parts for pair in MIRRORED]
    told = [
        f"Study `{name}`, {part['seeds']} seeds: Δ training loss = {part['clean training loss']} nats, Δ held-out loss "
        f"= {part['held-out loss']} nats, Δ tr G = {part['tr G']}."
        for name, part in parts.items()
    ]
    near = found.get("neighbours")
    return _listed(
        f"**What does the mirror add?** With it: {_answer(rows, *ENDS)}. SymNoise minus two independent draws, which "
        "cost the same (training loss on the same rows without noise):",
        [*told, _neighbours(near) if near else ""],
    )


def _rates(study: StudyResults) -> str:
    """What the mirror changes at several learning rates."""
    return (made := _by_rate(study)) and (
        "SymNoise minus one draw, at 1, 2 and 4 times the learning rate with as many fewer steps (rate times steps "
        "being equal, what noise in the gradient does grows with the rate, what its mean does is the same), by AdamW: "
        f"{made}."
    )


def _rates_of_sgd(study: StudyResults) -> str:
    return (made := _by_rate(study)) and f"The same by SGD: {made}."


def _by_rate(study: StudyResults) -> str:
    pairs = [("symnoise" + at, "rademacher" + at) for at in ("", "-rate-2", "-rate-4")]
    if not (said := _side_by_side(study, pairs, "clean training loss", "held-out loss")):
        return ""
    losses = f"Δ training loss = {said['clean training loss']} nats; Δ held-out loss = {said['held-out loss']} nats"
    return f"{losses} ({said['seeds']} seeds)"


def _adamw_in_parts(study: StudyResults) -> str:
    """What the mirror changes through AdamW's divisor alone, and through its mean of gradients alone."""
    divisor = [("draw-at-pair-size", "rademacher"), ("symnoise", "pair-at-draw-size")]
    steps = [("pair-at-draw-size", "rademacher"), ("symnoise", "draw-at-pair-size")]
    measures = ("clean training loss", "held-out loss")
    parts = [_side_by_side(study, pairs, *measures) for pairs in (divisor, steps)]
    if not all(parts):
        return ""
    said = [f"Δ training loss = {part[measures[0]]} nats, Δ held-out loss = {part[measures[1]]} nats" for part in parts]
    larger, steadier = (_answer([_end(study, *pair) for pair in pairs], *measures) for pairs in (divisor, steps))
    return (
        f"**By which part of AdamW?** By the size of its divisor: {larger}; by its gradients: {steadier}. It divides "
        "by the gradient's root mean square, which noise enlarges. From one draw to a mirrored pair in the size of "
        f"that divisor alone (with gradients of one draw, then of the pair): {said[0]}; in the gradients, and the "
        f"pattern of the divisor with them (at one draw's size, then at the pair's): {said[1]} ({parts[0]['seeds']} "
        "seeds)."
    )


def _batches(study: StudyResults) -> str:
    """A pair against one draw in larger batches."""
    pairs = [("symnoise", f"rademacher-batch-{times}") for times in ("1.125", "1.25", "1.5")]
    if not (said := _side_by_side(study, pairs, "clean training loss")):
        return ""
    return (
        f"SymNoise minus one draw in batches larger by an eighth, a quarter and a half (α = {study.facts['alpha']:g}): "
        f"Δ training loss = {said['clean training loss']} nats ({said['seeds']} seeds); if variance were all, it would "
        "be 0 where ρ is that share. In as many steps, larger batches also pass over the rows more often, and batches "
        "that do not divide the rows end each pass with a small one."
    )


def _neighbours(study: StudyResults) -> str:
    """SymNoise's contrasts with two published methods that also take two passes."""
    pairs = [("symnoise", other) for other in ("r3f", "weight-pair")]
    if not (said := _side_by_side(study, pairs, "held-out loss", "tr G")):
        return ""
    return (
        "SymNoise minus R3F, which penalises the divergence between predictions under noise, and minus NSO, which "
        f"mirrors noise in the weights, both at its cost: Δ held-out loss = {said['held-out loss']} nats; Δ tr G = "
        f"{said['tr G']} ({said['seeds']} seeds)."
    )


def _answer(found: Sequence[dict[str, dict[Any, Any]]], *measures: str) -> str:
    """`training loss lower, held-out loss higher, tr G not told apart`: by the 95 % intervals of all the contrasts, and
    `lower in one study, higher in another` where they disagree."""
    said = []
    for measure in measures:
        rows = [contrasts[measure] for contrasts in found]
        signs = {1 if row["low"] > 0 else -1 if row["high"] < 0 else 0 for row in rows}
        word = "higher" if signs == {1} else "lower" if signs == {-1} else "not told apart"
        if {1, -1} <= signs:
            word = "lower in one study, higher in another"
        said.append(f"{measure.removeprefix('clean ')} {word}")
    return ", ".join(said)


def _side_by_side(study: StudyResults, pairs: Sequence[tuple[str, str]], *measures: str) -> dict[str, str]:
    """measure -> the contrasts of the pairs in their order; and how many seeds. Empty if one has not been run."""
    rows = [_end(study, *pair) for pair in pairs]
    if not all(set(measures) <= set(row) for row in rows):
        return {}
    found = {measure: listed([with_interval(row[measure]) for row in rows]) for measure in measures}
    return found | {"seeds": str(int(rows[0][measures[0]]["pairs"]))}


def _variance(found: Budgets | None) -> str:
    """ρ at `QUOTED`, at the first and the last point of each run."""
    if found is None:
        return ""
    said = []
    for run, own in found.points[found.points.quantity == "rho"].groupby("run", sort=False):
        at = own[own.alpha == QUOTED[str(run)]]
        ends = at.iloc[[0, -1]].drop_duplicates("when").rename(columns={"value": "mean"}).to_dict("records")
        values = " and ".join(f"{with_interval(row)} at the {row['when']}" for row in ends)
        said.append(f"{values} of training ({run}, α = {QUOTED[str(run)]:g})")
    return (
        "On the gradient’s variance a pair acts like a batch larger by at most 1 + ρ, and costs as much as one twice "
        f"as large; ρ is {listed(said)}."
    )


def _law_or_size(study: StudyResults) -> str:
    """The raw Gaussian against uniform noise of its own size, and at its own α; O3's margin decides what is equal."""
    measures = ("clean training loss", "held-out loss")
    of_size, of_alpha = (
        _side_by_side(study, [("gaussian-raw", second)], *measures) for second in ("uniform-at-raw-size", "uniform")
    )
    if not (of_size and of_alpha):
        return ""
    same, noise = _end(study, "gaussian-raw", "uniform-at-raw-size"), _end(study, "uniform", "none")
    margins = {measure: LARGEST_MARGIN * abs(noise[measure]["mean"]) for measure in measures}
    found = {verdict("within", 0, same[m]["low"], same[m]["high"], margin) for m, margin in margins.items()}
    equal = "equal" if found == {"holds"} else "not shown to be equal"
    within = f"{equal} to within {100 * LARGEST_MARGIN:g} % of what uniform noise changes"
    return (
        "**Is it the law of the noise, or its size?** The raw Gaussian minus uniform noise of the same variance: "
        f"Δ training loss = {of_size[measures[0]]} nats, Δ held-out loss = {of_size[measures[1]]} nats, {within}. "
        "The raw Gaussian minus uniform noise at the same α, a third of the variance: "
        f"{of_alpha[measures[0]]} and {of_alpha[measures[1]]} nats ({of_size['seeds']} seeds)."
    )


def _wrong_labels(study: StudyResults) -> str:
    """What one draw and the mirror change where some target tokens are random."""
    pairs, measures = [("uniform", "none"), *MIRRORED], ("held-out loss", "clean training loss")
    if not (said := _side_by_side(study, pairs, *measures)):
        return ""
    share = study.facts["settings"]["training"]["flips"]
    noise, mirror = (_answer([_end(study, *pair)], *measures) for pair in pairs)
    return (
        f"**Does noise help against wrong labels?** With one draw: {noise}; with the mirror: {mirror}. Where "
        f"{100 * share:g} % of the target tokens are random, at α = {study.facts['alpha']:g}: Δ held-out loss = "
        f"{said['held-out loss']} nats, Δ training loss = {said['clean training loss']} nats, for one draw minus no "
        f"noise and SymNoise minus two draws ({said['seeds']} seeds)."
    )


def _penalty(study: StudyResults) -> str:
    rows = _end(study, "penalty", "none")
    if not rows:
        return ""
    changes = ", ".join(f"Δ {part} = {with_interval(rows[part])}" for part in ("tr H", "tr G", "held-out loss"))
    return (
        f"**Is a lower tr H flatter?** A penalty on tr H minus no noise ({_where(study)}): {changes} nats. We "
        "therefore report tr H as tr G + tr R."
    )


def _length(found: Length) -> str:
    """The first pair's gain: as published, the least and the most that is left of it, and Z1's verdicts on it."""
    gains = found.gains[found.gains.noisy == found.gains.noisy.iloc[0]].set_index("adjustment")
    raw, adjusted = gains.loc["raw"], gains.drop("raw").sort_values("mean")
    times = number(raw.characters_noisy / raw.characters_plain, 2)
    ends = [adjusted.iloc[0], adjusted.iloc[-1]]
    left = " to ".join(f"{with_interval(end.to_dict())} ({WORDS[str(end.name)]})" for end in ends)
    verdicts = counts([row for row in found.rows if slug(raw.noisy) in row["key"]])
    said = ", ".join(f"{_BY[word]} {n}" for word, n in verdicts.items() if n)
    return (
        "**Is NEFTune's gain at 7B one of length?** In AlpacaEval's public GPT-4 preferences (LLaMA-1-7B, Alpaca) it "
        f"gains {with_interval(raw.to_dict())} points, with replies {times} times as long and decoded in another way. "
        f"At equal length it is {left}, by {len(adjusted)} adjustments. That at most half is left (Z1) {said} of them."
    )


def _end(study: StudyResults, first: str, second: str) -> dict[str, dict[Any, Any]]:
    """measure -> the contrast's row at the end of training, at the study's own α."""
    compared = study.at_own_alpha(study.tables["contrasts"])
    own = compared[(compared["first"] == first) & (compared.second == second) & (compared.when == "end")]
    return {str(row["measure"]): row for row in own[own.decoding.isna()].to_dict("records")}


def _where(study: StudyResults) -> str:
    pairs = int(study.tables["contrasts"].pairs.max())
    return f"study `{study.facts['name']}`, α = {study.facts['alpha']:g}, {pairs} paired seeds, 95 % intervals"
