"""The top of the README: what was found in short, and a table of studies."""

from collections.abc import Mapping
from typing import Any

from analysis.comparisons import (
    CURVED,
    D1_PARTS,
    HELD_OUT,
    MODELS,
    ODD,
    REGIMES,
    UNCLEAR,
    at_end,
    by_training,
    comparisons_with,
    corrected,
    direction,
    distinct,
    ends_lowest,
    every,
    leaves_out_0,
    model_of,
    rows_of,
    without_noise,
)
from analysis.paper.published import Published, StudyResults
from result_schema.measures import ENDING, ENDS
from symnoise.plot.numbers import fixed, number, with_interval
from symnoise.theory import counts

ODD_ALONE = "odd part − none"
_SAID = {  # comparisons in words, the one that the name stands for first
    "SymNoise − two draws": "The mirror, SymNoise minus two draws at the same cost",
    "SymNoise − one draw": "SymNoise minus one draw, at twice its cost",
    "one draw − none": "One draw minus no noise",
    "SymNoise − none": "SymNoise minus no noise",
}
PER = 1000  # held-out losses are in thousandths of a nat


def in_short(published: Published) -> str:
    """What the mirror and noise do, in counts of studies; the most that it gains at the lowest loss where fine-tuning
    lowers it; and D1's verdicts. "" until each comparison has been made."""
    found = every(published)
    if not all(_rows(found, what, HELD_OUT) for what in comparisons_with("")):
        return ""
    gains = []
    for what in list(comparisons_with(""))[:2]:
        for name, row in _rows(found, what, HELD_OUT, "best").items():
            study = found[name]
            if study and (itself := by_training(study, "best")) < 0 and direction(row) == "lower":
                gain = {"mean": -row["mean"], "low": -row["high"], "high": -row["low"]}
                said = f"{with_interval(gain)} nats{'' if corrected(row) else ' ‡'}"
                gains.append((row["mean"], f"{said}; fine-tuning alone lowers it by {fixed(-itself, 2)} (`{name}`)"))
    most = "noise lowers it further in no study"
    if gains:
        most = f"the most that one draw or SymNoise lowers it further, of all studies, is {min(gains)[1]}"
    rows = [row for study in found.values() if study for row in study.rows if row["id"] == "D1"]
    falls, follows, same = (_verdicts([row for row in rows if row["key"] in keys]) for keys in D1_PARTS.values())
    dialled = [study for study in found.values() if study and any(row["id"] == "D1" for row in study.rows)]
    once = [row[HELD_OUT] for study in dialled if HELD_OUT in (row := at_end(study, "symnoise", "none"))]
    told = [
        *(_in_words(found, what) for what in _SAID),
        f"At the lowest held-out loss of each run, where fine-tuning itself lowers it, {most}.",
        "Claim D1, that curvature is what noise works by, predicts three things, tested in the studies that vary the "
        f"weights of both parts. A larger even part lowers tr G: {falls}. It lowers the held-out loss: {follows} "
        f"(slopes over weights up to 2; at weight 1, which is SymNoise, it is lower in {_how_many(once, 'lower')} of "
        f"{len(once)}). The odd part's weight changes neither of them, nor the training loss: {same}.",
        "Studies share models, rows and some of their runs, so they are not independent. These are losses of small "
        "models, not win rates at 7B. `symnoise advise` proposes an α to begin a search with.",
    ]
    held = {model: len(_of_model(found, model, "one draw − none", HELD_OUT)) for model in MODELS}
    studies = " and ".join(f"{n} of {model}" for model, n in held.items() if n)
    head = f"**In short**, by studies ({studies}), at the end of training where nothing else is said:"
    return "\n".join([head, "", *(f"- {line}" for line in told)])


def _verdicts(rows: list[dict[str, Any]]) -> str:
    """`2 fail, 1 undecided`."""
    words = {"holds": "hold", "fails": "fail", "undecided": "undecided"}
    return ", ".join(f"{n} {words[verdict]}" for verdict, n in counts(rows).items() if n)


def _in_words(found: Mapping[str, StudyResults | None], what: str) -> str:
    """What a comparison is at the end of training in training loss, held-out loss and tr G: in how many studies of all,
    and of the last model alone."""
    said = []
    for measure, word in ((ENDS[0], "training loss"), (HELD_OUT, "held-out loss"), (CURVED, "tr G")):
        models = {model: own for model in MODELS if (own := _of_model(found, model, what, measure))}
        rows = [row for own in models.values() for row in own]
        if rows:
            *_, (model, own) = models.items()
            alone = f" ({model}: {_in_how_many(own)})" if len(models) > 1 and len(_directions(rows)) > 1 else ""
            said.append(f"{word} {_in_how_many(rows)}{alone}")
    return f"{_SAID[what]}: {'; '.join(said)}."


def _in_how_many(rows: list[Any]) -> str:
    """`lower in 5 and higher in 3 of 14`, `lower in all 12` or `not clear in all 5`."""
    *others, last = words = _directions(rows)
    if not others:
        return f"not clear in all {len(rows)}" if last == UNCLEAR else f"{last} in all {_how_many(rows, last)}"
    said = " and ".join(f"{word} in {_how_many(rows, word)}" for word in words if word != UNCLEAR)
    return f"{said} of {len(rows)}"


def _directions(rows: list[Any]) -> list[str]:
    """Those that occur; what has no interval is not clear."""
    found = {word if (word := direction(row)) in ("lower", "higher") else UNCLEAR for row in rows}
    return [word for word in ("lower", "higher", UNCLEAR) if word in found]


def _how_many(rows: list[Any], word: str) -> str:
    """`2`, or `none`; bold where all of them stand after Holm's correction."""
    those = [row for row in rows if direction(row) == word]
    return (f"**{len(those)}**" if all(map(corrected, those)) else str(len(those))) if those else "none"


def _rows(found: Mapping[str, StudyResults | None], what: str, measure: str, when: str = "end") -> dict[str, Any]:
    """Study -> the row of a comparison, of those that have it; at the lowest held-out loss ("best") without studies
    where that is mostly before training. The odd part alone also of the study that repeats another's runs, which has
    none."""
    rows = {}
    for name, study in (distinct(found) if what != ODD_ALONE else found).items():
        if study is None or name not in REGIMES:
            continue
        pair = {**comparisons_with(REGIMES[name][1]), ODD_ALONE: (ODD, "none")}[what]
        own = at_end(study, *pair) if when == "end" else rows_of(study, *pair, when)
        unused = when == "best" and study.untrained and study.untrained.mostly_best
        if measure in own and not unused:
            rows[name] = own[measure]
    return rows


def _of_model(
    found: Mapping[str, StudyResults | None], model: str, what: str, measure: str, when: str = "end"
) -> list[Any]:
    """Of `_rows`, those of one model's studies; at the lowest of those in which it is not the last step of all runs."""
    studies = distinct(found)
    same = [n for n, study in studies.items() if ends_lowest(study, comparisons_with(REGIMES[n][1]).values())]
    unused = same if when == "best" else ()
    rows = _rows(found, what, measure, when)
    return [row for name, row in rows.items() if model_of(name) == model and name not in unused]


def tallies(found: Mapping[str, StudyResults | None]) -> str:
    """A table: in how many studies of each model a comparison is lower, higher and not clear; "" if none has been
    run."""
    columns = {
        "training loss": (ENDS[0], "end"),
        "held-out loss": (HELD_OUT, "end"),
        "held-out loss at its lowest": (HELD_OUT, "best"),
        "tr G": (CURVED, "end"),
        "log p(end)": (ENDING, "end"),
    }
    lines = []
    for what in (*comparisons_with(""), ODD_ALONE):
        for model in MODELS:
            cells = []
            for measure, when in columns.values():
                own = _of_model(found, model, what, measure, when)
                clear = [_how_many(own, word).replace("none", "0") for word in ("lower", "higher")]
                unclear = sum(direction(row) == UNCLEAR for row in own)
                cells.append(f"{' / '.join(clear)} / {unclear}" if own else "–")
            if set(cells) != {"–"}:
                lines.append([what, model, *cells])
    shown = ["studies: lower / higher / not clear", "model", *columns]
    return _table(shown, lines)


def regimes(found: Mapping[str, StudyResults | None], measure: str) -> str:
    """A table of studies: the held-out loss, or tr G, without noise, and what noise and its parts change there; "" if
    none has been run."""
    times, unit = (PER, ", 10⁻³ nats") if measure == HELD_OUT else (1, "")
    itself = "fine-tuning alone: end (lowest)" if measure == HELD_OUT else "without noise"
    lines = []
    for name, study in distinct(found).items():
        where, draw = REGIMES[name]
        rows = [at_end(study, *pair).get(measure) for pair in comparisons_with(draw).values()]
        seeds = max(int(row["pairs"]) for row in rows if row)
        own = number(without_noise(study, measure), 2)
        if measure == HELD_OUT:
            own = "{} ({})".format(*(fixed(PER * by_training(study, when), 0) for when in ("end", "best")))
        facts = f"`{name}`, α = {study.facts['alpha']:g}, {seeds} seeds"
        lines.append([f"{where} ({facts})", own, *(_cell(row, times) for row in rows)])
    shown = [f"Δ {measure}{unit}", itself, *comparisons_with("")]
    return _table(shown, lines)


def _table(heads: list[str], lines: list[list[str]]) -> str:
    """In Markdown; "" without lines."""
    return "\n".join(table_line(*cells) for cells in (heads, ["---"] * len(heads), *lines)) if lines else ""


def table_line(*cells: str) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(row: Mapping[Any, Any] | None, times: int) -> str:
    """A difference with its interval, in units of 1/times, with a dagger where Holm's correction takes its
    significance, and a double one where the interval alone decides; an en dash where it has not been measured."""
    if row is None:
        return "–"
    taken = direction(row) == UNCLEAR and leaves_out_0(row)
    mark = " †" if taken else "" if corrected(row) else " ‡"
    return with_interval({key: times * row[key] for key in ("mean", "low", "high")}) + mark
