"""The paper's tables, as LaTeX."""

import itertools
import math

import pandas as pd

from analysis.endpoints import Endpoint, endpoints
from analysis.intervals import PERCENT
from analysis.ledger import PRETRAINED, line
from analysis.length import side_by_side
from analysis.paper.published import Published, StudyResults
from analysis.paper.tex import rows_of, table, tex
from analysis.paper.values import BENCH
from analysis.style import name
from result_schema.measures import ENDS, SPLIT
from symnoise.plot.numbers import decimals_for, fixed, number, with_interval
from symnoise.theory import CLAIMS, OUTCOMES, PREFERENCES, counts

NOT_RUN = r"\emph{not run}"
# Each claim in a few words; the text states its formula.
SHORT = {
    "M1": "mean of the squared norm",
    "M2": "its variance; the mean norm",
    "M3": "odd moments of a pair vanish",
    "S1": "smoothed loss to fourth order",
    "S2": "calibrated laws differ at fourth order",
    "S3": "an uncalibrated Gaussian: at second order",
    "P1": "odd orders cancel for each draw",
    "P2": "variance over draws: one, two, a pair",
    "P3": "Rademacher has the least variance",
    "P4": "a pair penalises two parts of curvature",
    "V1": "training noise is in the quadratic regime",
    "N1": "mean growth of the squared norm",
    "N2": "parallelogram; variance of one draw",
    "N3": "noise pushes norms outward",
    "L1": "linear maps make laws alike",
    "X1": "a raw Gaussian is a larger one",
    "R1": "noise relative to a token",
    "O1": "SymNoise leaves less curvature",
    "O2": "less curvature, better outcome",
    "O3": "calibrated laws are equivalent",
    "O4": "none, NEFTune, SymNoise in order",
    "D1": "outcomes follow the even part, not the odd",
    "G1": "a pair is worth less than a doubled batch",
    "E1": "noise makes the end mark less likely; not the mirror",
    "Z1": "at equal length at most half of NEFTune's gain is left",
}
_LONG = 8  # characters of a measurement
SHOWN = ("training loss", "held-out loss", "length", *SPLIT)
_CURVATURE = {"tr H": r"$\operatorname{tr}H$", "tr G": r"$\operatorname{tr}G$", "C": r"$C(\sigma)$"}


def claims(published: Published) -> str:
    """Verdicts by claim, of the quick run and of the studies."""
    cells = []
    run = (published.studies | published.mechanism).values()
    everywhere = [*published.rows, *(row for one in run if one for row in one.rows)]
    everywhere += [row for one in (published.length, published.budgets) if one for row in one.rows]
    for id in CLAIMS | OUTCOMES | PREFERENCES:
        found = [row for row in everywhere if row["id"] == id]
        told = [row for row in found if id not in OUTCOMES or (row["low"], row["high"]) != (None, None)]
        numbers = [*counts(told).values(), len(found) - len(told)]
        said = [str(n or "--") for n in numbers] if found else [NOT_RUN, "", "", ""]
        cells.append([rf"\claim{{{id}}}", SHORT[id], *said])
    caption = (
        f"Every claim and the verdicts on its predictions (intervals: {tex(PERCENT)}). The rows themselves are in "
        r"\cref{tab:ledger}; rows \claim{O1} to \claim{E1} count the fine-tuning studies, \claim{Z1} "
        "published preferences. Last column: rows of studies without an interval, as where few arms share an $\\alpha$."
    )
    head = ["", "claim", "holds", "fails", "undec.", "none"]
    columns = r"@{}l>{\raggedright\arraybackslash}p{1.6in}cccc@{}"
    return table(columns, head, rows_of(cells), caption, "tab:claims", wide=False)


def ledger_table(published: Published) -> str:
    """The quick run's rows on the pretrained model, and all other rows that do not hold."""
    cells = []
    chosen = [row for row in published.rows if row["verdict"] != "holds" or row["subject"] in PRETRAINED]
    for row in chosen:
        said = line(row)
        verdict = rf"\textbf{{{said.verdict}}}" if said.verdict == "fails" else said.verdict
        numbers = (said.prediction, said.measured, said.interval)
        if len(said.measured) > _LONG and said.interval != "no interval":  # a bound on rounding is tighter than needed
            digits = 3 if "·" in said.measured else 5
            expected, value, low, high = (number(row[key], digits) for key in ("prediction", "measured", "low", "high"))
            numbers = (expected if row["relation"] == "equals" else said.prediction, value, f"{low} to {high}")
        words = (row["quantity"], said.where, *numbers, said.n.replace(" ", "\u2009"))
        cells.append([rf"\claim{{{row['id']}}}", *map(tex, words), verdict])
    head = " & ".join(["", "quantity", "on", "prediction", "measured", "interval", "$n$", "verdict"])
    caption = (
        "The ledger: predictions, made before their measurement, on the pretrained model, and those that do not hold "
        f"elsewhere, with the {tex(PERCENT)} interval or a bound on rounding. The other "
        f"{len(published.rows) - len(chosen)} rows all hold; "
        r"\texttt{docs/quick/ledger.json} has every one."
    )
    return (
        "\\begin{longtable}{@{}l>{\\raggedright\\arraybackslash}p{2.3in}>{\\raggedright\\arraybackslash}p{1.25in}rrrrl@{}}\n"
        f"\\caption{{{caption}}}\\label{{tab:ledger}}\\\\\n\\toprule\n{head} \\\\\n\\midrule\n\\endfirsthead\n"
        f"\\toprule\n{head} \\\\\n\\midrule\n\\endhead\n\\bottomrule\n\\endfoot\n{rows_of(cells)}\n\\end{{longtable}}\n"
    )


def bench(published: Published) -> str:
    """Cost and memory per probe."""
    cells = []
    for key in BENCH:
        row = published.bench[published.bench["key"] == key].iloc[0]
        error = "" if math.isnan(row.error) else rf"{number(100 * row.error, 1)}\,\%"
        cells.append([tex(row["work"]), number(row.forwards, 2), number(row.memory_gib, 2), error])
    caption = (
        "Work in plain forward passes without gradients (for methods with probes: per probe), peak memory above the "
        "model, and relative error where a method is not exact to rounding. Taylor rows include everything; a "
        "Hessian product needs the set-up once."
    )
    head = ["work", "forwards", "GiB", "error"]
    return table(
        r"@{}>{\raggedright\arraybackslash}p{1.75in}rrr@{}", head, rows_of(cells), caption, "tab:bench", wide=False
    )


def peers(published: Published) -> str:
    """The same trace by other libraries, or a sentence that it has not been run."""
    if published.peers is None:
        return (
            r"The comparison with hessian-eigenthings, PyHessian and curvlinops on the same trace has not been run "
            r"for this version of the text (\texttt{make bench} writes it)."
            "\n"
        )
    retained = published.peers[published.peers.malloc != "as found"]
    as_found = published.peers[published.peers.malloc == "as found"].set_index("method")
    cells = []
    for row in retained.to_dict("records"):
        found = as_found.work.get(row["method"], math.nan)
        words = [row["method"], *(number(x, 3) for x in (row["forwards"], row["work"] / 1000, found / 1000))]
        cells.append([tex(word) for word in (*words, number(row["memory_gib"], 2))])
    caption = (
        "The same trace to the same standard error by several libraries: forward passes per probe, thousands of "
        "forward passes in total with freed memory kept by the process, the same with the C library's default setting "
        "(the engine sets its own), and peak memory above the model in GiB."
    )
    head = ["method", "per probe", "total", "as found", "GiB"]
    made = table(
        r"@{}>{\raggedright\arraybackslash}p{1.35in}rrrr@{}", head, rows_of(cells), caption, "tab:peers", wide=False
    )
    return made + r"\Cref{tab:peers} compares the engine with other libraries on the same trace." + "\n"


def mechanism(published: Published) -> str:
    """The endpoints that the mechanism studies named before their runs."""
    head = ["study, seeds; compared", *(_CURVATURE.get(measure, measure) for measure in ENDS)]
    lines = []
    for study, group in itertools.groupby(endpoints(published.mechanism), lambda one: one.study):
        found = list(group)
        worth = {one.measure: f"worth knowing: {one.worth}" for one in found}
        lines.append([rf"\texttt{{{study}}}, {found[0].seeds} seeds", *(tex(worth.get(one, "")) for one in ENDS)])
        for compared in dict.fromkeys(one.compared for one in found):
            values = {one.measure: _endpoint(one) for one in found if one.compared == compared}
            lines.append([rf"\hangindent1.5em\quad {tex(compared)}", *(values.pop(measure, "--") for measure in ENDS)])
            lines += [[rf"\qquad {tex(measure)}", value, "", ""] for measure, value in values.items()]
    caption = (
        "The endpoints that the studies of the mechanism named before their runs (for exceptions see "
        r"\cref{sec:question}, How we know): differences between arms, or slopes "
        r"on the weight $\mu$ of a draw's even part and on the squared weight $\lambda$ of its odd part, with "
        r"95\,\% intervals over seeds. A dagger: Holm's p over the study's endpoints is above 5\,\%, as it "
        "always is with five seeds, whose least p is 1/16. In the line of a study's name, the difference worth "
        "knowing, from its file."
    )
    columns = r"@{}>{\scriptsize\raggedright\arraybackslash}p{2.1in}*3{>{\scriptsize}l}@{}"
    return _wide(columns, head, lines, caption, "tab:mechanism")


def _endpoint(one: Endpoint) -> str:
    return tex(one.value) + ("" if one.significant else r"\,\dag")


def length(published: Published) -> str:
    """Gains in preferences by adjustment for length."""
    if published.length is None:
        return "% gains at equal length have not been computed\n"
    head, lines = side_by_side(published.length.gains)
    caption = (
        "Gains in win rate against text-davinci-003 by GPT-4's public preferences, in percentage points with 95\\,\\% "
        "intervals over instructions, by how lengths are made equal. A star: not shown, at the ledger's "
        "level, to keep more than half of every control's gain."
    )
    columns = "@{}l" + ">{\\raggedright\\arraybackslash}p{0.9in}" * (len(head) - 1) + "@{}"
    return table(
        columns,
        [tex(cell) for cell in head],
        rows_of([[tex(cell) for cell in one] for one in lines]),
        caption,
        "tab:length",
        wide=True,
    )


def arms(published: Published) -> str:
    """By study, means and standard deviations over seeds at the end of training, per arm at the study's own α."""
    head = ["arm", r"$\alpha$", "runs", *(_CURVATURE.get(measure, measure) for measure in SHOWN)]
    lines = []
    for study, found in _run(published):
        lines.append(_heading(study, found, len(head)))
        end = found.at_own_alpha(found.tables["arms"].query("when == 'end'"))
        for (arm, _), own in end.groupby(["arm", "alpha"], dropna=False, sort=False):
            cells = [_mean(own[own.measure == measure]) for measure in SHOWN]
            facts = own.iloc[0]
            runs = f"{facts.runs:.0f}" + (f" ({facts.diverged:.0f} div.)" if facts.diverged else "")
            lines.append([tex(name(str(arm))), "--" if pd.isna(facts.alpha) else f"{facts.alpha:g}", runs, *cells])
    caption = (
        r"The arms of each study at its own $\alpha$: mean and standard deviation over seeds at the end of training. "
        "Losses in nats per token; the training loss is each arm's own noisy objective. Length of greedy "
        "replies; curvature on held-out rows."
    )
    return _wide("@{}llr" + "r" * len(SHOWN) + "@{}", head, lines, caption, "tab:arms")


def _run(published: Published) -> list[tuple[str, StudyResults]]:
    return [(study, found) for study, found in published.studies.items() if found]


def _heading(study: str, found: StudyResults, width: int) -> list[str]:
    pairs = f"{found.tables['contrasts'].pairs.max():.0f} seeds" if len(found.tables["contrasts"]) else "one arm"
    return [rf"\multicolumn{{{width}}}{{@{{}}l}}{{\emph{{Study \texttt{{{study}}}, {pairs}}}}}"]


def _wide(columns: str, head: list[str], lines: list[list[str]], caption: str, label: str) -> str:
    return table(columns, head, rows_of(lines), caption, label, wide=True) if lines else "% no study has been run\n"


def _mean(own: pd.DataFrame) -> str:
    """Mean ± standard deviation; with several decodings, the first in alphabetical order (greedy)."""
    if own.empty:
        return "--"
    row = own.sort_values("decoding").iloc[0]
    decimals = decimals_for(row["mean"] - row.sd, row["mean"] + row.sd)
    if decimals is None:
        return tex(number(row["mean"]))
    return tex(f"{fixed(row['mean'], decimals)} ± {fixed(row.sd, decimals)}")


def contrasts(published: Published) -> str:
    """By study, at its own α, paired differences at the end in training loss, held-out loss and tr G."""
    measures = ("training loss", "held-out loss", "tr G")
    head = ["contrast", "pairs", *(tex(measure) for measure in measures)]
    lines = []
    for study, found in _run(published):
        compared = found.at_own_alpha(found.tables["contrasts"])
        chosen = compared[(compared.family == "main") & (compared.when == "end") & compared.decoding.isna()]
        lines.append(_heading(study, found, len(head)))
        for (first, second), own in chosen.groupby(["first", "second"], sort=False):
            rows = {row["measure"]: row for row in own.to_dict("records")}
            cells = [tex(with_interval(rows[m])) if m in rows else "--" for m in measures]
            lines.append([tex(f"{name(str(first))} − {name(str(second))}"), str(own.pairs.max()), *cells])
    caption = (
        r"Differences, first arm minus second, over pairs of the same seed, with 95\,\% intervals. Losses in nats per "
        r"token; the training loss is each arm's own noisy objective. $\tr G$ on held-out rows. "
        "No endpoints were named before these runs: every row is exploratory."
    )
    return _wide("@{}lr" + "r" * len(measures) + "@{}", head, lines, caption, "tab:contrasts")
