"""What was found: a question, an answer in words computed from intervals, and the numbers that it rests on.

The README has the answers and a table of studies, docs/results.md all of it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.family_ledgers import MAIN, Slope
from analysis.length import WORDS
from analysis.paper.published import Budgets, Length, Published, StudyResults
from analysis.study.claims import MIRRORED
from result_schema.study import LARGEST_MARGIN, dials_of
from symnoise.plot.numbers import fixed, listed, number, with_interval
from symnoise.theory import counts
from symnoise.theory.ledger import slug, verdict

STUDY = "micro"  # the study with all arms
ALPHAS = (5, 10, 15)  # the training α
QUOTED = {"micro": 15.0, "smollm2": 10.0}  # α of the variance budgets that are quoted: that of the model's studies
# study -> model and data in words, and its single draw: what noise does depends on them.
REGIMES = {
    "transfer": ("Small Llama pretrained on conversations, fine-tuned on instructions", "rademacher"),
    "mirror": ("Small Llama pretrained on rows like those that it is fine-tuned on", "rademacher"),
    "dials": ("The same, by weights of the two parts", "dials-1-1"),
    "dials-one-pass": ("The same, rows seen once", "dials-1-1"),
    "smollm2-mirror": ("SmolLM2 on Alpaca", "uniform"),
}
ODD = "dials-0-1"  # the odd part of a draw alone; SymNoise is the even part alone
ENDS = ("clean training loss", "held-out loss", "tr G")
HELD_OUT, CURVED = ENDS[1:]
PER = 1000  # held-out losses in the README's table are in thousandths of a nat

_BY = {"holds": "holds by", "fails": "fails by", "undecided": "is undecided by"}


@dataclass(frozen=True)
class Finding:
    """answer: in words, computed from intervals.  told: sentences with the numbers behind it.  lead: what they are."""

    question: str
    answer: str
    told: tuple[str, ...]
    lead: str = ""

    @property
    def short(self) -> str:
        """A line of a list."""
        return f"- **{self.question}** {self.answer}"

    @property
    def whole(self) -> str:
        """The line with its numbers as a list below it."""
        return "\n".join([f"{self.short} {self.lead}".rstrip(), *(f"    - {part}" for part in self.told)])


def findings(published: Published) -> list[Finding]:
    """What noise does, what the mirror adds, what curvature has to do with it; nothing on studies not yet run."""
    study = published.mechanism.get
    made = [
        _noise(published.mechanism),
        _parts(published.mechanism),
        _mirror(published.mechanism),
        _diffusion(published),
        _of(_adamw_in_parts, study("divisor")),
        _of(_law_or_size, study("scale")),
        _of(_wrong_labels, study("micro-r-flips")),
        _validity(published.rows, published.slopes),
        _of(_penalty, published.studies.get(STUDY)),
        _of(_length, published.length),
    ]
    return [finding for finding in made if finding]


def regimes(found: Mapping[str, StudyResults | None]) -> str:
    """A table of studies: what fine-tuning itself does to the held-out loss, what noise and its parts change there, and
    the same for tr G; "" if none has been run."""
    parts = []
    for measure, unit, times in ((HELD_OUT, "10⁻³ nats", PER), (CURVED, "", 1)):
        heads = ["by fine-tuning"] if measure == HELD_OUT else []
        heads += ["one draw − none", "its odd part − none", "SymNoise − none", "SymNoise − two draws"]
        lines = []
        for name, (where, draw) in REGIMES.items():
            if (study := found.get(name)) is None:
                continue
            pairs = [(draw, "none"), (ODD, "none"), ("symnoise", "none"), *MIRRORED]
            cells = [_cell(_end(study, *pair).get(measure), times) for pair in pairs]
            own = [_cell({"mean": _by_training(study)}, times)] if measure == HELD_OUT else []
            lines.append([f"{where} (`{name}`)", *own, *cells])
        if lines:
            shown = [f"Δ {measure}{', ' if unit else ''}{unit}", *heads]
            parts.append("\n".join(map(_line, [shown, ["---"] * len(shown), *lines])))
    return "\n\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(row: Mapping[Any, Any] | None, times: int) -> str:
    """A difference with its interval if it has one, in units of 1/times; an en dash where it has not been measured."""
    if row is None:
        return "–"
    scaled = {key: times * row[key] for key in ("mean", "low", "high") if key in row}
    return with_interval(scaled) if "low" in scaled else number(scaled["mean"], 2)


def _by_training(study: StudyResults) -> float:
    """The held-out loss at the end without noise, minus that before training; mean over seeds."""
    means = study.tables["arms"].query("arm == 'none' and when == 'end' and measure == @HELD_OUT")
    return float(means["mean"].iloc[0]) - study.untrained.loss if study.untrained and len(means) else float("nan")


def _of(tell: Callable[[Any], Finding | None], found: Any) -> Finding | None:
    return None if found is None else tell(found)


def _noise(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """One draw and SymNoise against no noise, by study, with what training itself did to the held-out loss."""
    said, draws, pairs = [], {}, {}
    for name, (where, draw) in REGIMES.items():
        study = found.get(name)
        shown = [(draw, "none"), ("symnoise", "none")]
        if study is None or not (part := _side_by_side(study, shown, HELD_OUT, CURVED)):
            continue
        draws[name], pairs[name] = (_end(study, *pair) for pair in shown)
        before = study.untrained
        best = f"; held-out loss lowest before training in {before.best} of {before.runs} runs" if before else ""
        said.append(
            f"{where} (study `{name}`, α = {study.facts['alpha']:g}, {part['seeds']} seeds{best}): Δ held-out loss = "
            f"{part[HELD_OUT]} nats, Δ tr G = {part[CURVED]}."
        )
    if not said:
        return None
    answer = _by_two({"one draw": draws, "SymNoise": pairs})
    lead = "One draw minus no noise, then SymNoise minus no noise:"
    return Finding("What does noise do?", answer, tuple(said), lead)


def _parts(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """The even and the odd part of a draw, each alone, against no noise; then with larger weights."""
    said, evens, odds = [], {}, {}
    for name in REGIMES:
        study, shown = found.get(name), [("symnoise", "none"), (ODD, "none")]
        if study is None or not (part := _side_by_side(study, shown, HELD_OUT, CURVED)):
            continue
        evens[name], odds[name] = (_end(study, *pair) for pair in shown)
        said.append(
            f"Study `{name}`, {part['seeds']} seeds: Δ held-out loss = {part[HELD_OUT]} nats, Δ tr G = {part[CURVED]}."
        )
    if not said:
        return None
    for name in ("transfer-dials", "dials", "dials-one-pass"):
        study, shown = found.get(name), [("dials-2-0", "none"), ("dials-0-3", "none")]
        if study is not None and (part := _side_by_side(study, shown, HELD_OUT, CURVED)):
            said.append(
                f"Twice the even part, then three times the odd part (study `{name}`, {part['seeds']} seeds): Δ "
                f"held-out loss = {part[HELD_OUT]} nats, Δ tr G = {part[CURVED]}."
            )
    answer = _by_two({"the even part alone": evens, "the odd part alone": odds})
    lead = "The even part alone, then the odd part alone, minus no noise, in the small Llama:"
    return Finding("Which part of a draw does it?", answer, tuple(said), lead)


def _mirror(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """SymNoise against two draws, by study, and its neighbours."""
    rows, said = {}, []
    for name in REGIMES:
        study = found.get(name)
        if study is None or not (part := _side_by_side(study, MIRRORED, *ENDS)):
            continue
        rows[name] = _end(study, *MIRRORED[0])
        losses = f"Δ training loss = {part[ENDS[0]]} nats, Δ held-out loss = {part[HELD_OUT]} nats"
        said.append(f"Study `{name}`, {part['seeds']} seeds: {losses}, Δ tr G = {part[CURVED]}.")
    if not rows:
        return None
    answer = f"Against two independent draws, which cost the same: {_answer(rows, *ENDS)}."
    near = found.get("neighbours")
    lead = "SymNoise minus two independent draws (training loss on the same rows without noise):"
    told = (*said, *filter(None, [_neighbours(near) if near else ""]))
    return Finding("What does the mirror add?", answer, told, lead)


def _neighbours(study: StudyResults) -> str:
    """SymNoise's contrasts with two published methods that also take two passes."""
    pairs = [("symnoise", other) for other in ("r3f", "weight-pair")]
    if not (said := _side_by_side(study, pairs, HELD_OUT, CURVED)):
        return ""
    return (
        "SymNoise minus R3F, which penalises the divergence between predictions under noise, and minus NSO, which "
        f"mirrors noise in the weights, both at its cost: Δ held-out loss = {said[HELD_OUT]} nats; Δ tr G = "
        f"{said[CURVED]} ({said['seeds']} seeds)."
    )


# Studies of learning rates -> how they are told.
RATED = {"transfer-step-size": "AdamW", "step-size": "AdamW", "step-size-sgd": "SGD"}
RATES = ("", "-rate-2", "-rate-4")


def _diffusion(published: Published) -> Finding | None:
    """Whether the mirror acts through noise in the gradient: by learning rate, by batch size, and beside batches."""
    said, growth = [], {}
    for name, optimiser in RATED.items():
        study, pairs = published.mechanism.get(name), [("symnoise" + at, "rademacher" + at) for at in RATES]
        if study is None or not (part := _side_by_side(study, pairs, *ENDS[:2])):
            continue
        slow, fast = (_end(study, *pair)[ENDS[0]] for pair in (pairs[0], pairs[-1]))
        growth[f"{optimiser}, `{name}`"] = _larger(fast, slow)
        said.append(
            f"By {optimiser} (study `{name}`): Δ training loss = {part[ENDS[0]]} nats; Δ held-out loss = "
            f"{part[HELD_OUT]} nats ({part['seeds']} seeds)."
        )
    if said:
        said[0] = (
            "SymNoise minus one draw, at 1, 2 and 4 times the learning rate with as many fewer steps (rate times steps "
            "being equal, what noise in the gradient does grows with the rate, what its mean does is the same). "
            + said[0]
        )
    batches = published.mechanism.get("batch-match")
    told = [*filter(None, [_variance(published.budgets), _batches(batches) if batches else ""]), *said]
    if not told:
        return None
    how = [f"{how} ({by})" for by, how in growth.items()]
    answer = how and (
        "Noise in the gradient would do four times as much at four times the learning rate, with a quarter of the "
        f"steps. There the mirror changes the training loss {listed(how)}."
    )
    return Finding("Is it gradient noise?", answer or "No learning rates have been compared.", tuple(told))


def _larger(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> str:
    """Whether `one` is further from 0 than `other`, by intervals that do not overlap."""
    (low, high), (least, most) = (sorted((abs(row["low"]), abs(row["high"]))) for row in (one, other))
    return "more" if low > most else "less" if high < least else "as much, within error"


def _batches(study: StudyResults) -> str:
    """A pair against one draw in larger batches."""
    pairs = [("symnoise", f"rademacher-batch-{times}") for times in ("1.125", "1.25", "1.5")]
    if not (said := _side_by_side(study, pairs, ENDS[0])):
        return ""
    return (
        f"SymNoise minus one draw in batches larger by an eighth, a quarter and a half (α = {study.facts['alpha']:g}): "
        f"Δ training loss = {said[ENDS[0]]} nats ({said['seeds']} seeds); if variance were all, it would "
        "be 0 where ρ is that share. In as many steps, larger batches also pass over the rows more often, and batches "
        "that do not divide the rows end each pass with a small one."
    )


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


def _adamw_in_parts(study: StudyResults) -> Finding | None:
    """What the mirror changes through AdamW's divisor alone, and through its mean of gradients alone."""
    divisor = [("draw-at-pair-size", "rademacher"), ("symnoise", "pair-at-draw-size")]
    steps = [("pair-at-draw-size", "rademacher"), ("symnoise", "draw-at-pair-size")]
    measures = ENDS[:2]
    parts = [_side_by_side(study, pairs, *measures) for pairs in (divisor, steps)]
    if not all(parts):
        return None
    said = [f"Δ training loss = {part[measures[0]]} nats, Δ held-out loss = {part[measures[1]]} nats" for part in parts]
    larger, steadier = (
        _answer({f"{first} − {second}": _end(study, first, second) for first, second in pairs}, *measures)
        for pairs in (divisor, steps)
    )
    told = (
        "AdamW divides by the gradient's root mean square, which noise enlarges. From one draw to a mirrored pair in "
        f"the size of that divisor alone (with gradients of one draw, then of the pair): {said[0]}.",
        "In the gradients, and the pattern of the divisor with them (at one draw's size, then at the pair's): "
        f"{said[1]} ({parts[0]['seeds']} seeds).",
    )
    answer = f"From one draw to a pair, by the size of its divisor: {larger}; by its gradients: {steadier}."
    return Finding("By which part of AdamW?", answer, told)


def _law_or_size(study: StudyResults) -> Finding | None:
    """The raw Gaussian against uniform noise of its own size, and at its own α; O3's margin decides what is equal."""
    measures = ENDS[:2]
    of_size, of_alpha = (
        _side_by_side(study, [("gaussian-raw", second)], *measures) for second in ("uniform-at-raw-size", "uniform")
    )
    if not (of_size and of_alpha):
        return None
    same, noise = _end(study, "gaussian-raw", "uniform-at-raw-size"), _end(study, "uniform", "none")
    margins = {measure: LARGEST_MARGIN * abs(noise[measure]["mean"]) for measure in measures}
    found = {verdict("within", 0, same[m]["low"], same[m]["high"], margin) for m, margin in margins.items()}
    equal = "equal" if found == {"holds"} else "not shown to be equal"
    larger = _answer({"": _end(study, "gaussian-raw", "uniform")}, *measures)
    answer = (
        f"The raw Gaussian and uniform noise of the same variance: {equal} to within {100 * LARGEST_MARGIN:g} % of "
        f"what uniform noise changes. At the same α the Gaussian has three times the variance: {larger}."
    )
    told = (
        "The raw Gaussian minus uniform noise of the same variance: Δ training loss = "
        f"{of_size[measures[0]]} nats, Δ held-out loss = {of_size[measures[1]]} nats; minus uniform noise at the same "
        f"α: {of_alpha[measures[0]]} and {of_alpha[measures[1]]} nats ({of_size['seeds']} seeds).",
    )
    return Finding("Is it the law of the noise, or its size?", answer, told)


def _wrong_labels(study: StudyResults) -> Finding | None:
    """What one draw and the mirror change where some target tokens are random."""
    pairs, measures = [("uniform", "none"), *MIRRORED], (HELD_OUT, ENDS[0])
    if not (said := _side_by_side(study, pairs, *measures)):
        return None
    share = study.facts["settings"]["training"]["flips"]
    noise, mirror = (_answer({"": _end(study, *pair)}, *measures) for pair in pairs)
    where = f"{100 * share:g} % of the target tokens are random"
    told = (
        f"Where {where}, at α = {study.facts['alpha']:g}: Δ held-out loss = {said[HELD_OUT]} nats, Δ training loss = "
        f"{said[ENDS[0]]} nats, for one draw minus no noise and SymNoise minus two draws ({said['seeds']} seeds).",
    )
    answer = f"Where {where}: by one draw {noise}; by the mirror {mirror}."
    return Finding("Does noise help against wrong labels?", answer, told)


def _validity(rows: list[dict[str, Any]], others: list[Slope]) -> Finding | None:
    found = {row["key"]: row for row in rows if row["subject"] == "model"}
    slopes = [found.get(f"V1.slope.alpha={alpha:g}") for alpha in ALPHAS]
    if None in slopes:
        return None
    numbers = ", ".join(fixed(row["measured"], 2) for row in slopes if row)
    answer = (
        f"The remaining share of large curvature (attenuation slope) is {numbers} at α = "
        f"{', '.join(map(str, ALPHAS))} (SmolLM2, texts like these); the quadratic theory predicts 1."
    )
    ratios = [found.get(f"V1.ratio-of-means.alpha={alpha:g}") for alpha in ALPHAS]
    unknown = all(row is not None and None in (row["low"], row["high"]) for row in ratios)
    told = ["Of the mean curvature, which training averages, these texts bound the share at no α."] if unknown else []
    if models := slopes_by_model(others):
        told.append(
            "The same α is noise of another size in another model: r, its norm over that of a token's embedding, is "
            f"{models[MAIN]} in SmolLM2. The slope is {models['others']}."
        )
    return Finding("Does the Hessian describe noise of the size in use?", answer, tuple(told))


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


def _penalty(study: StudyResults) -> Finding | None:
    if not (rows := _end(study, "penalty", "none")):
        return None
    measures = ("tr H", CURVED, HELD_OUT)
    changes = ", ".join(f"Δ {part} = {with_interval(rows[part])}" for part in measures)
    pairs = int(study.tables["contrasts"].pairs.max())
    where = f"study `{study.facts['name']}`, α = {study.facts['alpha']:g}, {pairs} paired seeds"
    told = (f"The penalty minus no noise ({where}): {changes} nats.",)
    answer = f"By a penalty on tr H: {_answer({'': rows}, *measures)}. tr H is reported here as tr G + tr R."
    return Finding("Is a lower tr H flatter?", answer, told)


def _length(found: Length) -> Finding:
    """The first pair's gain: as published, the least and the most that is left of it, and Z1's verdicts on it."""
    gains = found.gains[found.gains.noisy == found.gains.noisy.iloc[0]].set_index("adjustment")
    raw, adjusted = gains.loc["raw"], gains.drop("raw").sort_values("mean")
    times = number(raw.characters_noisy / raw.characters_plain, 2)
    ends = [adjusted.iloc[0], adjusted.iloc[-1]]
    left = " to ".join(f"{with_interval(end.to_dict())} ({WORDS[str(end.name)]})" for end in ends)
    verdicts = counts([row for row in found.rows if slug(raw.noisy) in row["key"]])
    said = ", ".join(f"{_BY[word]} {n}" for word, n in verdicts.items() if n)
    least, most, points = (fixed(end["mean"], 1) for end in (*ends, raw))
    answer = (
        f"Of {points} points in AlpacaEval’s public preferences (LLaMA-1-7B, Alpaca), with replies {times} times as "
        f"long and decoded in another way, {least} to {most} are left at equal length, by adjustment. That at most "
        f"half is left (Z1) {said} of {len(adjusted)}."
    )
    told = (f"It is {with_interval(raw.to_dict())} points as published; at equal length {left}.",)
    return Finding("Is NEFTune's gain at 7B one of length?", answer, told)


Rows = Mapping[str, Mapping[Any, Any]]  # measure -> the row of a contrast


def _signs(found: Mapping[str, Rows], measure: str) -> str:
    """`lower in a and b, not told apart in c`, by the 95 % interval of each contrast: names -> rows. One word where all
    agree."""
    names: dict[str, list[str]] = {"lower": [], "higher": [], "not told apart": []}
    for name, rows in found.items():
        row = rows[measure]
        names["higher" if row["low"] > 0 else "lower" if row["high"] < 0 else "not told apart"].append(f"`{name}`")
    said = {word: own for word, own in names.items() if own}
    return ", ".join(word if len(said) == 1 else f"{word} in {listed(own)}" for word, own in said.items())


def _by_two(found: Mapping[str, Mapping[str, Rows]]) -> str:
    """What two kinds of noise change, each with its contrasts by study; said once where both do the same."""
    said = []
    for measure in (HELD_OUT, CURVED):
        signs = {kind: _signs(rows, measure) for kind, rows in found.items()}
        parts = [f"by {kind} {sign}" for kind, sign in signs.items()]
        once = f"by either {next(iter(signs.values()))}"
        named = measure.replace("held", "Held")  # tr G keeps its small letter
        said.append(f"{named}: {once if len(set(signs.values())) == 1 else '; '.join(parts)}.")
    return " ".join(said)


def _answer(found: Mapping[str, Rows], *measures: str) -> str:
    """`training loss lower, tr G not told apart`: `_signs` of each measure."""
    return ", ".join(f"{measure.removeprefix('clean ')} {_signs(found, measure)}" for measure in measures)


def _side_by_side(study: StudyResults, pairs: Iterable[tuple[str, str]], *measures: str) -> dict[str, str]:
    """measure -> the contrasts of the pairs in their order; and how many seeds. Empty if one has not been run."""
    rows = [_end(study, *pair) for pair in pairs]
    if not all(set(measures) <= set(row) for row in rows):
        return {}
    found = {measure: listed([with_interval(row[measure]) for row in rows]) for measure in measures}
    return found | {"seeds": str(int(rows[0][measures[0]]["pairs"]))}


def _end(study: StudyResults, first: str, second: str) -> dict[str, dict[Any, Any]]:
    """measure -> the contrast's row at the end of training, at the study's own α. Against no noise, an arm that is a
    cell of the plane of dials has that cell's where it has no contrast."""
    compared = study.at_own_alpha(study.tables["contrasts"])
    own = compared[(compared["first"] == first) & (compared.second == second) & (compared.when == "end")]
    rows = {str(row["measure"]): row for row in own[own.decoding.isna()].to_dict("records")}
    cells = study.frames.get("dials", pd.DataFrame())
    weights = dials_of(first)
    if second == "none" and weights and len(cells):
        at = cells[(cells.even == weights[0]) & (cells.odd == weights[1])].rename(columns={"seeds": "pairs"})
        rows = {str(row["measure"]): row for row in at.to_dict("records")} | rows
    return rows
