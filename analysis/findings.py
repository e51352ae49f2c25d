"""What was found: a question, an answer in words computed from intervals, and the numbers that it rests on.

The README has the answers, docs/results.md all of it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.comparisons import (
    CURVED,
    HELD_OUT,
    LENGTHS,
    ODD,
    REGIMES,
    UNCLEAR,
    Rows,
    answers,
    at_end,
    by_training,
    by_two,
    direction,
    distinct,
    ends_lowest,
    every,
    leaves_out_0,
    mean_over,
    pairs_of,
    plain,
    rows_of,
    side_by_side,
    signs,
    without_noise,
)
from analysis.family_ledgers import MAIN, Slope
from analysis.length import WORDS, is_named
from analysis.paper.published import Budgets, Length, Published, StudyResults
from analysis.study.claims import MIRRORED
from result_schema.measures import ENDING, ENDS
from result_schema.study import LARGEST_MARGIN
from symnoise.plot.numbers import fixed, listed, measurement, number, with_interval
from symnoise.theory import LEVEL, counts
from symnoise.theory.ledger import slug, verdict

STUDY = "micro"  # the study with all arms
ALPHAS = (5, 10, 15)  # the training α
# Variance budget -> α that is quoted, that of the model's studies; and the model in words.
QUOTED = {"mirror": 15.0, "smollm2": 10.0}
_MODELS = {"mirror": "small Llama of `mirror`", "smollm2": "SmolLM2"}
# Model -> studies whose mean was named beforehand.
OVER_DATA = {
    "the small Llama": ("transfer-dolly", "transfer-open-platypus", "transfer-evol-instruct"),
    "SmolLM2": ("smollm2-dolly", "smollm2-open-platypus", "smollm2-evol-instruct"),
}

KINDS = ("one draw", "SymNoise", "the mirror")
UNITS = dict.fromkeys((*ENDS[:2], ENDING), " nats")


@dataclass(frozen=True)
class Finding:
    """answer: in words, computed from intervals.  told: sentences with the numbers behind it.  lead: what they are.
    counted: whether the README's table of counts has the answer, which names many studies."""

    question: str
    answer: str
    told: tuple[str, ...]
    lead: str = ""
    counted: bool = False

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
        _of(_slower, study("transfer-longer")),
        _ends(found),
        _longer(found),
        _diffusion(published),
        _of(_adamw_in_parts, study("divisor")),
        _of(_law_or_size, study("scale")),
        _of(_wrong_labels, study("micro-r-flips")),
        _validity(published.rows, published.slopes),
        _of(_penalty, study(STUDY)),
        _of(_length, published.length),
    ]
    return [finding for finding in made if finding]


def _of(tell: Callable[[Any], Finding | None], found: Any) -> Finding | None:
    return None if found is None else tell(found)


def _noise(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """One draw and SymNoise against no noise, by study, with what training itself did to the held-out loss."""
    said, draws, pairs = [], {}, {}
    for name, study in distinct(found).items():
        where, draw = REGIMES[name]
        shown = [(draw, "none"), ("symnoise", "none")]
        if not (part := side_by_side(study, shown, HELD_OUT, CURVED)):
            continue
        draws[name], pairs[name] = (at_end(study, *pair) for pair in shown)
        before = study.untrained
        best = f"; held-out loss lowest before training in {before.best} of {before.runs} runs" if before else ""
        said.append(
            f"{where} (study `{name}`, α = {study.facts['alpha']:g}, {part['seeds']} seeds{best}): Δ held-out loss = "
            f"{part[HELD_OUT]} nats, Δ tr G = {part[CURVED]}."
        )
    if not said:
        return None
    lead = "One draw minus no noise, then SymNoise minus no noise:"
    answer = by_two({"one draw": draws, "SymNoise": pairs})
    return Finding("What does noise do?", answer, tuple(said), lead, counted=True)


def _stopped(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """One draw, SymNoise and the mirror at each run's lowest held-out loss, where training lowers it at all."""
    compared: dict[str, dict[str, Rows]] = {kind: {} for kind in KINDS}
    said, unused, last = [], [], []
    for name, study in distinct(found).items():
        shown = pairs_of(REGIMES[name][1], *KINDS).values()
        if study.untrained and study.untrained.mostly_best:
            unused.append(f"`{name}`")
            continue
        rows = [rows_of(study, *pair, "best") for pair in shown]
        if ends_lowest(study, shown):
            last.append(f"`{name}`")
        elif all(HELD_OUT in row for row in rows):
            for kind, row in zip(compared, rows, strict=True):
                compared[kind][name] = row
            said.append(f"Study `{name}`: {listed([with_interval(row[HELD_OUT]) for row in rows])} nats.")
    if not said:
        return None
    parts = [f"by {kind} {signs(rows, HELD_OUT)}" for kind, rows in compared.items()]
    answer = f"At the lowest held-out loss of each run: {'; '.join(parts)}."
    answer += f" In {listed(last)} that is the last step, so stopping early is not stopping." if last else ""
    answer += f" In {listed(unused)} the untrained model is best, so stopping early is not training." if unused else ""
    lead = (
        "Δ held-out loss at each run's lowest, chosen on the rows on which it is reported: one draw minus no noise, "
        "SymNoise minus no noise, SymNoise minus two draws."
    )
    return Finding("And with early stopping?", answer, tuple(said), lead, counted=True)


def _against_a_draw(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """SymNoise minus one draw of each study's law."""
    rows, said = {}, []
    for name, study in distinct(found).items():
        draw = REGIMES[name][1]
        if not (part := side_by_side(study, [("symnoise", draw)], HELD_OUT, CURVED)):
            continue
        rows[name] = at_end(study, "symnoise", draw)
        said.append(f"Study `{name}` ({draw}): Δ held-out loss = {part[HELD_OUT]} nats, Δ tr G = {part[CURVED]}.")
    if not rows:
        return None
    answer, lead = f"{answers(rows, HELD_OUT, CURVED)}. It costs twice as much.", "SymNoise minus one draw:"
    answer = answer.replace("held", "Held", 1)
    return Finding("Is SymNoise better than one draw?", answer, tuple(said), lead, counted=True)


def _parts(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """The even and the odd part of a draw, each alone, against no noise; then with larger weights."""
    said, evens, odds = [], {}, {}
    for name in REGIMES:
        study, shown = found.get(name), [("symnoise", "none"), (ODD, "none")]
        if study is None or not (part := side_by_side(study, shown, HELD_OUT, CURVED)):
            continue
        evens[name], odds[name] = (at_end(study, *pair) for pair in shown)
        said.append(
            f"Study `{name}`, {part['seeds']} seeds: Δ held-out loss = {part[HELD_OUT]} nats, Δ tr G = {part[CURVED]}."
        )
    if not said:
        return None
    twice = {}
    for name in ("transfer-dials", "dials", "dials-one-pass"):
        study, shown = found.get(name), [("dials-2-0", "none"), ("dials-0-3", "none")]
        if study is not None and (part := side_by_side(study, shown, HELD_OUT, CURVED)):
            twice[name] = at_end(study, *shown[0])
            said.append(
                f"Twice the even part, then three times the odd part (study `{name}`, {part['seeds']} seeds): Δ "
                f"held-out loss = {part[HELD_OUT]} nats, Δ tr G = {part[CURVED]}."
            )
    answer = by_two({"the even part alone": evens, "the odd part alone": odds})
    answer += f" Held-out loss by twice the even part: {signs(twice, HELD_OUT)}." if twice else ""
    lead = "The even part alone, then the odd part alone, minus no noise, in the small Llama:"
    return Finding("Which part of a draw does it?", answer, tuple(said), lead, counted=True)


def _mirror(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """SymNoise against two draws, by study, and its neighbours."""
    rows, said = {}, []
    for name, study in distinct(found).items():
        if not side_by_side(study, MIRRORED, HELD_OUT, CURVED):
            continue
        own = rows[name] = at_end(study, *MIRRORED[0])
        parts = [f"Δ {plain(m)} = {with_interval(own[m])}{' nats' * (m != CURVED)}" for m in ENDS if m in own]
        said.append(f"Study `{name}`, {int(own[CURVED]['pairs'])} seeds: {', '.join(parts)}.")
    if not rows:
        return None
    answer = f"Against two independent draws, which cost the same: {answers(rows, *ENDS)}."
    near = found.get("neighbours")
    lead = "SymNoise minus two independent draws (training loss on the same rows without noise, where measured):"
    told = (*said, *filter(None, [_neighbours(near) if near else ""]))
    return Finding("What does the mirror add?", answer, told, lead, counted=True)


def means_over_data(
    found: Mapping[str, StudyResults | None], model: str, when: str = "end"
) -> dict[str, dict[str, dict[str, float]]]:
    """Kind of noise -> outcome that was named beforehand -> its contrast's mean over the data sets of `OVER_DATA`, each
    with the same weight, with the margin that was named; none until all are there. At the lowest held-out loss ("best")
    of that alone."""
    names = OVER_DATA[model]
    studies = [study for name in names if (study := found.get(name))]
    if len(studies) < len(names):
        return {}
    draw, margins = REGIMES[names[0]][1], studies[0].facts["primary"]["outcomes"]
    pairs = pairs_of(draw)
    rows = {
        kind: [at_end(study, *pair) if when == "end" else rows_of(study, *pair, when) for study in studies]
        for kind, pair in pairs.items()
    }
    shown = margins if when == "end" else [HELD_OUT]
    return {
        kind: {m: mean_over([row[m] for row in own]) | {"margin": margins[m]} for m in shown}
        for kind, own in rows.items()
        if all(own)
    }


def _over_data(found: Mapping[str, StudyResults | None]) -> Finding | None:
    said, told = [], []
    for model in OVER_DATA:
        if not (means := means_over_data(found, model)):
            continue
        words = [
            f"{kind} {_or_small(rows[HELD_OUT])}{_but(found, model, kind, rows[HELD_OUT])}"
            for kind, rows in means.items()
        ]
        said.append(f"{model[0].upper()}{model[1:]}: {', '.join(words)}.")
        told += [
            f"{model[0].upper()}{model[1:]}, {kind}: "
            + ", ".join(f"Δ {plain(m)} = {with_interval(row)}{UNITS.get(m, '')}" for m, row in rows.items())
            + "."
            for kind, rows in means.items()
        ]
        lowest = means_over_data(found, model, "best")
        each = [f"{kind} {with_interval(rows[HELD_OUT])}" for kind, rows in lowest.items()]
        told.append(
            f"The same at the lowest held-out loss of each run, on whose rows it is chosen: {', '.join(each)} nats."
        )
    if not said:
        return None
    answer = (
        "Held-out loss at the end of training, averaged over Dolly, a stand-in for OpenPlatypus made of its public "
        f"parts, and Evol-Instruct, with intervals over seeds, for these three alone. {' '.join(said)}"
    )
    lead = (
        "One draw, its odd part and SymNoise minus no noise, SymNoise minus one draw, and SymNoise minus two draws "
        "(the mirror). Named beforehand: the mirror and one draw; on the small Llama also its odd part and SymNoise."
    )
    return Finding("Does it hold on other data?", answer, tuple(told), lead)


def _but(found: Mapping[str, StudyResults | None], model: str, kind: str, mean: Mapping[str, float]) -> str:
    """On which data sets the held-out loss goes clearly the other way than in their mean."""
    names, opposite = OVER_DATA[model], {"lower": "higher", "higher": "lower"}.get(direction(mean))
    pair = pairs_of(REGIMES[names[0]][1])[kind]
    each = {name: direction(at_end(study, *pair)[HELD_OUT]) for name in names if (study := found.get(name))}
    those = [f"`{name}`" for name, word in each.items() if word == opposite]
    return f" ({opposite} on {listed(those)})" if those else ""


def _or_small(row: Mapping[str, float]) -> str:
    """`direction`, or that the interval is within the margin named beforehand."""
    small = max(abs(row["low"]), abs(row["high"])) < row["margin"]
    word = direction(row)
    return f"within {row['margin']:g} nats" if word == UNCLEAR and small else word


def _slower(study: StudyResults) -> Finding | None:
    """At each run's lowest held-out loss, with steps enough to get there."""
    pairs = pairs_of("rademacher", "one draw", "its odd part", "SymNoise", "the mirror")
    lowest, end = ({kind: rows_of(study, *pair, when) for kind, pair in pairs.items()} for when in ("best", "end"))
    if not all(HELD_OUT in row for row in (*lowest.values(), *end.values())):
        return None
    itself = [fixed(by_training(study, when), 3) for when in ("best", "end")]
    said = [f"by {kind} {signs({kind: row}, HELD_OUT)}" for kind, row in lowest.items()]
    answer = (
        "A run that noise only slows down should get about as low as one without, given the steps (not exactly: the "
        "learning rate falls with the step, and the lowest is the least of nine). With twice those of `transfer` "
        f"(`transfer-longer`), fine-tuning alone changes the held-out loss by {itself[0]} nats at its lowest and "
        f"{itself[1]} at the end; at the lowest of each run it is {', '.join(said)}."
    )
    told = tuple(
        f"At the {where}: {', '.join(f'{kind} {with_interval(row[HELD_OUT])}' for kind, row in rows.items())} nats."
        for where, rows in (("lowest", lowest), ("end", end))
    )
    lead = "Δ held-out loss, one draw, its odd part and SymNoise minus no noise, SymNoise minus two draws (the mirror)."
    return Finding("Is it slower training?", answer, told, lead)


def _ends(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """How likely a reply is to end where its reference goes on (E1)."""
    rows: dict[str, dict[str, Rows]] = {kind: {} for kind in KINDS}
    said = []
    for name, study in distinct(found).items():
        measured = {kind: at_end(study, *pair) for kind, pair in pairs_of(REGIMES[name][1], *KINDS).items()}
        for kind in (there := [kind for kind, own in measured.items() if ENDING in own]):
            rows[kind][name] = measured[kind]
        if there:
            changes = [f"{kind} {with_interval(measured[kind][ENDING])}" for kind in there]
            said.append(f"Study `{name}`: {', '.join(changes)} nats.")
    if not said:
        return None
    answer = "; ".join(f"by {kind} {signs(own, ENDING)}" for kind, own in rows.items())
    lead = "Δ log p(end of turn), teacher-forced: one draw and SymNoise minus no noise, SymNoise minus two draws:"
    question = "Does noise make a reply less likely to end?"
    return Finding(
        question, f"Where the reference goes on, log p(end of turn) is {answer}.", tuple(said), lead, counted=True
    )


LONG = 256  # tokens of a reply; in studies with fewer, most replies are cut off


def _longer(found: Mapping[str, StudyResults | None]) -> Finding | None:
    """How long replies are, in studies that let them have `LONG` tokens or more."""
    rows: dict[str, dict[str, dict[str, Rows]]] = {measure: {} for measure in LENGTHS}  # -> kind -> study -> rows
    cut_off: dict[str, dict[str, dict[str, Rows]]] = {measure: {} for measure in LENGTHS}  # -> kind -> study -> rows
    said = []
    for name, study in distinct(found).items():
        kinds = pairs_of(REGIMES[name][1], *KINDS)
        limit = (study.facts.get("settings") or {}).get("generating", {}).get("max_new_tokens", 0)
        ends = {kind: at_end(study, *pair) for kind, pair in kinds.items()}
        for measure, own in rows.items():
            if limit < LONG:
                for kind in (kind for kind, end in ends.items() if measure in end):
                    cut_off[measure].setdefault(kind, {})[name] = ends[kind]
            elif part := side_by_side(study, kinds.values(), measure):
                for kind, end in ends.items():
                    own.setdefault(kind, {})[name] = end
                decoding = measure.removeprefix("length, ")
                without = number(without_noise(study, measure), 3)
                said.append(
                    f"Study `{name}`, replies of up to {limit} tokens, {decoding} ({without} tokens without noise): "
                    f"{part[measure]} tokens."
                )
    if not said:
        return None
    told, sooner = _by_kind(rows, ", "), _by_kind(cut_off, "; ", brief=True)
    sooner[1:] = [one[:1].upper() + one[1:] for one in sooner[1:]]
    also = f" Where they are cut off before {LONG} tokens, {'. '.join(sooner)}." if sooner else ""
    lead = "Δ tokens in a reply: one draw and SymNoise minus no noise, SymNoise minus two draws:"
    return Finding("Are replies longer?", f"Number of tokens, {'; '.join(told)}.{also}", tuple(said), lead)


def _by_kind(found: Mapping[str, Mapping[str, Mapping[str, Rows]]], apart: str, *, brief: bool = False) -> list[str]:
    """Of each length that was measured: `without a repetition penalty, by one draw higher in …`, and so on."""
    named = dict(zip(LENGTHS, ("without a repetition penalty", "with one of 1.2"), strict=True))
    said = []
    for measure, kinds in found.items():
        if parts := [f"{kind} {signs(own, measure, brief=brief)}" for kind, own in kinds.items()]:
            said.append(f"{named[measure]}, by {apart.join(parts)}")
    return said


def _neighbours(study: StudyResults) -> str:
    """SymNoise's contrasts with two published methods that also take two passes."""
    pairs = [("symnoise", other) for other in ("r3f", "weight-pair")]
    if not (said := side_by_side(study, pairs, HELD_OUT, CURVED)):
        return ""
    return (
        "SymNoise minus R3F, which penalises the divergence between predictions under noise, and minus NSO, which "
        f"mirrors noise in the weights, both at its cost: Δ held-out loss = {said[HELD_OUT]} nats; Δ tr G = "
        f"{said[CURVED]} ({said['seeds']} seeds){_less_damage(study)}."
    )


# Studies of learning rates -> how they are told.
RATED = {"transfer-step-size": "AdamW", "step-size": "AdamW", "step-size-sgd": "SGD"}
RATES = ("", "-rate-2", "-rate-4")
GROWN, MOST = 2, 8  # at 4 times the rate: nearer to 4 times the difference than to none more, and at most twice that


def _diffusion(published: Published) -> Finding | None:
    """Whether the mirror acts through noise in the gradient: by learning rate, by batch size, and beside batches."""
    said, growth = [], []
    grown: dict[str, dict[str, None]] = {}  # whether the difference is about as large -> optimisers, each once
    for name, optimiser in RATED.items():
        study, pairs = published.mechanism.get(name), [("symnoise" + at, "rademacher" + at) for at in RATES]
        if study is None or not (part := side_by_side(study, pairs, *ENDS[:2])):
            continue
        slow, fast = (at_end(study, *pair)[ENDS[0]] for pair in (pairs[0], pairs[-1]))
        low, high = _ratio(fast, slow)
        grown.setdefault(as_much(low, high), {})[optimiser] = None
        times = with_interval({"mean": fast["mean"] / slow["mean"], "low": low, "high": high})
        growth.append(f"{times} times as large by {optimiser} (`{name}`)")
        said.append(
            f"By {optimiser} (study `{name}`): Δ training loss = {part[ENDS[0]]} nats; Δ held-out loss = "
            f"{part[HELD_OUT]} nats ({_seeds(study, part)})."
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
    how = "; ".join(f"with {listed([*by])} it {said}" for said, by in sorted(grown.items(), reverse=True))
    answer = growth and (
        "If what SymNoise cancels, a draw's odd part, acted by adding up along steps, the difference between SymNoise "
        f"and one draw would be about 4 times as large ({GROWN} to {MOST}) at 4 times the learning rate with a "
        f"quarter of the steps: {how}. In training loss it is {listed(growth)}; these intervals hold every quotient of "
        "those of the two differences."
    )
    return Finding(
        "Does gradient noise add up like a random walk?", answer or "No learning rates have been compared.", tuple(told)
    )


def as_much(low: float, high: float) -> str:
    """Whether a ratio with these bounds is about 4 times: within `GROWN` to `MOST`."""
    return "is" if low >= GROWN and high <= MOST else "is not" if high < GROWN or low > MOST else "may be"


def _ratio(above: Mapping[Any, Any], below: Mapping[Any, Any]) -> tuple[float, float]:
    """Bounds of the ratio of two means whose intervals are given, no tighter than its own interval."""
    if not leaves_out_0(below):
        return -math.inf, math.inf
    ends = [above[one] / below[two] for one in ("low", "high") for two in ("low", "high")]
    return min(ends), max(ends)


def _batches(study: StudyResults) -> str:
    """A pair against one draw in larger batches."""
    pairs = [("symnoise", f"rademacher-batch-{times}") for times in LARGER_BATCHES]
    if not (said := side_by_side(study, pairs, *ENDS[:2])):
        return ""
    batch = study.facts["settings"]["training"]["batch"]
    sizes = [f"{batch * float(times):g}" for times in LARGER_BATCHES]
    alike = {measure: like_a_batch(study, measure) for measure in ENDS[:2]}
    like = " and ".join(f"of {size} in {plain(measure)}" for measure, size in alike.items() if size)
    return (
        f"SymNoise minus one draw in batches of {listed(sizes)} rows, where the others have {batch} (α = "
        f"{study.facts['alpha']:g}): Δ training loss = {said[ENDS[0]]} nats, Δ held-out loss = {said[HELD_OUT]} nats "
        f"({_seeds(study, said)}). If variance were all, both would be 0 where those batches are 1 + ρ times as large "
        "(ρ of another run, above). In as many steps, larger batches also pass over the rows more often."
        + (f" A pair is like one draw in batches {like}." if like else "")
    )


LARGER_BATCHES = ("1.125", "1.25", "1.5")  # arms of `batch-match`, in batches of the others


def like_a_batch(study: StudyResults, measure: str) -> str:
    """The rows in a batch at which one draw does what SymNoise does, as bounds in words; "" if the study cannot say.

    The difference has one sign at the study's own batch and up to the lower bound, and the other from the upper one
    on: both by intervals without 0.
    """
    batch = study.facts["settings"]["training"]["batch"]
    arms = {batch: "rademacher"} | {batch * float(times): f"rademacher-batch-{times}" for times in LARGER_BATCHES}
    rows = {size: at_end(study, "symnoise", arm).get(measure) for size, arm in arms.items()}
    sign = {size: (row["mean"] > 0) - (row["mean"] < 0) for size, row in rows.items() if row and leaves_out_0(row)}
    above = max((size for size, own in sign.items() if own == sign.get(batch)), default=math.inf)
    below = min((size for size, own in sign.items() if own != sign.get(batch)), default=math.inf)
    if math.isinf(above) or below < above:
        return ""
    return f"more than {above:g} rows" if math.isinf(below) else f"more than {above:g} and fewer than {below:g} rows"


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
        "On the gradient’s variance a pair acts like a batch at most 1 + ρ times as large, and costs as much as one "
        f"twice as large; ρ is {listed(said)}."
    )


def _adamw_in_parts(study: StudyResults) -> Finding | None:
    """What the mirror changes through AdamW's divisor alone, and through its mean of gradients alone."""
    divisor = [("draw-at-pair-size", "rademacher"), ("symnoise", "pair-at-draw-size")]
    steps = [("pair-at-draw-size", "rademacher"), ("symnoise", "draw-at-pair-size")]
    measures = ENDS[:2]
    parts = [side_by_side(study, pairs, *measures) for pairs in (divisor, steps)]
    if not all(parts):
        return None
    said = [f"Δ training loss = {part[measures[0]]} nats, Δ held-out loss = {part[measures[1]]} nats" for part in parts]
    larger, steadier = (
        signs({f"{first} − {second}": at_end(study, first, second) for first, second in pairs}, HELD_OUT)
        for pairs in (divisor, steps)
    )
    whole = at_end(study, "symnoise", "rademacher")[measures[0]]["mean"]
    shares = sorted(100 * at_end(study, *pair)[measures[0]]["mean"] / whole for pair in divisor)
    told = (
        "From one draw to a mirrored pair in the size of the divisor alone (with gradients of one draw, then of the "
        f"pair): {said[0]}.",
        "In the gradients, and the pattern of the divisor with them (at one draw's size, then at the pair's): "
        f"{said[1]} ({parts[0]['seeds']} seeds).",
    )
    answer = (
        "AdamW divides a step by the gradient's root mean square, which a draw's odd part enlarges. That size makes "
        f"{shares[0]:.0f} to {shares[1]:.0f} % of what SymNoise changes in training loss against one draw. Held-out "
        f"loss: by the size of the divisor, with either set of gradients, {_plainly(larger)}; by the gradients, at "
        f"either size, {_plainly(steadier)}{_less_damage(study)}."
    )
    return Finding("By which part of AdamW?", answer, told)


def _less_damage(study: StudyResults) -> str:
    """What a lower held-out loss means in a study whose model is best before it is fine-tuned."""
    return f" (study `{study.facts['name']}`: {said})" if (said := _best_before(study)) else ""


def _seeds(study: StudyResults, said: Mapping[str, str]) -> str:
    """`12 seeds`, and that a lower held-out loss means less damage, where it does."""
    return "; ".join(filter(None, (f"{said['seeds']} seeds", _best_before(study))))


def _best_before(study: StudyResults) -> str:
    best = study.untrained and study.untrained.mostly_best
    return "the model is best before fine-tuning, so that lower is less damage" if best else ""


def _plainly(said: str) -> str:
    return said.removesuffix(" in both")


def _law_or_size(study: StudyResults) -> Finding | None:
    """The raw Gaussian against uniform noise of its own size, and at its own α. Equal, as its study's file says
    beforehand: the whole 95 % interval lies within O3's margin of what uniform noise changes."""
    measures = ENDS[:2]
    of_size, of_alpha = (
        side_by_side(study, [("gaussian-raw", second)], *measures) for second in ("uniform-at-raw-size", "uniform")
    )
    if not (of_size and of_alpha):
        return None
    same, noise = at_end(study, "gaussian-raw", "uniform-at-raw-size"), at_end(study, "uniform", "none")
    margins = {measure: LARGEST_MARGIN * abs(noise[measure]["mean"]) for measure in measures}
    found = {verdict("within", 0, same[m]["low"], same[m]["high"], margin) for m, margin in margins.items()}
    equal = "equal" if found == {"holds"} else "not shown to be equal"
    larger = answers({"": at_end(study, "gaussian-raw", "uniform")}, *measures)
    answer = (
        "Gaussian noise of NEFTune's α without calibration, and uniform noise of the same variance: "
        f"{equal} to within {100 * LARGEST_MARGIN:g} % of what uniform noise changes. Against uniform noise of the "
        f"same α, a third of the variance: {larger}{_less_damage(study)}."
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
    if not (said := side_by_side(study, pairs, *measures)):
        return None
    share = study.facts["settings"]["training"]["flips"]
    noise, mirror = (answers({"": at_end(study, *pair)}, *measures) for pair in pairs)
    where = f"{100 * share:g} % of the target tokens are random (α = {study.facts['alpha']:g})"
    told = (
        f"Where {where}, which the training loss counts too: Δ held-out loss = {said[HELD_OUT]} nats, Δ training loss "
        f"= {said[ENDS[0]]} nats, for one draw minus no noise and SymNoise minus two draws ({said['seeds']} seeds).",
    )
    answer = f"Where {where}, one draw: {noise}. The mirror: {mirror}{_less_damage(study)}."
    return Finding("What does noise do with wrong labels?", answer, told)


def _validity(rows: list[dict[str, Any]], others: list[Slope]) -> Finding | None:
    found = {row["key"]: row for row in rows if row["subject"] == "model"}
    slopes = [found.get(f"V1.slope.these.alpha={alpha:g}") for alpha in ALPHAS]
    if None in slopes:
        return None
    shown = [_with_verdict(row) for row in slopes if row]
    answer = (
        "The remaining share of large curvature (attenuation slope) should be 1; at α = "
        f"{listed([str(alpha) for alpha in ALPHAS])} it is {'; '.join(shown)} (SmolLM2; {100 * LEVEL:g} % intervals "
        "for these rows alone; it holds if the whole interval is within 0.1 of 1, and fails if none of it is)."
    )
    ratios = [found.get(f"V1.ratio-of-means.these.alpha={alpha:g}") for alpha in ALPHAS]
    unknown = all(row is not None and None in (row["low"], row["high"]) for row in ratios)
    told = ["Of the mean curvature, which training averages, these texts bound the share at no α."] if unknown else []
    others_like = [found.get(f"V1.slope.alpha={alpha:g}") for alpha in ALPHAS]
    if all(others_like):
        said = [
            f"{measurement(row['measured'], row['low'], row['high'])[1]}, {row['verdict']}"
            for row in others_like
            if row
        ]
        told.append(f"For texts like these, of which a few carry the slope, the intervals are: {'; '.join(said)}.")
    told += _second_text(found)
    if models := slopes_by_model(others):
        told.append(
            "The same α is noise of another size in another model: r, its norm over that of a token's embedding, is "
            f"{models[MAIN]} in SmolLM2 (on other rows than V1's). The slope is {models['others']}."
        )
    return Finding("Does the Hessian describe noise of the size in use?", answer, tuple(told))


def _with_verdict(row: Mapping[str, Any]) -> str:
    """A ledger's measured value with its interval, and its verdict."""
    return f"{with_interval({**row, 'mean': row['measured']})}, {row['verdict']}"


def _second_text(found: Mapping[str, dict[str, Any]]) -> list[str]:
    """What the same rows are on a second text, for texts like these and for its rows alone; [] without one."""
    lines = []
    for name, what in (("slope", "The attenuation slope"), ("ratio-of-means", "The ratio of means")):
        for unit, words in (("", "for texts like these"), (".these", "for these rows alone")):
            rows = [found.get(f"V1.{name}{unit}.second-text.alpha={alpha:g}") for alpha in ALPHAS]
            if known := [row for row in rows if row and None not in (row["low"], row["high"])]:
                shown = [_with_verdict(row) for row in known]
                lines.append(f"{what} {words}: {'; '.join(shown)}.")
    if not lines:
        return []
    where = next(row["where"] for key, row in found.items() if ".second-text." in key).split(" on ")[-1]
    return [f"On a second text, {where}, at α = {listed([str(alpha) for alpha in ALPHAS])}. {' '.join(lines)}"]


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
    if not (rows := at_end(study, "penalty", "none")):
        return None
    measures = ("tr H", CURVED, HELD_OUT)
    changes = ", ".join(f"Δ {part} = {with_interval(rows[part])}" for part in measures)
    pairs = int(study.tables["contrasts"].pairs.max())
    where = f"study `{study.facts['name']}`, α = {study.facts['alpha']:g}, {pairs} paired seeds"
    told = (f"The penalty minus no noise ({where}): {changes} nats.",)
    before = {part: without_noise(study, part) for part in measures}
    said = [f"{part} from {number(at, 2)} to {number(at + rows[part]['mean'], 2)}" for part, at in before.items()]
    answer = f"A penalty on tr H takes {listed(said)} nats. So tr H is reported as tr G and the rest, tr R."
    return Finding("Is a lower tr H flatter?", answer, told)


_UNLIKE = {
    "llama-2-chat-7b-evol70k-neft": "; llama-2-7b-chat-hf was not fine-tuned on its data, so that "
    "is no gain of noise alone"
}


def _length(found: Length) -> Finding:
    """Each pair's gain: as published, the least and the most that is left of it, and Z1's verdicts on it."""
    gained, told = [], []
    for noisy, own in found.gains[found.gains.role == "pair"].groupby("noisy", sort=False):
        gains = own.set_index("adjustment")
        raw, adjusted = gains.loc["raw"], gains.drop("raw").sort_values("mean")
        times = number(raw.characters_noisy / raw.characters_plain, 2)
        ends = [adjusted.iloc[0], adjusted.iloc[-1]]
        left = " to ".join(f"{with_interval(end.to_dict())} ({WORDS[str(end.name)]})" for end in ends)
        sure = fixed(adjusted[~adjusted.unsure.map(is_named)]["mean"].min(), 1)
        verdicts = counts([row for row in found.rows if slug(str(noisy)) in row["key"]])
        holds, fails, undecided = (verdicts[word] or "none" for word in ("holds", "fails", "undecided"))
        least, most, points = (fixed(end["mean"], 1) for end in (*ends, raw))
        gained.append(
            f"{noisy} gains {points} points over {raw.plain} with replies {times} times as long; at equal length it is "
            f"{least} to {most} (at least {sure} by adjustments that a later, stricter rule keeps): by {holds} of "
            f"{len(adjusted)} adjustments at most half of the gain is left, by {fails} more than half, {undecided} do "
            f"not decide{_UNLIKE.get(str(noisy), '')}"
        )
        told.append(
            f"{noisy} minus {raw.plain}: {with_interval(raw.to_dict())} points as published; at equal length {left}."
        )
    answer = f"In AlpacaEval’s public preferences {'. '.join(gained)}. Decoding differs as well."
    return Finding("Is NEFTune's gain at 7B one of length?", answer, tuple(told))
