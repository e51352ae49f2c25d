"""What the studies found, in sentences that are computed: whichever way it fell."""

from typing import Any

from scipy import stats

from analysis.paper.published import FIRST_LOOKS, Published, StudyResults
from analysis.paper.tex import tex
from analysis.paper.values import found_in_words, tally
from analysis.style import name as arm
from result_schema.measures import SPLIT
from symnoise.plot.numbers import fixed, listed, measurement, number, plural
from symnoise.theory import LEVEL, OUTCOMES

_MOST = 1  # rows that a sentence names; the ledger of the study has all
# Contrasts of the studies with one seed.
_IN_SHORT = (
    ("training loss", "training loss", " nats"),
    ("held-out loss", "held-out loss", " nats"),
    *((part, part, "") for part in SPLIT),
)
BY_DIALS = "D1"  # is about arms with dials alone
LOOKED_AT = (("uniform", "none"), ("symnoise", "uniform"), ("symnoise", "independent-pair"))


def paragraphs(published: Published) -> str:
    """For each study: its size, what it found at its own α, each claim's verdicts; or that it has not been run."""
    said = []
    for study, found in published.studies.items():
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
        claims = " ".join(_claim(id, found) for id in OUTCOMES if id != BY_DIALS)
        said.append(f"{head} {tex(_size(found))} {claims} {shown}\n")
    return "\n".join([*said, *_mechanism(published), *_first_looks(published)])


def _mechanism(published: Published) -> list[str]:
    """The verdicts on the slopes, of each study with dials."""
    run = {name: found for name, found in published.mechanism.items() if found and "dials" in found.tables}
    return [rf"\paragraph{{Study \texttt{{{name}}}}} {_claim(BY_DIALS, found)}" + "\n" for name, found in run.items()]


def differences(found: StudyResults, measure: str) -> dict[tuple[str, str], float]:
    """(first, second) arm -> mean paired difference of `measure` at the end, for the contrasts of `LOOKED_AT`."""
    compared = found.at_own_alpha(found.tables["contrasts"])
    end = compared[(compared.when == "end") & (compared.measure == measure) & compared.decoding.isna()]
    means = {(row["first"], row["second"]): row["mean"] for row in end.to_dict("records")}
    return {pair: means[pair] for pair in LOOKED_AT if pair in means}


def _first_looks(published: Published) -> list[str]:
    """One paragraph on the studies of one seed: the differences on each data set, without intervals."""
    run = {name: found for name, found in published.first_looks.items() if found}
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
    """Noise against none, and SymNoise against NEFTune and two draws: differences, and the verdicts of primary ones."""
    compared = found.at_own_alpha(found.tables["contrasts"])
    end = compared[(compared.when == "end") & compared.decoding.isna()]
    said = []
    for first, second in LOOKED_AT:
        own = end[(end["first"] == first) & (end.second == second)].drop_duplicates("measure")
        rows = {row["measure"]: row for row in own.to_dict("records")}
        parts = [f"{word} {_difference(rows[m], unit)}" for m, word, unit in _IN_SHORT if m in rows]
        if parts:
            said.append(f"{arm(first)} minus {arm(second)}: {', '.join(parts)}")
    if not said:
        return ""
    seeds = plural(int(end.pairs.max()), "paired seed")
    kind = "primary endpoints corrected by Holm" if end.primary.any() else "exploratory"
    where = f"{study}, α = {found.facts['alpha']:g}, {seeds}, 95 % intervals, {kind}"
    return f"After fine-tuning ({where}): {'; '.join(said)}."


def _difference(row: dict[Any, Any], unit: str) -> str:
    """`Δ = 0.0059 nats (0.0028 to 0.0083)`, with the verdict where the endpoint was primary."""
    mean, interval = measurement(row["mean"], row["low"], row["high"])
    told = f"; {row['verdict']}" if row["primary"] else ""
    return f"Δ = {mean}{unit} ({interval}{told})"


def _size(found: StudyResults) -> str:
    runs = found.tables["arms"].drop_duplicates(["setting", "arm", "alpha"])
    total, lost = int(runs.runs.sum()), int(runs.diverged.sum())
    most = max((row["n"] for row in found.rows if row["id"] in ("O1", "O3", "O4")), default=0)
    said = f"{plural(total, 'run')}, of which {lost or 'no'} diverged; {plural(len(runs), 'setting')}"
    said += f" of arm and noise; at most {plural(most, 'pair')} of seeds a contrast."
    if most > 1:
        t = float(stats.t.ppf(0.5 + LEVEL / 2, most - 1))
        said += (
            f" An interval of the ledger then reaches {number(t / most**0.5, 2)} standard deviations of a pair's "
            "difference to each side."
        )
    power = found.tables["power"]
    if "seeds_needed" in power and power.seeds_needed.notna().any():
        for row in power.dropna(subset="seeds_needed").to_dict("records"):
            said += (
                f" {arm(row['first'])} − {arm(row['second'])} in {row['measure']}: a paired test finds "
                f"{number(row['effect'], 2)} with 80 % from {row['seeds_needed']:.0f} seeds on, by the spread seen."
            )
    else:
        said += " No primary endpoints were named before its runs: what is said of it is exploratory."
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
    more_to_say = {"O1": _by_rival, "O2": _length, "O3": _scale}.get(id)
    return f"{said} {tex(more_to_say(found))}".rstrip() if more_to_say else said


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
    own = table[(table.quantity == "length") & (table.method == "between settings")].dropna(subset="value")
    own = own.sort_values("value")
    said = [f"{fixed(row['value'], 2)} ({row['outcome'].replace(', end', '')})" for row in own.to_dict("records")]
    if not said:
        return ""
    ends = " to ".join(dict.fromkeys((said[0], said[-1])))
    return f"Scores correlate with the length of the replies: the rank correlation over settings of one α is {ends}."


def _scale(found: StudyResults) -> str:
    """The margin, and how much noise itself changes, which it is a share of."""
    compared = found.tables["contrasts"]
    own = compared[(compared.measure == "held-out loss") & (compared.when == "end")]
    own = own[(own["first"] == "uniform") & (own.second == "none")]
    effects = ", ".join(f"{number(row['mean'], 2)} at α = {row['alpha']:g}" for row in own.to_dict("records"))
    margin = "The margin is a fifth of what noise itself changes in that outcome at that α"
    return f"{margin}; in held-out loss (uniform − none, at the end), that is {effects}." if effects else f"{margin}."
