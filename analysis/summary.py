"""The top of the README: what was found in short, and a table of studies."""

from collections.abc import Mapping
from typing import Any

from analysis.comparisons import (
    HELD_OUT,
    REGIMES,
    UNCLEAR,
    at_end,
    by_training,
    comparisons_with,
    corrected,
    direction,
    distinct,
    every,
    leaves_out_0,
    without_noise,
)
from analysis.paper.published import Published, StudyResults
from symnoise.plot.numbers import fixed, number, with_interval
from symnoise.theory import counts

PER = 1000  # held-out losses are in thousandths of a nat


def in_short(published: Published) -> str:
    """In how many studies noise lowers or raises the held-out loss, the most that it gains where fine-tuning lowers it,
    and D1's verdicts; "" until each comparison has been made."""
    words: dict[str, list[str]] = {what: [] for what in comparisons_with("")}
    gains = []
    for name, study in distinct(every(published)).items():
        itself = by_training(study, "end")
        for what, pair in comparisons_with(REGIMES[name][1]).items():
            if not (row := at_end(study, *pair).get(HELD_OUT)):
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
    return "\n".join(table_line(*cells) for cells in (shown, ["---"] * len(shown), *lines)) if lines else ""


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
