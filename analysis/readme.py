"""The generated parts of the README and of docs/results.md: findings, costs, verdicts, studies.

python -m analysis.readme results/quick     # publish that run in docs/quick, then do as below
python -m analysis.readme                   # write the generated parts from the published results
"""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from analysis.budgets import ALPHAS
from analysis.comparisons import CURVED, HELD_OUT, every
from analysis.endpoints import endpoints
from analysis.findings import findings
from analysis.ledger import TITLES, of_kind
from analysis.length import side_by_side
from analysis.paper.published import Budgets, Length, Published, StudyResults, read_published, table_path
from analysis.records import read_run
from analysis.study.contrasts import LEVEL
from analysis.style import name as arm
from analysis.summary import in_short, regimes, table_line, tallies
from result_schema.bad_input import one_line_on_bad_input
from result_schema.bench import OWN, TWO_LEVELS
from result_schema.files import ROOT, there
from result_schema.measures import SPLIT
from symnoise.core import InputError, write_atomically, write_json
from symnoise.plot.numbers import listed, with_interval
from symnoise.plot.page import write_csv
from symnoise.theory import CLAIMS, OUTCOMES, PREFERENCES, counts

PUBLISHED = ROOT / "docs" / "quick"
PAGES = (ROOT / "README.md", ROOT / "docs" / "results.md")
# Columns of the studies' tables. The training loss is the mean over a run of each arm's own noisy objective.
DIFFERENCES = {"training loss": "mean noisy training loss, nats", "held-out loss": "held-out loss, nats"} | {
    p: p for p in SPLIT
}
PICTURES = ("validity.png", "curvature.png", "slopes.png", "variances.png")


def table(rows: list[dict[str, Any]]) -> str:
    """Predictions, then identities, one line per claim: how many rows hold, fail and are undecided, and which fail."""
    tables = []
    for kind, (title, note) in TITLES.items():
        lines = [f"**{title}.** {note}", "", "| claim | | holds | fails | undecided | fails on |"]
        lines.append("|---|---|---|---|---|---|")
        for claim in CLAIMS.values():
            mine = [row for row in of_kind(rows, kind) if row["id"] == claim.id]
            if mine:
                failing = [f"{row['quantity']} ({row['where']})" for row in mine if row["verdict"] == "fails"]
                said = map(str, counts(mine).values())
                lines.append(table_line(claim.id, claim.statement, *said, "; ".join(failing)))
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def stages(run: dict[str, Any]) -> str:
    """One line per claim: where it is measured, how long those stages took, and the records they write."""
    lines = ["| claim | measured by `make reproduce` in | seconds | record |", "|---|---|---|---|"]
    for id in CLAIMS:
        names = [name for name in run["stages"] if id in run["claims"].get(name, [])]
        if not names:
            continue
        seconds = sum(run["stages"][name] for name in names)
        files = ", ".join(f"`stages/{name}.json`" for name in names)
        lines.append(f"| {id} | {', '.join(names)} | {seconds:.0f} | {files} |")
    return "\n".join(lines)


def studies(found: dict[str, StudyResults | None], others: dict[str, StudyResults | None] | None = None) -> str:
    """The published studies: verdicts by claim (including `others`), then SymNoise's contrasts at each study's own α;
    if none is published, a sentence that says so."""
    run = {name: study for name, study in found.items() if study}
    if not run:
        return "No study has been run to its end yet: `micro-smoke` gives a test, not a result."
    shown = run | {name: study for name, study in (others or {}).items() if study}
    lines = ["| claim | | by study |", "|---|---|---|"]
    for claim in OUTCOMES.values():
        by_tally: dict[str, list[str]] = {}
        for name, study in shown.items():
            if rows := [row for row in study.rows if row["id"] == claim.id]:
                by_tally.setdefault(_tally(rows), []).append(f"`{name}`")
        if by_tally:
            told = "; ".join(f"{tally} ({', '.join(names)})" for tally, names in by_tally.items())
            lines.append(table_line(claim.id, claim.statement, told))
    parts = ["\n".join(lines)]
    for name, study in run.items():
        parts.append(_differences(name, study))
    return "\n\n".join(part for part in parts if part)


def mechanism(found: dict[str, StudyResults | None]) -> str:
    """The endpoints that studies named before their runs, and how well slopes fit; "" if no study has been run."""
    rows = [
        table_line(one.study, f"{one.measure}, {one.compared}", one.seeds, one.value, one.p, one.worth)
        for one in endpoints(found)
    ]
    head = table_line("study", "endpoint", "seeds", "difference or slope, 95 % interval", "Holm's p", "worth knowing")
    return "\n".join([head, "|---|---|---|---|---|---|", *rows, *_lack_of_fit(found)]) if rows else ""


def _lack_of_fit(found: dict[str, StudyResults | None]) -> list[str]:
    """What the plane of slopes leaves of the cells, where slopes are endpoints."""
    tables = [study.tables["dials"] for study in found.values() if study and "dials" in study.tables]
    lacks = [lack for table in tables for lack in table[table.primary].lack]
    if not lacks:
        return []
    least, most = (f"{100 * lack:.0f}" for lack in (min(lacks), max(lacks)))
    return [
        "",
        "Slopes are those of a plane in μ and λ² over all cells (λ up to 3), and the cells do not lie on it: it misses "
        f"them by {least} to {most} % of their range (root mean square). What weights of 1 do is larger in most cases; "
        "what was found, above, has it.",
    ]


def budgets(found: Budgets | None) -> str:
    """ρ, and the even part's share along the gradient, by run, point of training and α; then G1's verdicts; "" if
    nothing has been measured."""
    if found is None:
        return ""
    quantities = {"ratio": "r", "rho": "ρ = V_odd/V_batch", "shrinkage": "⟨E, g₀⟩/‖g₀‖²", "cosine": "cos(E, g₀)"}
    lines = [table_line("run", "of training", "α", *quantities.values()), "|---|---|---|" + "---|" * len(quantities)]
    points = found.points.rename(columns={"value": "mean"})
    for (run, when, alpha), own in points.groupby(["run", "when", "alpha"], sort=False):
        rows = own.set_index("quantity")
        cells = [with_interval(rows.loc[name].to_dict()) for name in quantities]
        lines.append(table_line(str(run), str(when), f"{alpha:g}", *cells))
    sizes = listed([f"{alpha:g}" for alpha in ALPHAS])
    return "\n".join([*lines, "", f"**G1** {OUTCOMES['G1'].statement}. At α = {sizes}: {_tally(found.rows)}."])


def length(found: Length | None) -> str:
    """Every adjustment's gains, then Z1's verdicts; "" if nothing has been computed."""
    if found is None:
        return ""
    head, lines = side_by_side(found.gains)
    tally = f"**Z1** {PREFERENCES['Z1'].statement}: {_tally(found.rows)}."
    return "\n".join(
        [table_line(*head), "|---|" + "---|" * (len(head) - 1), *(table_line(*one) for one in lines), "", tally]
    )


def _differences(name: str, study: StudyResults) -> str:
    """Paired differences at the end, at the study's own α, for the contrasts that claims are about."""
    compared = study.at_own_alpha(study.tables["contrasts"])
    end = compared[(compared.family == "main") & (compared.when == "end") & compared.decoding.isna()]
    where = f"`{name}`, α = {study.facts['alpha']:g}, end, with {100 * LEVEL:g} % intervals"
    lines = [table_line(where, "pairs", *DIFFERENCES.values()), "|---|---|" + "---|" * len(DIFFERENCES)]
    for (first, second), own in end.groupby(["first", "second"], sort=False):
        cells = []
        for measure in DIFFERENCES:
            (row,) = own[own.measure == measure].to_dict("records")
            cells.append(with_interval(row))
        lines.append(table_line(f"{arm(str(first))} − {arm(str(second))}", str(own.pairs.max()), *cells))
    return "\n".join(lines)


def _tally(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{n} {word}" for word, n in counts(rows).items() if n) or "not measured"


def costs(published: Published) -> str:
    """The costs of measuring and training, as ratios from one run of `make bench`."""
    if published.peers is None:
        raise InputError("docs/peers.csv is missing; run `make bench`")
    bench, peers = published.bench.set_index("key"), published.peers.set_index("method")
    training = pd.read_csv(ROOT / "docs" / "training.csv").set_index("loop")
    taylor, halves, products = (bench.loc[key] for key in ("taylor", "taylor-bfloat16", "products"))
    others = peers[~peers.index.isin(OWN) & (peers.malloc != "as found")]
    plain, noise, pair = (training.loc[loop] for loop in ("plain Trainer", "unpaired noise", "pair, one doubled batch"))
    rows = {
        "single-draw noise in training": f"{noise.noise_ms:.1f} ms of a step of {plain.step_seconds:.1f} s",
        "a mirrored pair": f"{pair.time_ratio:.1f} plain steps",
        "tr H, per probe: Taylor mode; with bfloat16 coefficients; Hessian products": (
            f"{taylor.forwards:.1f}; {halves.forwards:.1f}; {products.forwards:.1f} forward passes"
        ),
        "memory above the model: Taylor mode; Hessian products": (
            f"{taylor.memory_gib:.1f}; {products.memory_gib:.1f} GiB"
        ),
        "best other method ÷ symnoise, forward passes to 5 % standard error": (
            f"{others.work_ratio.min():.1f} in float32, {others.work.min() / peers.loc[TWO_LEVELS].work:.1f} with most "
            "probes in bfloat16 (two levels, unbiased)"
        ),
    }
    return "\n".join(["| | |", "|---|---|", *(table_line(what, cost) for what, cost in rows.items())])


def written(page: str, published: Published) -> str:
    """A page with its generated parts between their markers."""
    told, found = findings(published), every(published)
    uncounted = [finding.short for finding in told if not finding.counted]
    parts = {
        "short": in_short(published),
        "answers": "\n\n".join([tallies(found), "\n".join(uncounted)]),
        "findings": "\n\n".join(
            [*(regimes(found, m) for m in (HELD_OUT, CURVED)), "\n".join(one.whole for one in told)]
        ),
        "costs": costs(published),
        "ledger": f"{table(published.rows)}\n\n{stages(published.run)}",
        "studies": studies(published.studies, published.mechanism),
        "mechanism": mechanism(published.mechanism),
        "budgets": budgets(published.budgets),
        "length": length(published.length),
    }
    for name, text in parts.items():
        start, end = f"<!-- {name}:", f"<!-- end of {name} -->"
        if start not in page:
            continue
        head, rest = page.split(start, 1)
        mark, rest = rest.split("\n", 1)
        page = f"{head}{start}{mark}\n\n{text}\n\n{end}{rest.split(end, 1)[1]}"
    return page


def publish_data(run: Path, published: Path) -> None:
    """Copy the run's tables, the data of every figure, and which model, text and versions they come from."""
    folder = published / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((run / "figures").glob("*.csv")):
        shutil.copy(path, folder / path.name)
    for name, found in read_run(run).tables.items():
        write_csv(table_path(published, name), found)
    record = json.loads((run / "stages" / "sources.json").read_text(encoding="utf-8"))
    facts = {key: record[key] for key in ("commit", "python", "versions")} | record["result"]
    write_json(folder / "sources.json", facts)


def main(run: Annotated[Path | None, typer.Argument()] = None) -> None:
    """Publish a run, if one is given, and write the tables."""
    if run is not None:
        PUBLISHED.mkdir(parents=True, exist_ok=True)
        for path in (run / "ledger.json", run / "run.json", *(run / "figures" / name for name in PICTURES)):
            shutil.copy(there(path, "name the folder of a whole run of `python -m experiments.quick`"), PUBLISHED)
        publish_data(run, PUBLISHED)
    published = read_published()
    for page in PAGES:
        text = written(page.read_text(encoding="utf-8"), published)
        write_atomically(page, partial(Path.write_text, data=text, encoding="utf-8"))


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
