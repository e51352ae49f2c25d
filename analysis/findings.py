"""What was found: a question, an answer in words computed from intervals, and the numbers that it rests on.

The README has the answers and a table of studies, docs/results.md all of it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.family_ledgers import MAIN, Slope
from analysis.length import WORDS
from analysis.paper.published import Budgets, Length, Published, StudyResults
from analysis.study.claims import MIRRORED
from result_schema.study import LARGEST_MARGIN, dials_of
from symnoise.core import student_t
from symnoise.plot.numbers import fixed, listed, number, with_interval
from symnoise.theory import LEVEL, counts
from symnoise.theory.ledger import slug, verdict

STUDY = "micro"  # the study with all arms
ALPHAS = (5, 10, 15)  # the training α
# Variance budget -> α that is quoted, that of the model's studies; and the model in words.
QUOTED = {"mirror": 15.0, "smollm2": 10.0}
_MODELS = {"mirror": "small Llama of `mirror`", "smollm2": "SmolLM2"}
# study -> model and data in words, and its single draw: what noise does depends on them.
REGIMES = {
    "transfer": ("Small Llama pretrained on conversations, fine-tuned on instructions", "rademacher"),
    "transfer-dolly": ("The same, fine-tuned on Dolly", "rademacher"),
    "transfer-open-platypus": ("The same, on a stand-in for OpenPlatypus", "rademacher"),
    "transfer-evol-instruct": ("The same, on Evol-Instruct", "rademacher"),
    "mirror": ("Small Llama pretrained on rows like those that it is fine-tuned on", "rademacher"),
    "dials": ("The first seeds of the same, by parts", "dials-1-1"),
    "dials-one-pass": ("The same model, rows seen once", "dials-1-1"),
    "micro": ("Small Llama with smaller embeddings, so that noise is larger beside them", "uniform"),
    "micro-one-pass": ("The same model, rows seen once", "uniform"),
    "smollm2-mirror": ("SmolLM2 on Alpaca", "uniform"),
}
REPEATED = "dials"  # shares its runs of SymNoise and of no noise with the study before it
OVER_DATA = ("transfer-dolly", "transfer-open-platypus", "transfer-evol-instruct")  # whose mean was named beforehand
ODD = "dials-0-1"  # the odd part of a draw alone; SymNoise is the even part alone
ENDS = ("clean training loss", "held-out loss", "tr G")
HELD_OUT, CURVED = ENDS[1:]
PER = 1000  # held-out losses in the README's table are in thousandths of a nat
SIGNIFICANT = 0.05  # Holm's p of an endpoint

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
    found = every(published)
    study = found.get
    made = [
        _noise(found),
        _against_a_draw(found),
        _parts(found),
        _mirror(found),
        _over_data(found),
        _stopped(found),
        _diffusion(published),
        _of(_adamw_in_parts, study("divisor")),
        _of(_law_or_size, study("scale")),
        _of(_wrong_labels, study("micro-r-flips")),
        _validity(published.rows, published.slopes),
        _of(_penalty, study(STUDY)),
        _of(_length, published.length),
    ]
    return [finding for finding in made if finding]


def every(published: Published) -> dict[str, StudyResults | None]:
    """All studies with several seeds, by name."""
    return published.studies | published.mechanism


def regimes(found: Mapping[str, StudyResults | None], measure: str) -> str:
    """A table of studies: the held-out loss, or tr G, without noise, and what noise and its parts change there; "" if
    none has been run."""
    times, unit = (PER, ", 10⁻³ nats") if measure == HELD_OUT else (1, "")
    itself = "fine-tuning alone: end (lowest)" if measure == HELD_OUT else "without noise"
    lines = []
    for name, (where, draw) in REGIMES.items():
        if (study := found.get(name)) is None or name == REPEATED:
            continue
        rows = [_end(study, *pair).get(measure) for pair in _compared(draw).values()]
        seeds = max(int(row["pairs"]) for row in rows if row)
        own = number(_mean_without_noise(study, measure), 2)
        if measure == HELD_OUT:
            own = "{} ({})".format(*(fixed(PER * by_training(study, when), 0) for when in ("end", "best")))
        facts = f"`{name}`, α = {study.facts['alpha']:g}, {seeds} seeds"
        lines.append([f"{where} ({facts})", own, *(_cell(row, times) for row in rows)])
    shown = [f"Δ {measure}{unit}", itself, *_compared("")]
    return "\n".join(map(_line, [shown, ["---"] * len(shown), *lines])) if lines else ""


def _compared(draw: str) -> dict[str, tuple[str, str]]:
    """The four comparisons of a study whose single draw is the arm `draw`, in words and as arms."""
    return {
        "one draw − none": (draw, "none"),
        "SymNoise − none": ("symnoise", "none"),
        "SymNoise − one draw": ("symnoise", draw),
        "SymNoise − two draws": MIRRORED[0],
    }


def in_short(published: Published) -> str:
    """In how many studies noise lowers or raises the held-out loss, the most that it gains where fine-tuning lowers it,
    and D1's verdicts; "" until each comparison has been made."""
    found = {name: study for name, study in every(published).items() if study and name in REGIMES and name != REPEATED}
    words: dict[str, list[str]] = {what: [] for what in _compared("")}
    gains = []
    for name, study in found.items():
        itself = by_training(study, "end")
        for what, pair in _compared(REGIMES[name][1]).items():
            if not (row := _end(study, *pair).get(HELD_OUT)):
                continue
            words[what].append(direction(row))
            if pair[1] == "none" and itself < 0 and words[what][-1] == "lower":
                gains.append((row["mean"], f"{fixed(-row['mean'], 3)} nats, beside {fixed(-itself, 2)} (`{name}`)"))
    if not all(words.values()):
        return ""
    lower, higher = ([own.count(word) for own in words.values()] for word in ("lower", "higher"))
    of = [len(own) for own in words.values()]
    gain = f"by at most {min(gains)[1]}" if gains else "in no study"
    verdicts = counts([row for study in every(published).values() if study for row in study.rows if row["id"] == "D1"])
    return (
        f"**In short.** At the end of training one draw lowers the held-out loss in {lower[0]} of {of[0]} studies and "
        f"raises it in {higher[0]}; SymNoise lowers it in {lower[1]} of {of[1]} and raises it in {higher[1]}. Compared "
        f"with one draw, at twice the cost, SymNoise lowers it in {lower[2]} of {of[2]} and raises it in {higher[2]}; "
        f"with two draws, at the same cost, it lowers it in {lower[3]} of {of[3]} and raises it in {higher[3]}. Where "
        f"fine-tuning itself lowers the held-out loss, noise lowers it further {gain}. That outcomes follow what noise "
        "does through curvature, and not what it does as noise in the gradient (claim D1), holds in "
        f"{verdicts['holds']} tests, fails in {verdicts['fails']} and is undecided in {verdicts['undecided']}. These "
        "are losses of small models, not win rates at 7B. `symnoise advise` proposes an α for yours."
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(row: Mapping[Any, Any] | None, times: int) -> str:
    """A difference with its interval, in units of 1/times, with a dagger where Holm's correction takes its
    significance, and a double one where it was no endpoint; an en dash where it has not been measured."""
    if row is None:
        return "–"
    taken = direction(row) == UNCLEAR and _leaves_out_0(row)
    mark = " †" if taken else "" if row.get("primary", False) else " ‡"
    return with_interval({key: times * row[key] for key in ("mean", "low", "high")}) + mark


def by_training(study: StudyResults, when: str) -> float:
    """The held-out loss without noise at the end, or at the lowest of each run ("best"), minus that before training;
    mean over seeds, NaN where it was not measured."""
    before = study.untrained.loss if study.untrained else math.nan
    return _mean_without_noise(study, HELD_OUT, when) - before


def _mean_without_noise(study: StudyResults, measure: str, when: str = "end") -> float:
    """NaN where it was not measured."""
    means = study.tables["arms"].query("arm == 'none' and when == @when and measure == @measure")
    return float(means["mean"].iloc[0]) if len(means) else float("nan")


def _of(tell: Callable[[Any], Finding | None], found: Any) -> Finding | None:
    return None if found is None else tell(found)


def _noise(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """One draw and SymNoise against no noise, by study, with what training itself did to the held-out loss."""
    said, draws, pairs = [], {}, {}
    for name, (where, draw) in REGIMES.items():
        study = found.get(name)
        shown = [(draw, "none"), ("symnoise", "none")]
        if study is None or name == REPEATED or not (part := _side_by_side(study, shown, HELD_OUT, CURVED)):
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
    lead = "One draw minus no noise, then SymNoise minus no noise:"
    return Finding("What does noise do?", _by_two({"one draw": draws, "SymNoise": pairs}), tuple(said), lead)


def _stopped(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """One draw, SymNoise and the mirror at each run's lowest held-out loss, where training lowers it at all."""
    compared: dict[str, dict[str, Rows]] = {"one draw": {}, "SymNoise": {}, "the mirror": {}}
    said, unused = [], []
    for name, (_, draw) in REGIMES.items():
        study, shown = found.get(name), [(draw, "none"), ("symnoise", "none"), *MIRRORED]
        if study is None or name == REPEATED:
            continue
        if study.untrained and 2 * study.untrained.best > study.untrained.runs:
            unused.append(f"`{name}`")
            continue
        rows = [_contrasts(study, *pair, "best") for pair in shown]
        if all(HELD_OUT in row for row in rows):
            for kind, row in zip(compared, rows, strict=True):
                compared[kind][name] = row
            said.append(f"Study `{name}`: {listed([with_interval(row[HELD_OUT]) for row in rows])} nats.")
    if not said:
        return None
    parts = [f"by {kind} {_signs(rows, HELD_OUT)}" for kind, rows in compared.items()]
    answer = f"At the lowest held-out loss of each run: {'; '.join(parts)}."
    answer += f" In {listed(unused)} the untrained model is best, so stopping early is not training." if unused else ""
    lead = (
        "Δ held-out loss at each run's lowest, chosen on the rows on which it is reported: one draw minus no noise, "
        "SymNoise minus no noise, SymNoise minus two draws."
    )
    return Finding("And with early stopping?", answer, tuple(said), lead)


def _against_a_draw(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """SymNoise minus one draw of each study's law."""
    rows, said = {}, []
    for name, (_, draw) in REGIMES.items():
        study = found.get(name)
        if study is None or not (part := _side_by_side(study, [("symnoise", draw)], HELD_OUT, CURVED)):
            continue
        rows[name] = _end(study, "symnoise", draw)
        said.append(f"Study `{name}` ({draw}): Δ held-out loss = {part[HELD_OUT]} nats, Δ tr G = {part[CURVED]}.")
    if not rows:
        return None
    answer = f"{_answer(rows, HELD_OUT, CURVED)}. It costs twice as much.".replace("held", "Held", 1)
    return Finding("Is SymNoise better than one draw?", answer, tuple(said), "SymNoise minus one draw:")


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
    twice = {}
    for name in ("transfer-dials", "dials", "dials-one-pass"):
        study, shown = found.get(name), [("dials-2-0", "none"), ("dials-0-3", "none")]
        if study is not None and (part := _side_by_side(study, shown, HELD_OUT, CURVED)):
            twice[name] = _end(study, *shown[0])
            said.append(
                f"Twice the even part, then three times the odd part (study `{name}`, {part['seeds']} seeds): Δ "
                f"held-out loss = {part[HELD_OUT]} nats, Δ tr G = {part[CURVED]}."
            )
    answer = _by_two({"the even part alone": evens, "the odd part alone": odds})
    answer += f" Held-out loss by twice the even part: {_signs(twice, HELD_OUT)}." if twice else ""
    lead = "The even part alone, then the odd part alone, minus no noise, in the small Llama:"
    return Finding("Which part of a draw does it?", answer, tuple(said), lead)


def _mirror(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """SymNoise against two draws, by study, and its neighbours."""
    rows, said = {}, []
    for name in REGIMES:
        study = found.get(name)
        if study is None or not _side_by_side(study, MIRRORED, HELD_OUT, CURVED):
            continue
        own = rows[name] = _end(study, *MIRRORED[0])
        parts = [f"Δ {_plain(m)} = {with_interval(own[m])}{' nats' * (m != CURVED)}" for m in ENDS if m in own]
        said.append(f"Study `{name}`, {int(own[CURVED]['pairs'])} seeds: {', '.join(parts)}.")
    if not rows:
        return None
    answer = f"Against two independent draws, which cost the same: {_answer(rows, *ENDS)}."
    near = found.get("neighbours")
    lead = "SymNoise minus two independent draws (training loss on the same rows without noise, where measured):"
    told = (*said, *filter(None, [_neighbours(near) if near else ""]))
    return Finding("What does the mirror add?", answer, told, lead)


def _over_data(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """The mean of three data sets, each with the same weight, once all are there."""
    studies = [study for name in OVER_DATA if (study := found.get(name))]
    if len(studies) < len(OVER_DATA):
        return None
    pairs = {"one draw": ("rademacher", "none"), "its odd part": (ODD, "none"), "SymNoise": ("symnoise", "none")}
    pairs |= {"the mirror": MIRRORED[0]}
    means = {
        kind: {measure: _mean_over([_end(study, *pair)[measure] for study in studies]) for measure in ENDS}
        for kind, pair in pairs.items()
    }
    said = [f"by {kind} {_signs({kind: rows}, HELD_OUT)}" for kind, rows in means.items()]
    told = [
        f"{kind[0].upper()}{kind[1:]}: Δ training loss = {with_interval(rows[ENDS[0]])} nats, Δ held-out loss = "
        f"{with_interval(rows[HELD_OUT])} nats, Δ tr G = {with_interval(rows[CURVED])}."
        for kind, rows in means.items()
    ]
    answer = f"In the mean of Dolly, the stand-in for OpenPlatypus and Evol-Instruct, held-out loss {', '.join(said)}."
    lead = "One draw, its odd part and SymNoise minus no noise, and SymNoise minus two draws (the mirror):"
    return Finding("Does it hold on other data?", answer, tuple(told), lead)


def _mean_over(rows: Sequence[Mapping[Any, Any]]) -> dict[str, float]:
    """The mean of contrasts of several studies, each with the same weight, with Student's interval from the variance
    within a study."""
    dof = sum(row["pairs"] - 1 for row in rows)
    variance = sum((row["pairs"] - 1) * row["sd"] ** 2 for row in rows) / dof
    half = student_t(0.95, dof) * math.sqrt(variance * sum(1 / row["pairs"] for row in rows)) / len(rows)
    mean = sum(row["mean"] for row in rows) / len(rows)
    return {"mean": mean, "low": mean - half, "high": mean + half}


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
    said, growth = [], []
    for name, optimiser in RATED.items():
        study, pairs = published.mechanism.get(name), [("symnoise" + at, "rademacher" + at) for at in RATES]
        if study is None or not (part := _side_by_side(study, pairs, *ENDS[:2])):
            continue
        slow, fast = (_end(study, *pair)[ENDS[0]] for pair in (pairs[0], pairs[-1]))
        growth.append(f"{number(fast['mean'] / slow['mean'], 2)} times as large by {optimiser} (`{name}`)")
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
    answer = growth and (
        "If the difference between SymNoise and one draw came from noise in the gradient, it would be 4 times as large "
        f"at 4 times the learning rate with a quarter of the steps. In training loss it is {listed(growth)}."
    )
    return Finding("Is it gradient noise?", answer or "No learning rates have been compared.", tuple(told))


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
        said.append(f"{values} of training ({_MODELS[str(run)]}, α = {QUOTED[str(run)]:g})")
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
        _signs({f"{first} − {second}": _end(study, first, second) for first, second in pairs}, HELD_OUT)
        for pairs in (divisor, steps)
    )
    whole = _end(study, "symnoise", "rademacher")[measures[0]]["mean"]
    shares = sorted(100 * _end(study, *pair)[measures[0]]["mean"] / whole for pair in divisor)
    told = (
        "From one draw to a mirrored pair in the size of the divisor alone (with gradients of one draw, then of the "
        f"pair): {said[0]}.",
        "In the gradients, and the pattern of the divisor with them (at one draw's size, then at the pair's): "
        f"{said[1]} ({parts[0]['seeds']} seeds).",
    )
    answer = (
        "AdamW divides a step by the gradient's root mean square, which a draw's odd part enlarges. That size makes "
        f"{shares[0]:.0f} to {shares[1]:.0f} % of what SymNoise changes in training loss against one draw. Held-out "
        f"loss: by the size of the divisor {larger}; by the gradients {steadier}."
    )
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
        "Gaussian noise of NEFTune's α without calibration, and uniform noise of the same variance: "
        f"{equal} to within {100 * LARGEST_MARGIN:g} % of what uniform noise changes. Against uniform noise of the "
        f"same α, a third of the variance: {larger}."
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
    where = f"{100 * share:g} % of the target tokens are random (α = {study.facts['alpha']:g})"
    told = (
        f"Where {where}, which the training loss counts too: Δ held-out loss = {said[HELD_OUT]} nats, Δ training loss "
        f"= {said[ENDS[0]]} nats, for one draw minus no noise and SymNoise minus two draws ({said['seeds']} seeds).",
    )
    answer = f"Where {where}, one draw: {noise}. The mirror: {mirror}."
    return Finding("What does noise do with wrong labels?", answer, told)


def _validity(rows: list[dict[str, Any]], others: list[Slope]) -> Finding | None:
    found = {row["key"]: row for row in rows if row["subject"] == "model"}
    slopes = [found.get(f"V1.slope.alpha={alpha:g}") for alpha in ALPHAS]
    if None in slopes:
        return None
    shown = [f"{with_interval(row | {'mean': row['measured']})}, {row['verdict']}" for row in slopes if row]
    answer = (
        "The remaining share of large curvature (attenuation slope) should be 1; at α = "
        f"{listed([str(alpha) for alpha in ALPHAS])} it is {'; '.join(shown)} (SmolLM2; {100 * LEVEL:g} % intervals "
        "for texts like these, verdicts to within 10 %)."
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
    before = {part: _mean_without_noise(study, part) for part in measures}
    said = [f"{part} from {number(at, 2)} to {number(at + rows[part]['mean'], 2)}" for part, at in before.items()]
    answer = f"A penalty on tr H takes {listed(said)} nats. So tr H is reported as tr G and the rest, tr R."
    return Finding("Is a lower tr H flatter?", answer, told)


def _length(found: Length) -> Finding:
    """Each pair's gain: as published, the least and the most that is left of it, and Z1's verdicts on it."""
    answers, told = [], []
    for noisy, own in found.gains[found.gains.role == "pair"].groupby("noisy", sort=False):
        gains = own.set_index("adjustment")
        raw, adjusted = gains.loc["raw"], gains.drop("raw").sort_values("mean")
        times = number(raw.characters_noisy / raw.characters_plain, 2)
        ends = [adjusted.iloc[0], adjusted.iloc[-1]]
        left = " to ".join(f"{with_interval(end.to_dict())} ({WORDS[str(end.name)]})" for end in ends)
        verdicts = counts([row for row in found.rows if slug(str(noisy)) in row["key"]])
        said = ", ".join(f"{_BY[word]} {n}" for word, n in verdicts.items() if n)
        least, most, points = (fixed(end["mean"], 1) for end in (*ends, raw))
        answers.append(
            f"{noisy} gains {points} points with replies {times} times as long, of which {least} to {most} are left at "
            f"equal length, by adjustment; that at most half is left {said} of {len(adjusted)}"
        )
        told.append(
            f"{noisy} minus {raw.plain}: {with_interval(raw.to_dict())} points as published; at equal length {left}."
        )
    answer = f"In AlpacaEval’s public preferences {'. '.join(answers)}. Decoding differs as well."
    return Finding("Is NEFTune's gain at 7B one of length?", answer, tuple(told))


Rows = Mapping[str, Mapping[Any, Any]]  # measure -> the row of a contrast


UNCLEAR = "no clear difference"


def _leaves_out_0(row: Mapping[Any, Any]) -> bool:
    return bool(row["low"] > 0 or row["high"] < 0)


def direction(row: Mapping[Any, Any]) -> str:
    """`lower` or `higher`, by the 95 % interval and, for an endpoint named before its runs, Holm's p; else that the
    difference is not clear, or has no interval."""
    if not (math.isfinite(row["low"]) and math.isfinite(row["high"])):
        return "without an interval"
    p = row.get("holm", math.nan) if row.get("primary", False) else 0.0
    return UNCLEAR if p > SIGNIFICANT or not _leaves_out_0(row) else "higher" if row["low"] > 0 else "lower"


def _signs(found: Mapping[str, Rows], measure: str) -> str:
    """`lower in a and b, no clear difference in c`, where names -> rows; no names where all that measured it agree."""
    names: dict[str, list[str]] = {"lower": [], "higher": [], UNCLEAR: []}
    for name, rows in found.items():
        if measure in rows:
            names.setdefault(direction(rows[measure]), []).append(f"`{name}`")
    said = {word: own for word, own in names.items() if own}
    if len(said) == 1 and len(next(iter(said.values()))) == len(found):
        ((word, own),) = said.items()
        return f"{word}{ {1: '', 2: ' in both'}.get(len(own), f' in all {len(own)}') }"
    return ", ".join(f"{word} in {listed(own)}" for word, own in said.items())


def _by_two(found: Mapping[str, Mapping[str, Rows]]) -> str:
    """What two kinds of noise change, each with its contrasts by study; said once where both do the same."""
    said = []
    for measure in (HELD_OUT, CURVED):
        signs = {kind: _signs(rows, measure) for kind, rows in found.items()}
        parts = [f"by {kind} {sign}" for kind, sign in signs.items()]
        once = f"by both {next(iter(signs.values()))}"
        named = measure.replace("held", "Held")  # tr G keeps its small letter
        said.append(f"{named}: {once if len(set(signs.values())) == 1 else '; '.join(parts)}.")
    return " ".join(said)


def _answer(found: Mapping[str, Rows], *measures: str) -> str:
    """`training loss lower; tr G no clear difference`: `_signs` of each measure."""
    return "; ".join(f"{_plain(measure)} {_signs(found, measure)}" for measure in measures)


def _plain(measure: str) -> str:
    """The training loss without noise is the only one here."""
    return measure.removeprefix("clean ")


def _side_by_side(study: StudyResults, pairs: Iterable[tuple[str, str]], *measures: str) -> dict[str, str]:
    """measure -> the contrasts of the pairs in their order; and how many seeds. Empty if one has not been run."""
    rows = [_end(study, *pair) for pair in pairs]
    if not all(set(measures) <= set(row) for row in rows):
        return {}
    found = {measure: listed([with_interval(row[measure]) for row in rows]) for measure in measures}
    return found | {"seeds": str(int(rows[0][measures[0]]["pairs"]))}


def _end(study: StudyResults, first: str, second: str) -> dict[str, dict[Any, Any]]:
    """`_contrasts` at the end of training. Against no noise, an arm that is a cell of the plane of dials has that
    cell's, unless the contrast is an endpoint."""
    rows, weights = _contrasts(study, first, second, "end"), dials_of(first)
    cells = study.frames.get("dials", pd.DataFrame())
    if second == "none" and weights and len(cells):
        at = cells[(cells.even == weights[0]) & (cells.odd == weights[1])].rename(columns={"seeds": "pairs"})
        endpoints = {measure: row for measure, row in rows.items() if row["primary"]}
        rows |= {str(row["measure"]): row for row in at.to_dict("records")} | endpoints
    return rows


def _contrasts(study: StudyResults, first: str, second: str, when: str) -> dict[str, dict[Any, Any]]:
    """measure -> the contrast's row at the study's own α."""
    compared = study.at_own_alpha(study.tables["contrasts"])
    own = compared[(compared["first"] == first) & (compared.second == second) & (compared.when == when)]
    return {str(row["measure"]): row for row in own[own.decoding.isna()].to_dict("records")}
