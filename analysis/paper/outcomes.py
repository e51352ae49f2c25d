"""What the studies found, in sentences that are computed: whichever way it fell."""

from typing import Any

from scipy import stats

from analysis.numbers import fixed, listed, measurement, number, plural
from analysis.paper.landed import FIRST_LOOKS, Landed, StudyResults
from analysis.paper.tex import tex
from analysis.paper.values import found_in_words, tally
from analysis.study.claims import STUDIED
from analysis.style import name as arm
from symnoise.theory import LEVEL

_MOST = 1  # rows that a sentence names; the ledger of the study has all
# Contrasts of the studies with one seed.
LOOKED_AT = (("uniform", "none"), ("symnoise", "uniform"), ("symnoise", "independent-pair"))


def paragraphs(landed: Landed) -> str:
    """For each study: its size, what it found at its own α, each claim's verdicts; or that it has not been run."""
    said = []
    for study, found in landed.studies.items():
        head = rf"\paragraph{{Study \texttt{{{study}}}}}"
        if found is None:
            said.append(
                f"{head} This study has not been run for this version of the text: there is no ledger of it, and "
                rf"\texttt{{make study STUDY={study}}} makes one." + "\n"
            )
            continue
        shown = "".join(
            rf"\Cref{{fig:{study}-{figure}}} shows these contrasts at its own $\alpha$." for figure in found.frames
        )
        claims = " ".join(_claim(id, found) for id in STUDIED)
        said.append(f"{head} {tex(_size(found))} {claims} {shown}\n")
    return "\n".join([*said, *_first_looks(landed)])


def differences(found: StudyResults, measure: str) -> dict[tuple[str, str], float]:
    """(first, second) arm -> mean paired difference of `measure` at the end, for the contrasts of `LOOKED_AT`."""
    compared = found.at_own_alpha(found.tables["contrasts"])
    end = compared[(compared.when == "end") & (compared.measure == measure) & compared.decoding.isna()]
    means = {(row["first"], row["second"]): row["mean"] for row in end.to_dict("records")}
    return {pair: means[pair] for pair in LOOKED_AT if pair in means}


def _first_looks(landed: Landed) -> list[str]:
    """One paragraph on the studies of one seed: the differences on each data set, without intervals."""
    run = {name: found for name, found in landed.first_looks.items() if found}
    if not run:
        return []
    said = []
    for measure, head, digits in (("held-out loss", "Held-out loss", 3), ("tr H", "tr H", 0)):
        found = [differences(results, measure) for results in run.values()]
        contrasts = [
            f"{arm(first)} − {arm(second)} {', '.join(fixed(one[first, second], digits) for one in found)}"
            for first, second in LOOKED_AT
            if all((first, second) in one for one in found)
        ]
        said.append(f"{head}: {'; '.join(contrasts)}")
    names = listed([FIRST_LOOKS[name] for name in run])
    text = (
        f"Differences at the end with the settings of smollm2, one seed and so no interval, on {names}, in this order. "
    )
    return [rf"\paragraph{{Other data sets}} {tex(text + '. '.join(said))}." + "\n"]


def in_short(study: str, found: StudyResults) -> str:
    """One sentence: SymNoise against NEFTune's noise and against two draws, in curvature and in held-out loss."""
    compared = found.at_own_alpha(found.tables["contrasts"])
    end = compared[(compared.when == "end") & (compared["first"] == "symnoise") & compared.decoding.isna()]
    said = []
    for rival, words in (("uniform", "NEFTune’s noise"), ("independent-pair", "two draws at its cost")):
        rows = {row["measure"]: row for row in end[end.second == rival].to_dict("records")}
        if {"tr H", "held-out loss"} <= set(rows):
            curved, lost = _difference(rows["tr H"], ""), _difference(rows["held-out loss"], " nats")
            said.append(f"less {words}, tr H {curved} and held-out loss {lost}")
    if not said:
        return ""
    seeds = plural(int(end.pairs.max()), "paired seed")
    where = f"{study}, α = {found.facts['alpha']:g}, {seeds}, 95 % intervals"
    return f"SymNoise after fine-tuning ({where}): {'; '.join(said)}."


def _difference(row: dict[Any, Any], unit: str) -> str:
    """`0.0059 nats (0.0028 to 0.0083; p = 0.041)`."""
    mean, interval = measurement(row["mean"], row["low"], row["high"])
    told = row["verdict"] if row["verdict"] in ("not told apart", "too few seeds") else f"p = {number(row['holm'], 2)}"
    return f"{mean}{unit} ({interval}; {told})"


def _size(found: StudyResults) -> str:
    runs = found.tables["arms"].drop_duplicates(["setting", "arm", "alpha"])
    total, lost = int(runs.runs.sum()), int(runs.diverged.sum())
    most = max((row["n"] for row in found.rows if row["id"] in ("O1", "O3", "O4")), default=0)
    said = f"{plural(total, 'run')}, of which {plural(lost, 'run').split()[0]} diverged; {plural(len(runs), 'setting')}"
    said += f" of arm and noise; at most {plural(most, 'pair')} of seeds a contrast."
    if most > 1:
        t = float(stats.t.ppf(0.5 + LEVEL / 2, most - 1))
        said += (
            f" An interval of the ledger then reaches {number(t / most**0.5, 2)} standard deviations of a pair's "
            "difference to each side."
        )
    power = found.tables["power"]
    if "seeds_needed" in power and power.seeds_needed.notna().any():
        needed = power.dropna(subset="seeds_needed")
        worst = needed.sort_values("seeds_needed").to_dict("records")[-1]
        said += (
            f" To find the difference of {found.facts['effect']:g} nats that was named beforehand, a paired test "
            f"needs {needed.seeds_needed.median():.0f} seeds for the median contrast, by the spread seen, and "
            f"{worst['seeds_needed']:.0f} for {arm(worst['first'])} − {arm(worst['second'])}."
        )
    return said[:1].upper() + said[1:]


def _claim(id: str, found: StudyResults) -> str:
    """`O1: 3 hold and 9 are undecided. It fails on: …`, with what a reader needs to weigh it."""
    rows = [row for row in found.rows if row["id"] == id]
    if not rows:
        return rf"\claim{{{id}}}: not run, since no two arms of it were compared."
    said = rf"\claim{{{id}}}: of {plural(len(rows), 'prediction')}, {tally(rows)}."
    failed = [row for row in rows if row["verdict"] == "fails"]
    if failed:
        rest = len(failed) - _MOST
        more = f"; and {rest} more" if rest > 0 else ""
        said += " It fails on " + "; ".join(found_in_words(row) for row in failed[:_MOST]) + more + "."
    more_to_say = {"N3": _growth, "O1": _by_rival, "O2": _length, "O3": _scale}.get(id)
    return f"{said} {tex(more_to_say(found))}".rstrip() if more_to_say else said


def _growth(found: StudyResults) -> str:
    """How much more the used rows grow than without noise, and what merely more rows a step do."""
    compared = found.at_own_alpha(found.tables["contrasts"])
    own = compared[(compared.measure == "used-row norm growth") & (compared.second == "none")]
    own = own[own["first"].isin(("uniform", "symnoise", "none-double-batch"))]
    said = [f"{number(100 * row['mean'], 2)} % for {arm(row['first'])}" for row in own.to_dict("records")]
    alpha = f"α = {found.facts['alpha']:g}"
    return f"At {alpha} their norms grow, beyond those without noise, by {', '.join(said)}." if said else ""


def _by_rival(found: StudyResults) -> str:
    """O1 by what SymNoise is held against: one draw costs half of what a pair costs, two draws cost the same."""
    said = []
    for rival, words in (("uniform", "one uniform draw"), ("independent-pair", "two draws at the same cost")):
        rows = [row for row in found.rows if row["id"] == "O1" and f".symnoise.{rival}." in f"{row['key']}."]
        if rows:
            said.append(f"against {words}, {tally(rows)}")
    return f"That is, {'; '.join(said)}." if said else ""


def _length(found: StudyResults) -> str:
    """How far scores of replies go with their length."""
    table = found.tables["associations"]
    own = table[(table.quantity == "length") & table.method.str.startswith("Spearman")].sort_values("value")
    said = [f"{fixed(row['value'], 2)} ({row['outcome'].replace(', end', '')})" for row in own.to_dict("records")]
    if not said:
        return ""
    ends = " to ".join(dict.fromkeys((said[0], said[-1])))
    return f"Scores go with the length of the replies themselves: Spearman’s ρ over the runs is {ends}."


def _scale(found: StudyResults) -> str:
    """The margin, and how much noise itself changes, beside which it must be read."""
    compared = found.tables["contrasts"]
    own = compared[(compared.measure == "held-out loss") & (compared.when == "end")]
    own = own[(own["first"] == "uniform") & (own.second == "none")]
    effects = ", ".join(f"{number(row['mean'], 2)} at α = {row['alpha']:g}" for row in own.to_dict("records"))
    margin = f"The margin is {found.facts['margin']:g} nats"
    return f"{margin}; noise itself (uniform − none, at the end) changes {effects}." if effects else f"{margin}."
