"""Every number quoted in the paper's text, as key -> LaTeX: \\val{key} sets it, \\verdict{row} its verdict."""

import math
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd

from analysis.comparisons import D1_PARTS, HELD_OUT, UNCLEAR, by_training, direction, every
from analysis.family_ledgers import rank_correlation
from analysis.figures.validity import first_text, radius, without_one
from analysis.figures.variances import on_text
from analysis.findings import (
    OVER_DATA,
    QUOTED,
    like_a_batch,
    means_over_data,
    slopes_by_model,
)
from analysis.intervals import PERCENT
from analysis.ledger import headline, line, prediction
from analysis.paper.published import Length, Published
from analysis.paper.tex import escaped, tex
from analysis.study.claims import EQUAL
from result_schema.measures import ENDING, ENDS
from symnoise.core import InputError
from symnoise.plot.numbers import count, fixed, listed, measurement, number, with_interval
from symnoise.theory import CLAIMS, counts
from symnoise.theory.ledger import slug

# name in the text -> key and subject of a row of the published ledger.
ROWS = {
    "S2@ratio": ("S2.ratio", "analytic"),
    "S2@uniform": ("S2.difference.uniform-gaussian.alpha=5", "model"),
    "S2@rademacher": ("S2.difference.rademacher-gaussian.alpha=5", "model"),
    "S3@slope": ("S3.order", "analytic"),
    "S3@alpha=5": ("S3.excess.alpha=5", "model"),
    "P1@alpha=0.5": ("P1.excess.alpha=0.5", "model"),
    "P2@pair,alpha=0.5": ("P2.variance.pair.alpha=0.5", "model"),
    "P2@one,alpha=5": ("P2.variance.one-draw.alpha=5", "model"),
    "P2@pair,alpha=5": ("P2.variance.pair.alpha=5", "model"),
    "P3@tiny": ("P3.least.gaussian", "tiny"),
    "P3@model": ("P3.diagonal", "model"),
    "P4@G": ("P4.gauss-newton.alpha=1", "model"),
    "P4@R": ("P4.rest.alpha=1", "model"),
    "V1@tiny": ("V1.slope.these.alpha=5", "tiny"),
    "V1@alpha=15": ("V1.slope.alpha=15", "model"),
    "V1@these,alpha=5": ("V1.slope.these.alpha=5", "model"),
    "V1@these,alpha=10": ("V1.slope.these.alpha=10", "model"),
    "V1@these,alpha=15": ("V1.slope.these.alpha=15", "model"),
    "V1@ratio,alpha=5": ("V1.ratio-of-means.these.alpha=5", "model"),
    "V1@ratio,alpha=10": ("V1.ratio-of-means.these.alpha=10", "model"),
    "V1@ratio,alpha=15": ("V1.ratio-of-means.these.alpha=15", "model"),
    "V1@ratio,second,alpha=10": ("V1.ratio-of-means.these.second-text.alpha=10", "model"),
    "N3@invariant": ("N3.identity.scale-invariant", "tiny"),
    "N3@premise": ("N3.premise", "model"),
    "N3@identity": ("N3.identity", "model"),
}

# name in the text -> study, and key of a row of its ledger.
STUDY_ROWS = {
    "D1@curvature,even": ("dials", "D1.slope.tr-g.even"),
    "D1@held-out,even": ("dials", "D1.slope.held-out-loss.even"),
    "D1@held-out,odd": ("dials", "D1.slope.held-out-loss.odd"),
    "D1@transfer,even": ("transfer-dials", "D1.slope.held-out-loss.even"),
    "D1@transfer,odd": ("transfer-dials", "D1.slope.held-out-loss.odd"),
    "D1@transfer,curvature,even": ("transfer-dials", "D1.slope.tr-g.even"),
    "D1@transfer,curvature,odd": ("transfer-dials", "D1.slope.tr-g.odd"),
    "D1@one-pass,even": ("dials-one-pass", "D1.slope.held-out-loss.even"),
    "D1@one-pass,odd": ("dials-one-pass", "D1.slope.held-out-loss.odd"),
}

# Measures whose contrasts the text may quote.
OUTCOMES_SAID = (*ENDS, "length", "log p(end) at ends", ENDING)

# Names in the text -> settings of a study.
SIZES_SAID = (("reply-tokens", "generating", "max_new_tokens"), ("held-out-rows", "measuring", "held_out"))

# What a contrast does, in the text.
VERBS = {"lower": "lowers", "higher": "raises", UNCLEAR: "does not clearly change"}

# Rows of the bench that the text quotes, by key.
BENCH = (
    "gradient",
    "products",
    "products-found",
    "setup",
    "taylor",
    "taylor-one-group",
    "taylor-4",
    "taylor-bfloat16",
)

# AlpacaEval win rates in per cent as reported by others for LLaMA-2-7B; not measured here. The sources are cited where
# the text quotes them (Jain et al. 2023, arXiv 2310.05914; Yadav and Singh 2023, 2312.01523; 2605.23171).
PUBLISHED = {
    "alpaca/none": "29.79",
    "alpaca/neftune": "64.69",
    "alpaca/symnoise": "69.04",
    "mean/neftune": "72.80",
    "mean/symnoise": "75.33",
}


def values(published: Published) -> dict[str, str]:
    """key -> LaTeX."""
    found = {f"published/{name}": rate for name, rate in PUBLISHED.items()}
    for name in ROWS:
        found |= _row(name, named(name, published.rows))
    for name, (study, key) in STUDY_ROWS.items():
        own = published.mechanism[study]
        found |= _row(name, _only(own.rows if own else [], name, f"results/{study}", "STUDY_ROWS", key=key))
    found |= _counts(published.rows)
    found |= _length(published.length)
    found["G1/tally"] = tally(published.budgets.rows if published.budgets else [])
    rows = [row for one in every(published).values() if one for row in one.rows]
    for id in ("D1", "E1"):
        found[f"{id}/tally"] = tally([row for row in rows if row["id"] == id])
    keys = {"O1/two-draws": "O1.*independent-pair*"} | {f"O3/{slug(m)}": f"O3.{slug(m)}.*" for m in EQUAL}
    for name, key in keys.items():
        found[name] = tally([row for row in rows if fnmatchcase(row["key"], key)])
    for part, chosen in D1_PARTS.items():
        found[f"D1/{part}"] = tally([row for row in rows if row["id"] == "D1" and row["key"] in chosen])
    if batches := published.mechanism["batch-match"]:
        found |= {f"batch-match/like/{slug(m)}": like_a_batch(batches, m) or "no clear size" for m in ENDS[:2]}
    found |= _over_data(published)
    found |= _contrasts(published) | _budgets(published) | _slopes(published)
    found |= _run(published)
    found |= _bench(published.bench)
    found |= _pictures(published)
    return found


def _over_data(published: Published) -> dict[str, str]:
    """The means over data sets, as over-data/smollm2/the-mirror/tr-g; …/best: held-out loss at each run's lowest."""
    found: dict[str, str] = {}
    for model in OVER_DATA:
        for kind, means in means_over_data(every(published), model).items():
            for measure, mean in means.items():
                key = f"over-data/{slug(model)}/{slug(kind)}/{slug(measure)}"
                found |= {key: tex(with_interval(mean)), f"{key}/verb": VERBS[direction(mean)]}
        for kind, means in means_over_data(every(published), model, "best").items():
            found[f"over-data/{slug(model)}/{slug(kind)}/best"] = tex(with_interval(means[HELD_OUT]))
    return found


def named(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The ledger's row of that name. Raises `InputError` if there is none, or more than one."""
    key, subject = ROWS[name]
    return _only(rows, name, "docs/quick", "ROWS", key=key, subject=subject)


def _only(rows: list[dict[str, Any]], name: str, folder: str, table: str, **fields: str) -> dict[str, Any]:
    """The row with these fields. Raises `InputError` if there is none, or more than one."""
    same = [row for row in rows if fields.items() <= row.items()]
    if len(same) != 1:
        raise InputError(
            f"{folder}/ledger.json has {len(same)} rows {' on '.join(fields.values())}; the paper's text names it "
            f"{name}: change {table} in analysis/paper/values.py, or publish another run"
        )
    return same[0]


def _contrasts(published: Published) -> dict[str, str]:
    """STUDY/FIRST-SECOND/MEASURE for contrasts at the end of training, at the study's own α, decoded greedily, with
    …/holm, Holm's p, where they are endpoints; STUDY/best/FIRST-SECOND of the held-out loss at the lowest of each run;
    STUDY/MEASURE/TERM for slopes of dials and STUDY/cell/MEASURE/μ-λ for their cells; each with its 95 % interval.
    STUDY/lack/MEASURE: by how much of their range, in %, the cells lie off the plane of slopes. STUDY/by-training: what
    fine-tuning itself does to the held-out loss.
    STUDY/held-out-rows; STUDY/reply-tokens: at most; …/length/penalty: of replies with a repetition penalty.
    …/verb of a contrast or cell: lowers, raises, or does not clearly change. STUDY/best-before of STUDY/runs have their
    lowest held-out loss before training."""
    found = {}
    for name, study in every(published).items():
        if study is None:
            continue
        if math.isfinite(change := by_training(study, "end")):
            found[f"{name}/by-training"] = tex(fixed(change, 3))
        for (first, second, when), own in study.contrasts.items():
            if when == "best" and HELD_OUT in own:
                found[f"{name}/best/{first}-{second}"] = tex(with_interval(own[HELD_OUT]))
        end = study.at_own_alpha(study.tables["contrasts"]).query("when == 'end'")
        for row in end[end.measure.isin(OUTCOMES_SAID)].to_dict("records"):
            plain = row["decoding"] in ("greedy", "") or pd.isna(row["decoding"])
            key = f"{name}/{row['first']}-{row['second']}/{slug(row['measure'])}{'' if plain else '/penalty'}"
            found |= {key: tex(with_interval(row)), f"{key}/verb": VERBS[direction(row)]}
            found |= {f"{key}/holm": tex(number(row["holm"], 2))} if row["primary"] else {}
        settings = study.facts.get("settings") or {}
        for key, section, setting in SIZES_SAID:
            if section in settings:
                found[f"{name}/{key}"] = str(settings[section][setting])
        if study.untrained:
            found |= {f"{name}/best-before": str(study.untrained.best), f"{name}/runs": str(study.untrained.runs)}
        cells = study.frames.get("dials", pd.DataFrame())
        for row in cells.to_dict("records"):
            measure = slug(row["measure"])
            cell = f"{name}/cell/{measure}/{row['even']:g}-{row['odd']:g}"
            found |= {cell: tex(with_interval(row)), f"{cell}/verb": VERBS[direction(row)]}
            found[f"{name}/seeds"] = str(row["seeds"])
            for term in ("even", "odd"):
                slope = {end: row[f"slope_{term}_{end}"] for end in ("mean", "low", "high")}
                found[f"{name}/{measure}/{term}"] = tex(with_interval(slope))
        slopes = study.tables.get("dials", pd.DataFrame())
        for row in slopes[slopes.primary].to_dict("records") if len(cells) else []:
            found[f"{name}/lack/{slug(row['measure'])}"] = f"{100 * row['lack']:.0f}"
    return found


def _length(found: Length | None) -> dict[str, str]:
    """Z1's verdicts; of the first pair's gain, in percentage points: as published, and the least and most that an
    adjustment leaves of it."""
    if found is None:
        return {"length/tally": tally([])}
    gains = found.gains[found.gains.noisy == found.gains.noisy.iloc[0]].set_index("adjustment")
    left = gains.drop("raw").sort_values("mean").to_dict("records")
    ends = {"raw": gains.loc["raw"].to_dict(), "least": left[0], "most": left[-1]}
    return {f"length/{name}": tex(with_interval(row)) for name, row in ends.items()} | {
        "length/tally": tally(found.rows),
        "length/adjustments": str(len(left)),
    }


def _budgets(published: Published) -> dict[str, str]:
    """budget/RUN/WHEN/QUANTITY at the α of `QUOTED`, with its 95 % interval over batches."""
    if published.budgets is None:
        return {}
    points = published.budgets.points
    own = points[points.alpha == points.run.map(QUOTED)].rename(columns={"value": "mean"})
    return {
        f"budget/{row['run']}/{row['when']}/{row['quantity']}": tex(with_interval(row))
        for row in own.to_dict("records")
    }


def _slopes(published: Published) -> dict[str, str]:
    """slopes/smollm2: r of the main model; slopes/others: slopes and r of others; slopes/rank: over slopes/points."""
    found = published.slopes
    if not found:
        return {}
    told = {name: tex(said) for name, said in slopes_by_model(found).items()}
    told |= {"rank": tex(number(rank_correlation(found), 2)), "points": str(len(found))}
    return {f"slopes/{name}": said for name, said in told.items()}


def _row(name: str, row: dict[str, Any]) -> dict[str, str]:
    measured, interval = measurement(row["measured"], row["low"], row["high"])
    facts = {
        "measured": measured,
        "interval": interval,
        "prediction": prediction(row),
        "n": count(row["n"]).replace(" ", "\u2009"),
    }
    return {f"{name}/{key}": tex(text) for key, text in facts.items()} | {f"{name}/verdict": row["verdict"]}


def _counts(rows: list[dict[str, Any]]) -> dict[str, str]:
    found = {"ledger/rows": str(len(rows)), "ledger/headline": tex(headline(rows)), "ledger/level": tex(PERCENT)}
    found |= {f"ledger/{word}": str(n) for word, n in counts(rows).items()}
    for id in CLAIMS:
        found[f"{id}/tally"] = tally([row for row in rows if row["id"] == id])
    return found


def tally(rows: list[dict[str, Any]]) -> str:
    """`all 8 hold`, `4 hold and 1 fails`, `not run`."""
    if not rows:
        return "not run"
    verbs = {"holds": ("holds", "hold"), "fails": ("fails", "fail"), "undecided": ("is undecided", "are undecided")}
    found = {word: n for word, n in counts(rows).items() if n}
    said = [f"{n} {verbs[word][n > 1]}" for word, n in found.items()]
    if len(found) == 1 and len(rows) > 1:
        return f"all {said[0]}"
    return listed(said)


def found_in_words(row: dict[str, Any]) -> str:
    """`T(σ) at α = 10 (smollm2 on chitchat): 0.73 (0.60 to 0.86) where 1 ± 0.1 is predicted`."""
    said = line(row)
    interval = f" ({said.interval})" if said.interval not in ("exact", "no interval") else ""
    return tex(f"{row['quantity']} ({row['where']}): {said.measured}{interval} where {said.prediction} is predicted")


def _run(published: Published) -> dict[str, str]:
    run, settings = published.run, published.run["settings"]
    text, training, model = settings["text"], settings["training"], published.sources["model"]
    found = {
        "run/minutes": f"{run['seconds'] / 60:.0f}",
        "run/gib": f"{run['peak_rss_mib'] / 1024:.1f}",
        "run/seed": str(settings["seed"]),
        "model/parameters": f"{model['parameters'] / 1e6:.1f}",
        "model/sha256": escaped(next(iter(model["sha256"].values()))[:16]),
        "data/sha256": escaped(published.sources["data"]["sha256"][:16]),
        "data/rows": tex(count(published.sources["data"]["examples"]).replace(" ", "\u2009")),
        "run/commit": escaped(published.sources["commit"][:12]),
        "run/python": published.sources["python"],
    }
    found |= {f"version/{name}": tex(version) for name, version in published.sources["versions"].items()}
    text_keys = ("examples", "max_length", "probes", "coupled_draws", "law_examples")
    for name, section, keys in (
        ("range", settings.get("range", text), ("draws", "examples", "max_length")),
        ("run", text, (*text_keys, "radial_probes", "radial_examples", "radial_tokens")),
        ("training", training, ("steps", "batch", "rows", "held_out")),
    ):
        found |= {f"{name}/{key.replace('_', '-')}": str(section[key]) for key in keys}
    return found | {"training/arms": str(len(training["arms"]))}


def _bench(bench: pd.DataFrame) -> dict[str, str]:
    rows = {name: _bench_row(name, bench) for name in BENCH}
    found = {f"bench/{key}": f"{rows['taylor'][key]:.0f}" for key in ("probes", "groups")}
    for name, row in rows.items():
        found[f"bench/{name}/forwards"] = number(row["forwards"], 2)
        found[f"bench/{name}/memory"] = number(row["memory_gib"], 2)
        if not math.isnan(row["error"]):
            found[f"bench/{name}/error"] = number(100 * row["error"], 1)
    return found


def _bench_row(name: str, bench: pd.DataFrame) -> dict[Any, Any]:
    same = bench[bench["key"] == name].to_dict("records")
    if len(same) != 1:
        raise InputError(f"docs/bench.csv has {len(same)} rows {name!r}, which the paper names; run `make bench`")
    return same[0]


def _radius_without_one(published: Published) -> str:
    """`4.6 to 6.2 with one text left out, 6.4 on the second text`."""
    table = published.tables["validity"]
    others = table[table["where"] != table["where"].iloc[0]]
    second = f", {number(radius(others), 2)} on the second text" if len(others) else ""
    return without_one(published.tables) + second


def _pictures(published: Published) -> dict[str, str]:
    """Numbers about the figures, from the run’s tables."""
    slopes, curvature = first_text(published.tables["validity"]), published.tables["curvature"]
    edge = radius(slopes)
    hessian = curvature[curvature.quantity == "tr H"]
    hessian = hessian[hessian.method == hessian.method.iloc[0]]
    gauss = curvature[curvature.quantity == "tr G"]
    text = on_text(published.tables["variances on text"])
    measured = text.pivot(index="alpha", columns="scheme", values="measured")
    gain = measured["two draws"] / measured["pair"]
    formula = text[text.alpha == gain.index[0]].set_index("scheme").predicted
    moved = published.tables["layers"].set_index(["law", "layer"]).displacement
    last = published.tables["layers"].layer.max()
    ratio = slopes.set_index("alpha").sigma
    return {
        "validity/radius": number(edge, 2) if math.isfinite(edge) else f"over {slopes.alpha.max():g}",
        "validity/radius-without-one": _radius_without_one(published),
        "validity/sigma-at-5": number(float(ratio[5.0]), 2),
        "curvature/examples": str(len(hessian)),
        "curvature/negative": str(int((hessian.value < 0).sum())),
        "curvature/least": tex(fixed(float(hessian.value.min()), 0)),
        "curvature/most": tex(fixed(float(hessian.value.max()), 0)),
        "gauss-newton/least": tex(fixed(float(gauss.value.min()), 0)),
        "gauss-newton/most": tex(fixed(float(gauss.value.max()), 0)),
        "gain/least-alpha": f"{gain.index[0]:g}",
        "gain/at-least-alpha": tex(number(float(gain.iloc[0]), 1)),
        "gain/predicted-at-least-alpha": tex(number(float(formula["two draws"] / formula["pair"]), 2)),
        "gain/at-5": tex(number(float(gain[5.0]), 2)),
        "layers/last": str(int(last)),
        "layers/first-displacement": number(100 * float(moved["uniform", 0]), 2),
        "layers/last-displacement": number(100 * float(moved["uniform", last]), 2),
    }


def definitions(found: dict[str, str]) -> str:
    """values.tex."""
    return "".join(f"\\setval{{{key}}}{{{text}}}\n" for key, text in found.items())
