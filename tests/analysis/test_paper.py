"""The paper says what is published: no number is typed, every claim stated, every source there, nothing stale."""

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import style
from analysis.comparisons import direction, mean_over, signs
from analysis.endpoints import endpoints
from analysis.findings import OVER_DATA, _ratio, as_much, findings, like_a_batch
from analysis.paper import pictures, tables
from analysis.paper.generated import texts
from analysis.paper.log import complaints
from analysis.paper.published import Budgets, Published, StudyResults, read_published
from analysis.paper.tex import tex
from analysis.paper.values import ROWS, STUDY_ROWS, named, values
from analysis.readme import publish_data
from analysis.study.claims import less_curved, ordered
from analysis.study.contrasts import contrasts, plan
from analysis.study.data import Untrained, measurements
from analysis.study.report import arms as means
from analysis.study.report import associated
from analysis.summary import _cell, in_short, regimes, tallies
from result_schema.files import ROOT
from result_schema.quick import TABLES
from symnoise.core import InputError, write_json
from symnoise.plot.numbers import fixed, listed, with_interval
from symnoise.plot.page import write_csv
from symnoise.theory import CLAIMS, OUTCOMES, PREFERENCES
from tests.analysis.made_up_study import study

PAPER = ROOT / "paper"
SOURCES = sorted(PAPER.glob("*.tex")) + sorted(PAPER.glob("sections/*.tex"))

# Digits that the text may have outside mathematics, and why. Numbers that others published are in
# analysis.paper.values.PUBLISHED, and the text names their keys.
CONSTANTS = {
    "R3F": "the name of a method",
    "LLaMA-1-7B": "the name of a model",
    "LLaMA-2-7B": "the name of a model",
    "GPT-4": "the name of a model",
    "SmolLM2-135M-Instruct": "the name of a model",
    "SmolLM2": "the name of a model",
    "smollm2": "the name of a study",
    "Q4\\_1": "the name of a number format",
    "bfloat16": "the name of a number format",
    "float32": "the name of a number format",
    "float64": "the name of a number format",
    "SHA-256": "the name of a hash",
    "million parameters": "the unit of a generated number",
    "tens of thousands": "n = L·d at common L and d, no measurement",
}
# Formulas have coefficients, exponents and the α that papers train with; more digits than these would be a measurement.
LARGEST_IN_FORMULAS = 24
_TENS = "(?:twen|thir|for|fif|six|seven|eigh|nine)ty"
NUMBER_WORDS = rf"\b(?:(?:thir|four|fif|six|seven|eigh|nine)teen|{_TENS}|hundred|thousand|million)"
_GENERATED = r"\\(?:val|verdict|measured|byverdict|claim|proofof|about|cite\w*|[cC]?ref|eqref|label|input)\{[^{}]*\}"
_DISPLAYED = r"\\begin\{(equation|align|multline)\*?\}.*?\\end\{\1\*?\}|\\\[.*?\\\]|\$[^$]*\$"
_LENGTHS = r"\\(?:vspace|newgeometry|(?:setlength|renewcommand)\{\\\w+\})\{[^}]*\}|\{0?\.\d+\\textwidth\}"


def body(path: Path) -> str:
    """The text without comments and preamble."""
    text = re.sub(r"(?<!\\)%.*", "", path.read_text(encoding="utf-8"))
    return text.split(r"\begin{document}")[-1]


def typed_numbers(text: str) -> Iterator[str]:
    """Every number in `text` that is neither generated, a reference, part of a formula, a length nor a constant."""
    text = re.sub(_GENERATED, " ", text)
    for formula in re.finditer(_DISPLAYED, text, flags=re.DOTALL):
        for number in re.findall(r"\d+(?:\.\d+)?", formula[0]):
            if "." in number or int(number) > LARGEST_IN_FORMULAS:
                yield f"{number} in {formula[0]}"
    text = re.sub(_DISPLAYED, " ", text, flags=re.DOTALL)
    text = re.sub(r"\\begin\{(?:proposition|hypothesis)\}\[\w+\]", " ", text)
    text = re.sub(_LENGTHS, " ", text)
    for constant in CONSTANTS:
        text = text.replace(constant, " ")
    for found in re.finditer(rf"\S*\d\S*|{NUMBER_WORDS}\w*", text):
        yield found[0]


@pytest.fixture(scope="module")
def published() -> Published:
    return read_published()


@pytest.fixture(scope="module")
def generated(published: Published) -> dict[str, str]:
    return texts(published)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_number_is_typed(path: Path) -> None:
    assert list(typed_numbers(body(path))) == []


@pytest.mark.parametrize("text", ["we find 3 cases", "a ratio of $0.57$", "some fifty cases", "over $128$ rows"])
def test_a_typed_number_would_be_found(text: str) -> None:
    assert list(typed_numbers(text))


def test_every_value_that_the_text_names_is_generated(published: Published) -> None:
    text, found = "\n".join(map(body, SOURCES)), values(published)
    keys = set(re.findall(r"\\val\{([^{}]*)\}", text))
    for macro, parts in {
        "verdict": ["verdict"],
        "measured": ["measured", "interval"],
        "byverdict": ["verdict"],
    }.items():
        keys |= {f"{row}/{part}" for row in re.findall(rf"\\{macro}\{{([^{{}}#]*)\}}", text) for part in parts}
    assert keys - set(found) == set()
    assert {row for row in {**ROWS, **STUDY_ROWS} if not any(key.startswith(f"{row}/") for key in keys)} == set(), (
        "named, never said"
    )


def test_every_claim_is_stated_once_and_carries_its_id() -> None:
    text = "\n".join(map(body, SOURCES))
    stated = re.findall(r"\\begin\{(?:proposition|hypothesis)\}\[(\w+)\]\s*\\label\{claim:(\w+)\}", text)
    assert sorted(stated) == sorted((id, id) for id in CLAIMS | OUTCOMES | PREFERENCES)
    proved = re.findall(r"\\proofof\{(\w+)\}", body(PAPER / "sections" / "derivations.tex"))
    assert sorted(proved) == sorted(set(CLAIMS) - {"V1"})  # V1 is half a hypothesis; its half is derived beside them


def test_sources_and_bibliography_agree() -> None:
    cited = {
        key.strip()
        for path in SOURCES
        for keys in re.findall(r"\\cite\w*\{([^}]*)\}", body(path))
        for key in keys.split(",")
    }
    entries = re.findall(r"@\w+\{(\w+),(.*?)\n\}", (PAPER / "references.bib").read_text(encoding="utf-8"), re.DOTALL)
    assert cited == {key for key, _ in entries}
    for key, fields in entries:
        assert re.search(r"\b(?:doi|url) +=", fields), key


def test_every_generated_file_is_used_and_every_used_file_is_generated(generated: dict[str, str]) -> None:
    used = {
        f"{name}.tex" for path in SOURCES for name in re.findall(r"\\input\{generated/([\w-]+)\}", path.read_text())
    }
    assert used == set(generated)


def test_what_is_committed_is_what_has_published(generated: dict[str, str]) -> None:
    assert generated == texts(read_published())
    committed = {path.name: path.read_text(encoding="ascii") for path in (PAPER / "generated").glob("*.tex")}
    assert committed.keys() == generated.keys()
    stale = [name for name, text in generated.items() if committed[name] != text]
    assert stale == [], "run python -m analysis.paper"


def test_equal_data_draw_equal_figures(published: Published, tmp_path: Path) -> None:
    one = replace(published, frames={"slopes": published.frames["slopes"]}, studies={}, mechanism={}, budgets=None)
    for folder in ("a", "b"):
        pictures.draw(one, tmp_path / folder)
    first, second = ((tmp_path / folder / "slopes.pdf").read_bytes() for folder in ("a", "b"))
    assert first == second and first.startswith(b"%PDF")


def test_what_has_not_been_run_says_so(published: Published) -> None:
    none = replace(published, studies={"micro": None}, peers=None)
    found = texts(none)
    assert "has not been run" in found["peers.tex"] and "has not been run" in found["figure-micro-forest.tex"]
    assert "not run" in found["table-claims.tex"]


def run_study(folder: Path, named: Sequence[tuple[str, str]] = (), seeds: int = 3, **effects: Any) -> StudyResults:
    """A made-up study of a few seeds as it is read: O1 and O4, one loss held out and in training, no figures.

    named: contrasts that its file names.
    """
    effects.setdefault("arms", ("none", "uniform", "symnoise"))
    made = study(folder, seeds=seeds, alphas=(10.0,), **effects)
    if named:
        made = replace(made, facts=made.facts | {"primary": {"contrasts": named, "outcomes": {"held-out loss": 0.002}}})
    held_out = made.outcomes[made.outcomes.measure == "held-out loss"]
    both = pd.concat([held_out, held_out.assign(measure="clean training loss")])
    loss = replace(made, outcomes=both, curves=made.curves[:0])
    measured, where = measurements(loss), made.settings[0]
    rows = less_curved(measured, made.runs, where) + ordered(measured, made.runs, where)
    compared = contrasts(loss)
    written = {"arms": means(made), "contrasts": compared, "power": plan(compared, made)}
    written["associations"] = associated(made)
    for name, table in written.items():
        write_csv(folder / f"{name}.csv", table)
    read = {name: pd.read_csv(folder / f"{name}.csv") for name in written}
    return StudyResults([asdict(row) for row in rows], made.facts, read, {})


def test_a_study_s_sentence_and_tables_follow_its_numbers(published: Published, tmp_path: Path) -> None:
    fine = run_study(tmp_path / "fine", loss={"symnoise": -5.0, "uniform": -2.0}, curvature={"symnoise": -5000.0})
    turned = run_study(tmp_path / "turned", loss={"symnoise": 5.0, "uniform": 2.0}, curvature={"symnoise": 5000.0})
    both = replace(published, studies={"micro": fine, "smollm2": turned})
    for made in (tables.contrasts(both), tables.arms(both)):
        assert r"\emph{Study \texttt{micro}, 3 seeds}" in made and r"\emph{Study \texttt{smollm2}, 3 seeds}" in made
    assert r"SymNoise \ensuremath{-} uniform" in tables.contrasts(both) and r"\ensuremath{\pm}" in tables.arms(both)
    none = replace(published, studies={"micro": None})
    assert tables.contrasts(none) == tables.arms(none) == "% no study has been run\n"


def test_d1_s_tally_and_contrasts_are_those_of_the_studies(published: Published, tmp_path: Path) -> None:
    mirror = run_study(tmp_path, arms=("none", "independent-pair", "symnoise"), loss={"symnoise": 2.0})
    found = values(replace(published, mechanism=published.mechanism | {"mirror": mirror}))
    own = tables_of(mirror)["symnoise", "independent-pair", "held-out loss"]
    assert found["mirror/symnoise-independent-pair/held-out-loss"] == tex(with_interval(own))
    turned = {}
    for name in ("dials", "dials-one-pass", "transfer-dials"):
        study = published.mechanism[name]
        assert study is not None
        turned[name] = replace(study, rows=[row | {"verdict": "holds"} for row in study.rows])
    tally = values(replace(published, mechanism=published.mechanism | turned))["D1/tally"]
    assert tally == "all 15 hold" != values(published)["D1/tally"]


def test_the_table_of_endpoints_has_each_once_with_a_dagger_where_holm_s_p_is_above_5_percent(
    published: Published, tmp_path: Path
) -> None:
    dials, study = (published.mechanism[name] for name in ("dials", "smollm2-mirror"))
    assert dials is not None and study is not None
    slopes, contrasts = dials.tables["dials"], study.tables["contrasts"]
    found: dict[str, StudyResults | None] = {"dials": dials, "smollm2-mirror": study}
    made = tables.mechanism(replace(published, mechanism=found))
    rows = [line for one in endpoints(found) for line in made.splitlines() if f"& {tex(one.value)}" in line]
    assert len(rows) == len(endpoints(found)) == slopes.primary.sum() + contrasts.primary.sum()
    assert made.count(r"\,\dag") == (contrasts.holm > 0.05).sum() + (slopes.holm > 0.05).sum() > 0
    assert r"\qquad log p(end) elsewhere & " in made  # an outcome without a column


def tables_of(found: StudyResults) -> dict[tuple[str, str, str], dict[str, Any]]:
    """(first, second, measure) -> the contrast's row at the end of training."""
    end = found.tables["contrasts"].query("when == 'end'")
    return {(row["first"], row["second"], row["measure"]): row for row in end.to_dict("records")}


def answered(published: Published, question: str) -> str:
    """The finding whose question has these words, with its numbers."""
    (one,) = (finding for finding in findings(published) if question in finding.question)
    return one.whole


def test_what_was_found_follows_the_numbers_and_nothing_else_is_said(published: Published, tmp_path: Path) -> None:
    arms = ("none", "uniform", "independent-pair", "symnoise")
    for k, shift in enumerate((-2.0, 2.0)):
        made = run_study(tmp_path / str(k), arms=arms, loss={"symnoise": shift}, curvature={"symnoise": 500 * shift})
        said = answered(replace(published, studies={}, mechanism={"mirror": made}), "mirror add")
        word = "lower" if shift < 0 else "higher"
        assert f"which cost the same: training loss {word}; held-out loss {word}; tr G {word}." in said
    assert not any(
        "mirror" in one.question for one in findings(replace(published, studies={}, mechanism={"mirror": None}))
    )
    same = run_study(tmp_path / "same", arms=arms)
    said = answered(replace(published, studies={}, mechanism={"mirror": same}), "mirror add")
    assert "training loss no clear difference; held-out loss no clear difference; tr G no clear difference." in said


def test_what_noise_does_is_told_by_model_with_what_training_did(published: Published, tmp_path: Path) -> None:
    arms = ("none", "rademacher", "independent-pair", "symnoise", "dials-0-1")
    losses = {"symnoise": 2.0, "rademacher": -5.0, "dials-0-1": 7.0}
    named = [("rademacher", "none"), ("dials-0-1", "none")]
    made = run_study(tmp_path, named, arms=arms, loss=losses, seeds=8)
    mechanism = {"transfer": replace(made, untrained=Untrained(4.0, 1, 9)), "mirror": replace(made, untrained=None)}
    noisy = replace(published, studies={}, mechanism=mechanism)
    said = answered(noisy, "noise do?")
    draw, pair = (tables_of(made)[arm, "none", "held-out loss"] for arm in ("rademacher", "symnoise"))
    assert said.count(f"Δ held-out loss = {with_interval(draw)} and {with_interval(pair)} nats") == 2
    assert said.count("held-out loss lowest before training in 1 of 9 runs") == 1
    assert [round(row["mean"]) for row in (draw, pair)] == [-5, 2]
    assert "Held-out loss: by one draw lower in both; by SymNoise higher in both. tr G: by both no clear" in said
    said = answered(noisy, "part of a draw")
    odd = tables_of(made)["dials-0-1", "none", "held-out loss"]
    assert f"Δ held-out loss = {with_interval(pair)} and {with_interval(odd)} nats" in said and round(odd["mean"]) == 7


def test_the_cells_of_unit_weights_are_told_not_slopes(published: Published) -> None:
    """Slopes are of a plane that does not fit: those of the odd part are a third of what a draw's odd part does."""
    said = answered(published, "part of a draw")
    for name in ("dials", "dials-one-pass"):
        study = published.mechanism[name]
        assert study is not None
        cells = study.frames["dials"].query("measure == 'held-out loss'").set_index(["even", "odd"])
        even, odd = (cells.loc[cell].to_dict() for cell in ((1, 0), (0, 1)))
        assert (
            f"Study `{name}`, 12 seeds: Δ held-out loss = {with_interval(even)} and {with_interval(odd)} nats" in said
        )
        large = " and ".join(with_interval(cells.loc[cell].to_dict()) for cell in ((2, 0), (0, 3)))
        assert f"odd part (study `{name}`, 12 seeds): Δ held-out loss = {large} nats" in said
    assert "Held-out loss by twice the even part: higher in `transfer-dials` and `dials-one-pass`, no clear" in said


def test_the_table_has_what_each_study_has_measured(published: Published, tmp_path: Path) -> None:
    """In thousandths of a nat, with what training itself did; a dash for what was not run."""
    arms = ("none", "rademacher", "independent-pair", "symnoise")
    made = run_study(tmp_path, [("rademacher", "none")], arms=arms, loss={"symnoise": 2.0, "rademacher": -5.0})
    started = replace(made, untrained=Untrained(4.0, 1, 9))
    found = {"transfer": started, "mirror": None, "dials-one-pass": published.mechanism["dials-one-pass"]}
    losses, curved = (regimes(found, measure) for measure in ("held-out loss", "tr G"))
    assert losses.startswith("| Δ held-out loss, 10⁻³ nats | fine-tuning alone: end (lowest) | one draw − none |")
    where, itself, draw, pair, dearer, mirror = losses.splitlines()[2].strip("| ").split(" | ")
    assert where.endswith("(`transfer`, α = 10, 3 seeds)") and dearer.count("(") == 1
    arms = made.tables["arms"].query("arm == 'none' and measure == 'held-out loss'").set_index("when")["mean"]
    assert (
        itself == f"{fixed(1000 * (arms.end - 4.0), 0)} ({fixed(1000 * (arms.best - 4.0), 0)})"
    )  # 4.0 before training
    for cell, compared in (
        (draw, ("rademacher", "none")),
        (pair, ("symnoise", "none")),
        (mirror, ("symnoise", "independent-pair")),
    ):
        row = tables_of(made)[*compared, "held-out loss"]
        scaled = with_interval({key: 1000 * row[key] for key in ("mean", "low", "high")})
        assert cell == scaled + " ‡"  # three seeds are too few for a correction
    assert "mirror`)" not in losses and len(losses.splitlines()) == len(curved.splitlines()) == 4
    assert losses.splitlines()[3].endswith(" | – |")  # that study has no two draws
    assert regimes({}, "tr G") == ""


def test_early_stopping_is_told_where_training_lowers_the_held_out_loss(published: Published, tmp_path: Path) -> None:
    arms = ("none", "rademacher", "independent-pair", "symnoise")
    made = run_study(tmp_path, arms=arms, loss={"symnoise": 0.2})
    table = made.tables["contrasts"]
    table.loc[table.when == "best", ["mean", "low", "high"]] /= 2
    lowered, raised = (replace(made, untrained=Untrained(4.0, best, 12)) for best in (0, 12))
    mechanism = {"transfer": lowered, "mirror": raised, "dials": lowered}
    said = answered(replace(published, studies={}, mechanism=mechanism), "early stopping")
    (row,) = table.query(
        "when == 'best' and first == 'symnoise' and second == 'none' and measure == 'held-out loss'"
    ).to_dict("records")
    assert round(row["mean"], 1) == 0.1 and with_interval(row) in said
    assert ": by one draw no clear difference; by SymNoise higher; by the mirror higher. In `mirror` the" in said
    assert "Study `transfer`: " in said and "Study `mirror`" not in said and "Study `dials`" not in said


def test_the_summary_counts_studies_and_tells_the_largest_gain(published: Published, tmp_path: Path) -> None:
    """Fine-tuning lowers the loss from 4.0 in transfer and raises it from 1.0 elsewhere."""
    arms = ("none", "rademacher", "uniform", "independent-pair", "symnoise")
    losses = {"rademacher": -0.2, "symnoise": -0.3, "independent-pair": 0.1, "uniform": 0.3}
    made = run_study(tmp_path, arms=arms, loss=losses, seeds=8)
    lowered, raised = (replace(made, untrained=Untrained(start, 0, 9)) for start in (4.0, 1.0))
    verdicts = [
        {"id": "D1", "key": f"D1.slope.{key}", "verdict": word}
        for key, word in (("tr-g.even", "holds"), ("held-out-loss.even", "fails"), ("tr-g.odd", "undecided"))
    ]
    mechanism = {
        "transfer": replace(lowered, rows=verdicts),
        "mirror": raised,
        "dials": raised,
        "smollm2-dolly": raised,
    }
    said = in_short(replace(published, studies={"micro": raised}, mechanism=mechanism))
    assert "by studies (3 of the small Llama and 1 of SmolLM2), at the end" in said
    # uniform − none is an endpoint of these studies, and bold; the others are not
    assert "- One draw minus no noise: training loss" in said
    assert "held-out loss lower in 2 and higher in **2** of 4 (SmolLM2: higher in all **1**); tr G" in said
    for what in ("The mirror, SymNoise minus two draws at the same cost", "SymNoise minus no noise"):
        (line,) = (line for line in said.splitlines() if line.startswith(f"- {what}: "))
        assert "; held-out loss lower in all 4; tr G" in line
    gain = r"0\.(29|30)\d* \(0\.2\d+ to 0\.3\d+\) nats ‡"  # no endpoint
    assert re.search(
        rf"lowers it further, of all studies, is {gain}; fine-tuning alone lowers it by 2\.\d+ \(`transfer`\)", said
    )
    assert "A larger even part lowers tr G: 1 hold. It lowers the held-out loss: 1 fail (slopes" in said
    assert "at weight 1, which is SymNoise, it is lower in 1 of 1). The odd" in said
    assert "part's weight changes neither of them, nor the training loss: 1 undecided." in said
    helps_nowhere = in_short(replace(published, studies={}, mechanism={"mirror": raised}))
    assert "noise lowers it further in no study" in helps_nowhere
    assert in_short(replace(published, studies={}, mechanism={})) == ""


def test_symnoise_is_compared_with_one_draw_of_each_study_s_law(published: Published, tmp_path: Path) -> None:
    arms, losses = ("none", "rademacher", "uniform", "symnoise"), {"symnoise": 1.0, "rademacher": 3.0}
    made = run_study(tmp_path, arms=arms, loss=losses, seeds=8)
    said = answered(replace(published, studies={"micro": made}, mechanism={"transfer": made}), "better than one draw")
    assert "Held-out loss lower in `transfer`, higher in `micro`; tr G" in said
    for draw, mean in (("rademacher", -2), ("uniform", 1)):
        row = tables_of(made)["symnoise", draw, "held-out loss"]
        assert f"({draw}): Δ held-out loss = {with_interval(row)} nats" in said and round(row["mean"]) == mean


def test_an_answer_names_the_studies_where_they_disagree() -> None:
    rows = {"a": (1.0, 2.0), "b": (-2.0, -1.0), "c": (-1.0, 1.0), "d": (-3.0, -2.0)}
    found = {name: {"loss": {"low": low, "high": high}} for name, (low, high) in rows.items()}
    assert signs(found, "loss") == "lower in `b` and `d`, higher in `a`, no clear difference in `c`"
    assert signs({"b": found["b"], "d": found["d"]}, "loss") == "lower in both"
    assert signs({"b": found["b"]}, "loss") == "lower" and signs({"b": found["b"], "e": {}}, "loss") == "lower in `b`"
    found["f"] = {"loss": {"low": math.nan, "high": math.nan}}
    assert signs(found, "loss").endswith("in `c`, without an interval in `f`")


def test_an_endpoint_that_was_named_is_lower_only_after_correction() -> None:
    """Where its test can be significant: where it cannot, for want of seeds, the interval decides."""
    row = {"low": -2.0, "high": -1.0, "mean": -1.5, "verdict": ""}
    few, enough = ({"primary": True, "holm": 0.5, "verdict": said} for said in ("too few seeds", "no significant diff"))
    assert direction(row | {"diverged_second": 1}) == "without an interval"
    assert (direction(row | few), direction(row | enough)) == ("lower", "no clear difference")
    assert _cell(row | few, 1).endswith(" ‡") and _cell(row | enough, 1).endswith(" †")
    assert direction(row) == direction(row | {"primary": False, "holm": math.nan}) == "lower"
    assert direction(row | {"primary": True, "holm": 0.05}) == "lower"
    assert direction(row | {"primary": True, "holm": 0.06}) == "no clear difference"
    assert _cell(row | {"primary": True, "holm": 0.06}, 1).endswith(" †")
    assert _cell(row | {"primary": True, "holm": 0.04}, 1).endswith(")") and _cell(row, 1).endswith(" ‡")
    assert not _cell(row | {"high": 1.0, "primary": True, "holm": 1.0}, 1).endswith("†")


def test_what_the_mirror_adds_is_the_answer_of_all_its_studies(published: Published, tmp_path: Path) -> None:
    arms, made = ("none", "uniform", "rademacher", "independent-pair", "symnoise"), {}
    for k, (name, shift) in enumerate({"transfer": 2.0, "smollm2-mirror": -2.0}.items()):
        made[name] = run_study(tmp_path / str(k), arms=arms, loss={"symnoise": shift}, curvature={"symnoise": 500})
    said = answered(replace(published, studies={}, mechanism=made), "mirror add")
    split = "lower in `smollm2-mirror`, higher in `transfer`"
    assert f"which cost the same: training loss {split}; held-out loss {split}; tr G higher in both." in said
    for name, one in made.items():
        own = tables_of(one)["symnoise", "independent-pair", "held-out loss"]
        assert f"`{name}`, 3 seeds: Δ training" in said and f"Δ held-out loss = {with_interval(own)} nats, " in said


def test_the_mean_over_data_has_student_s_interval_from_the_variance_within(published: Published, tmp_path) -> None:
    """Against Welch's formula from each study's own spread; a difference between data sets does not widen it."""
    arms = ("none", "rademacher", "independent-pair", "symnoise", "dials-0-1")
    named = [("rademacher", "none"), ("dials-0-1", "none"), ("symnoise", "independent-pair")]
    made: dict[str, StudyResults | None] = {}
    names = OVER_DATA["the small Llama"]
    for name, shift in zip(names, (-4.0, 1.0, -3.0), strict=True):
        made[name] = run_study(tmp_path / name, named, arms=arms, loss={"symnoise": shift}, seeds=5)
    rows = [tables_of(one)["symnoise", "none", "held-out loss"] for one in made.values() if one]
    parts = [row["sd"] ** 2 / 5 for row in rows]
    dof = 4 * sum(parts) ** 2 / sum(part**2 for part in parts)
    half = stats.t.isf(0.025, dof) * sum(parts) ** 0.5 / 3
    mean = sum(row["mean"] for row in rows) / 3
    assert round(mean, 1) == -2 and half < 0.01
    said = answered(replace(published, studies={}, mechanism=made), "other data")
    expected = with_interval({"mean": mean, "low": mean - half, "high": mean + half})
    assert f"The small Llama, SymNoise: Δ held-out loss = {expected} nats." in said
    assert f"SymNoise {expected}, SymNoise against one draw" in said  # the lowest is at the end here
    assert "The small Llama: one draw " in said and (
        ", SymNoise lower (higher on `transfer-open-platypus`), SymNoise against one draw lower (higher on " in said
    )
    assert "SmolLM2" not in said
    some = made | {names[0]: None}
    assert not [one for one in findings(replace(published, studies={}, mechanism=some)) if "other data" in one.question]


def test_a_mean_over_data_of_unequal_spread_covers_as_it_says() -> None:
    draws, times, inside = np.random.default_rng(5), 2000, 0
    for _ in range(times):
        samples = [draws.normal(0, sd, 5) for sd in (0.001, 0.0073, 0.0022)]
        made = mean_over([{"mean": x.mean(), "sd": x.std(ddof=1), "pairs": 5} for x in samples])
        inside += made["low"] <= 0 <= made["high"]
    assert inside / times >= 0.95 - 3 * (0.95 * 0.05 / times) ** 0.5


def test_a_ratio_is_told_only_where_its_bounds_allow() -> None:
    assert _ratio({"low": 3.0, "high": 5.0}, {"low": 0.5, "high": 1.0}) == (3.0, 10.0)
    assert _ratio({"low": -5.0, "high": -3.0}, {"low": -1.0, "high": -0.5}) == (3.0, 10.0)
    assert _ratio({"low": 3.0, "high": 5.0}, {"low": -0.5, "high": 1.0}) == (-math.inf, math.inf)


def test_a_mean_within_its_margin_is_told_so(published: Published, tmp_path: Path) -> None:
    arms = ("none", "uniform", "independent-pair", "symnoise")
    named = [("uniform", "none"), ("symnoise", "independent-pair")]
    said = {}
    for sd in (1e-4, 0.1):  # the margin is 0.002
        made: dict[str, StudyResults | None] = {
            name: run_study(tmp_path / f"{name}-{sd}", named, arms=arms, loss={"uniform": 0.5}, seeds=5, sd=sd)
            for name in OVER_DATA["SmolLM2"]
        }
        said[sd] = answered(replace(published, studies={}, mechanism=made), "other data")
    assert "SmolLM2: one draw higher, SymNoise within 0.002 nats, SymNoise against one draw lower" in said[1e-4]
    assert "SmolLM2: one draw higher, SymNoise no clear difference, SymNoise against one draw lower" in said[0.1]


def test_the_counts_are_those_of_each_model_s_studies(published: Published, tmp_path: Path) -> None:
    """Lower, higher and not clear; the lowest loss only where training lowers it, and no odd part of SmolLM2."""
    arms = ("none", "rademacher", "uniform", "independent-pair", "symnoise", "dials-0-1")
    named = [("dials-0-1", "none")]
    lower = run_study(tmp_path / "a", named, arms=arms, loss={"symnoise": -0.5, "rademacher": 0.5}, seeds=8)
    higher = run_study(tmp_path / "b", arms=arms, loss={"symnoise": 0.5, "uniform": 0.5}, seeds=8)
    spoilt = replace(lower, untrained=Untrained(1.0, 9, 9))
    rows = tallies({"transfer": lower, "mirror": spoilt, "smollm2-mirror": higher, "dials": higher}).splitlines()
    cells = {tuple(row.strip("| ").split(" | ")[:2]): row.strip("| ").split(" | ")[2:] for row in rows[2:]}
    llama, smol = "the small Llama", "SmolLM2"
    assert cells["SymNoise − none", llama][:3] == ["2 / 0 / 0", "2 / 0 / 0", "1 / 0 / 0"]
    assert cells["one draw − none", llama][1] == "0 / 2 / 0" and cells["odd part − none", llama][1] == "0 / 0 / 2"
    assert cells["SymNoise − none", smol][1] == "0 / 1 / 0" == cells["SymNoise − two draws", smol][1]
    assert cells["SymNoise − one draw", smol][1] == "0 / 0 / 1" and ("odd part − none", smol) not in cells
    assert tallies({}) == ""
    twice = tallies({"transfer": lower, "dials": lower}).splitlines()[-1]  # repeats runs, but not those of the odd part
    assert twice.startswith("| odd part − none | the small Llama | 0 / 0 / 2 |")


def test_a_lowest_loss_at_the_last_step_counts_once(published: Published, tmp_path: Path) -> None:
    arms = ("none", "rademacher", "independent-pair", "symnoise")
    last = run_study(tmp_path / "a", arms=arms, loss={"symnoise": -0.5}, seeds=8)  # whose best and end are the same
    table = last.tables["contrasts"].copy()
    table.loc[table.when == "best", "mean"] += 0.01
    stopped = replace(last, tables=last.tables | {"contrasts": table})
    line = "| SymNoise − none | the small Llama | 1 / 0 / 0 | 1 / 0 / 0 | {} |"
    assert line.format("1 / 0 / 0") in tallies({"transfer": stopped})
    assert line.format("–") in tallies({"transfer": last})
    found: dict[str, StudyResults | None] = {"transfer": last, "transfer-dolly": stopped}
    said = answered(replace(published, studies={}, mechanism=found), "early stopping")
    assert "In `transfer` that is the last step, so stopping early is not stopping." in said
    assert "Study `transfer-dolly`" in said and "Study `transfer`" not in said


def test_a_ratio_is_about_four_within_bounds_on_both_sides() -> None:
    bounds = [(2.6, 6.3), (9.0, 20.0), (1.0, 3.0), (0.7, 0.9), (-math.inf, math.inf)]
    assert [as_much(*ends) for ends in bounds] == ["is", "is not", "may be", "is not", "may be"]


def test_how_likely_a_reply_is_to_end_is_told_of_the_studies_that_measured_it(published: Published) -> None:
    said, name = answered(published, "less likely to end"), "smollm2-open-platypus"
    study = published.mechanism[name]
    assert study is not None
    pairs = [("uniform", "none"), ("symnoise", "none"), ("symnoise", "independent-pair")]
    own = [with_interval(tables_of(study)[*pair, "log p(end) elsewhere"]) for pair in pairs]
    changes = f"one draw {own[0]}, SymNoise {own[1]}, the mirror {own[2]}"
    assert f"Study `{name}`: {changes} nats." in said and "`micro`" not in said


def test_the_budget_is_told_at_the_noise_of_the_studies(published: Published) -> None:
    points = pd.DataFrame(
        {"run": "mirror", "when": when, "alpha": alpha, "quantity": "rho", "value": value, "low": 0.0, "high": 1.0}
        for when, value in (("start", 0.25), ("end", 0.75))
        for alpha in (10.0, 15.0)
    )
    points.loc[points.alpha == 10, "value"] = 0.1
    told = replace(published, studies={}, mechanism={}, budgets=Budgets([], points))
    said = answered(told, "gradient noise add up")
    where = "(small Llama of `mirror`, α = 15)."
    wanted = f"ρ is 0.25 (0 to 1.00) at the start and 0.75 (0 to 1.00) at the end of training {where}"
    assert f"at most 1 + ρ times as large, and costs as much as one twice as large; {wanted}" in said
    last = replace(told, budgets=Budgets([], points[points.when == "end"]))
    said = answered(last, "gradient noise add up")
    assert f"ρ is 0.75 (0 to 1.00) at the end of training {where}" in said
    assert not [one for one in findings(replace(told, budgets=None)) if "gradient noise" in one.question]


def test_the_neighbours_contrasts_are_told_with_theirsigns(published: Published, tmp_path: Path) -> None:
    arms, losses = ("none", "r3f", "weight-pair", "symnoise"), {"symnoise": 2.0, "r3f": 5.0}
    made = run_study(tmp_path / "near", arms=arms, loss=losses)
    mirror = run_study(tmp_path / "mirror", arms=("none", "independent-pair", "symnoise"))
    mechanism = {"neighbours": made, "mirror": mirror}
    said = answered(replace(published, studies={}, mechanism=mechanism), "mirror add")
    rows = [tables_of(made)["symnoise", other, "held-out loss"] for other in ("r3f", "weight-pair")]
    assert f"Δ held-out loss = {with_interval(rows[0])} and {with_interval(rows[1])} nats" in said
    assert [round(row["mean"]) for row in rows] == [-3, 2]


def test_the_mirror_at_three_learning_rates_is_told_in_their_order(published: Published, tmp_path: Path) -> None:
    pairs = [("symnoise" + at, "rademacher" + at) for at in ("", "-rate-2", "-rate-4")]
    loss = {"symnoise": 1.0, "symnoise-rate-2": 2.0, "symnoise-rate-4": 4.0}
    made = run_study(tmp_path, pairs, arms=("none", *itertools.chain(*pairs)), loss=loss)
    mechanism = {"step-size": made, "step-size-sgd": made}
    said = answered(replace(published, studies={}, mechanism=mechanism), "gradient noise")
    rows = [tables_of(made)[*pair, "held-out loss"] for pair in pairs]
    assert f"Δ held-out loss = {listed([with_interval(row) for row in rows])} nats (3 seeds)." in said
    # By AdamW and by SGD, in training and held out.
    assert said.count(listed([with_interval(row) for row in rows])) == 4
    assert [round(row["mean"]) for row in rows] == [1, 2, 4]


def test_what_the_divisor_and_the_gradients_change_is_told_apart(published: Published, tmp_path: Path) -> None:
    arms = ("rademacher", "draw-at-pair-size", "pair-at-draw-size", "symnoise")
    pairs = [(second, first) for first, second in itertools.combinations(arms, 2)]
    loss = {"draw-at-pair-size": 10.0, "pair-at-draw-size": 1.0, "symnoise": 13.0}
    made = run_study(tmp_path, pairs, arms=("none", *arms), loss=loss, seeds=8)
    said = answered(replace(published, studies={}, mechanism={"divisor": made}), "part of AdamW")
    parts = {}
    for part, shown in (
        ("the size of the divisor alone", [("draw-at-pair-size", "rademacher"), ("symnoise", "pair-at-draw-size")]),
        ("the gradients, and", [("pair-at-draw-size", "rademacher"), ("symnoise", "draw-at-pair-size")]),
    ):
        rows = [tables_of(made)[*pair, "held-out loss"] for pair in shown]
        parts[part] = [round(row["mean"]) for row in rows]
        told = said.lower().split(f"in {part}")[1].splitlines()[0]
        assert f"δ held-out loss = {listed([with_interval(row) for row in rows])} nats" in told
    assert "makes 77 to 92 % of what SymNoise changes in training loss against one draw. " in said  # 10 and 12 of 13
    assert (
        "by the size of the divisor, with either set of gradients, higher; by the gradients, at either size, higher."
        in said
    )
    assert parts == {"the size of the divisor alone": [10, 12], "the gradients, and": [1, 3]}


@pytest.mark.parametrize(("apart", "verdict"), [(0.1, "equal"), (0.3, "not shown to be equal")])
def test_the_law_and_the_size_of_noise_are_told_apart(
    published: Published, tmp_path: Path, apart: float, verdict: str
) -> None:
    pairs = [("gaussian-raw", "uniform-at-raw-size"), ("gaussian-raw", "uniform")]
    loss = {"uniform": 1.0, "uniform-at-raw-size": 3.0, "gaussian-raw": 3.0 + apart}  # the margin is 0.2
    made = run_study(tmp_path, pairs, arms=("none", "uniform", "uniform-at-raw-size", "gaussian-raw"), loss=loss)
    said = answered(replace(published, studies={}, mechanism={"scale": made}), "or its size?")
    same, smaller = (tables_of(made)[*pair, "held-out loss"] for pair in pairs)
    assert f"same variance: {verdict} to within 20 % of what" in said
    assert (
        f"same variance: Δ training loss = {with_interval(same)} nats, Δ held-out loss = {with_interval(same)}" in said
    )
    assert f"and {with_interval(smaller)} nats (3 seeds)." in said
    assert [round(row["mean"], 1) for row in (same, smaller)] == [apart, 2 + apart]


def test_wrong_labels_are_told_with_their_share(published: Published, tmp_path: Path) -> None:
    pairs = [("uniform", "none"), ("symnoise", "independent-pair")]
    loss = {"uniform": -2.0, "symnoise": 3.0, "independent-pair": 4.0}
    made = run_study(tmp_path, pairs, arms=("none", "uniform", "symnoise", "independent-pair"), loss=loss, seeds=8)
    made = replace(made, facts=made.facts | {"settings": {"training": {"flips": 0.2}}})
    said = answered(replace(published, studies={}, mechanism={"micro-r-flips": made}), "wrong labels")
    rows = [tables_of(made)[*pair, "held-out loss"] for pair in pairs]
    assert "Where 20 % of the target tokens are random (α = 10), which the training loss counts too: " in said
    assert "one draw: held-out loss lower; training loss lower. The mirror: held-out loss lower; training" in said
    assert f"Δ held-out loss = {listed([with_interval(row) for row in rows])} nats, " in said
    assert [round(row["mean"]) for row in rows] == [-2, -1]


def test_a_pair_and_larger_batches_are_told_in_their_order(published: Published, tmp_path: Path) -> None:
    pairs = [("symnoise", f"rademacher-batch-{times}") for times in ("1.125", "1.25", "1.5")]
    loss = {"symnoise": 5.0, "rademacher-batch-1.25": 2.0, "rademacher-batch-1.5": 4.0}
    made = run_study(tmp_path, pairs, arms=("none", "symnoise", *(second for _, second in pairs)), loss=loss)
    made = replace(made, facts=made.facts | {"settings": {"training": {"batch": 8}}})
    said = answered(replace(published, studies={}, mechanism={"batch-match": made}), "gradient noise")
    assert "batches of 9, 10 and 12 rows, where the others have 8" in said
    measured, held_out = (
        [tables_of(made)[*pair, measure] for pair in pairs] for measure in ("clean training loss", "held-out loss")
    )
    assert f"Δ training loss = {listed([with_interval(row) for row in measured])} nats, Δ held-out" in said
    assert f"held-out loss = {listed([with_interval(row) for row in held_out])} nats (3 seeds)" in said
    assert [round(row["mean"]) for row in measured] == [5, 3, 1]
    assert "A pair is like" not in said  # the study has no draw in the same batch


@pytest.mark.parametrize(
    ("signs", "said"),
    [
        ("---+", "more than 10 and fewer than 12 rows"),
        ("+-0-", "more than 8 and fewer than 9 rows"),
        ("-00+", "more than 8 and fewer than 12 rows"),
        ("++++", "more than 12 rows"),
        ("0--+", ""),
        ("-+-+", ""),
    ],
)
def test_the_batch_that_a_pair_is_like_is_where_its_difference_turns(signs: str, said: str) -> None:
    row = {"-": (-1.5, -0.5), "0": (-0.5, 0.5), "+": (0.5, 1.5)}
    arms = ["rademacher", *(f"rademacher-batch-{times}" for times in ("1.125", "1.25", "1.5"))]
    rows = [{"low": row[sign][0], "mean": sum(row[sign]) / 2, "high": row[sign][1], "primary": True} for sign in signs]
    contrasts = {("symnoise", arm, "end"): {"held-out loss": one} for arm, one in zip(arms, rows, strict=True)}
    facts = {"settings": {"training": {"batch": 8}}}
    made: Any = SimpleNamespace(facts=facts, contrasts=contrasts, frames={})
    assert like_a_batch(made, "held-out loss") == said


def test_which_part_lowers_the_held_out_loss_depends_on_the_training_as_the_paper_says(published: Published) -> None:
    """Its first page says so in words: the even part where fine-tuning lowers it, the odd one where it raises it."""
    transfer, dials, mirror = (published.mechanism[name] for name in ("transfer", "dials", "mirror"))
    assert transfer and dials and mirror
    rows = tables_of(transfer)
    assert rows["symnoise", "none", "held-out loss"]["high"] < 0 < rows["dials-0-1", "none", "held-out loss"]["low"]
    cells = dials.frames["dials"].query("measure == 'held-out loss'").set_index(["even", "odd"])
    assert cells.loc[(0, 1)].high < cells.loc[(1, 0)].low
    pair = ("symnoise", "independent-pair", "held-out loss")
    assert rows[pair]["high"] < 0 < tables_of(mirror)[pair]["low"]


def test_a_row_that_the_text_names_and_the_ledger_lacks_is_named(published: Published) -> None:
    with pytest.raises(InputError, match=r"has 0 rows V1\.slope\.alpha=15 on model"):
        named("V1@alpha=15", [row for row in published.rows if row["id"] != "V1"])
    with pytest.raises(InputError, match=r"results/dials/ledger\.json has 0 rows D1\.slope\.tr-g\.even; .* STUDY_ROWS"):
        values(replace(published, mechanism=published.mechanism | {"dials": None}))


def test_a_missing_run_names_itself_and_its_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ledger\.json is missing; run `python -m analysis\.readme"):
        read_published(tmp_path)


def test_a_run_lands_with_the_data_of_its_figures(tmp_path: Path) -> None:
    run, published = tmp_path / "run", tmp_path / "quick"
    (run / "figures").mkdir(parents=True)
    (run / "figures" / "slopes.csv").write_text("a\n1\n")
    record = {"commit": "c", "python": "3", "versions": {}, "platform": "p", "result": {"model": {}, "data": {}}}
    columns = TABLES["validity by example"]
    table = {"rows": [], "tables": {"validity by example": [dict.fromkeys(columns, 0.5)]}}
    write_json(run / "stages" / "sources.json", record)
    write_json(run / "stages" / "validity.json", record | {"result": table})
    publish_data(run, published)
    assert (published / "tables" / "validity-by-example.csv").read_text().split() == [
        ",".join(columns),
        ",".join(["0.5"] * len(columns)),
    ]
    assert (published / "data" / "slopes.csv").read_text() == "a\n1\n"
    facts = json.loads((published / "data" / "sources.json").read_text())
    assert set(facts) == {
        "commit",
        "python",
        "versions",
        "model",
        "data",
    }


def test_text_becomes_latex() -> None:
    assert tex("‖ε‖², 50 % of z_i") == r"\ensuremath{\Vert \varepsilon \Vert ^{2}}, 50 \% of \ensuremath{z _{i}}"
    assert tex("½σ²zᵀHz at α = 5") == (r"\ensuremath{\tfrac12 \sigma ^{2} z^{\top}Hz} at \ensuremath{\alpha} = 5")
    assert tex("ROUGE-L: 1.2·10⁻⁷") == r"ROUGE-L: 1.2\ensuremath{\cdot}10\ensuremath{^{-7}}"
    with pytest.raises(ValueError, match="no LaTeX for '☃'"):
        tex("☃")


def test_the_log_s_complaints_are_found(tmp_path: Path) -> None:
    log = tmp_path / "main.log"
    log.write_text(
        "LaTeX Warning: Reference `fig:none' on page 1 undefined on input line 3.\n"
        "Overfull \\hbox (4.9pt too wide) in paragraph at lines 1--2\n"
        "Overfull \\hbox (5.1pt too wide) in paragraph at lines 3--4\n"
    )
    found = complaints(log)
    assert len(found) == 2 and "fig:none" in found[0] and "5.1pt" in found[1]
    with pytest.raises(InputError, match="make paper"):
        complaints(tmp_path / "other.log")


def test_names_of_arms_and_of_work_select_no_number(monkeypatch) -> None:
    published = read_published()
    before = values(published)
    monkeypatch.setattr(style, "NAMES", {arm: f"no. {k}" for k, arm in enumerate(style.NAMES)})
    renamed = published.bench.assign(work=[f"work {k}" for k in range(len(published.bench))])
    assert values(replace(published, bench=renamed)) == before
