"""The report, drawn from small made-up records: nothing here was measured."""

import copy
import json
import math
import re
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from analysis.figures import FIGURES, curvature, layers, training, validity
from analysis.figures.validity import radius
from analysis.ledger import by_subject, headline, note
from analysis.paper import sentences
from analysis.paper.published import read_published
from analysis.paper.values import ROWS, named
from analysis.reasons import reasons
from analysis.records import frame
from analysis.report import write_report
from symnoise.core import InputError
from symnoise.plot.numbers import measurement, number, seconds
from symnoise.theory import CLAIMS, kind_of

REAL = "toy on words"
ARMS = ("none", "uniform", "symnoise")
ALPHAS = (0.5, 5.0, 10.0)


def row(id: str, verdict: str, *, key: str = "quantity", subject: str = "analytic", **facts) -> dict:
    return {
        "id": id,
        "kind": kind_of(f"{id}.{key}", subject),
        "key": f"{id}.{key}",
        "subject": subject,
        "scheme": key.split(".")[0] if id in ("V1", "N3") else "",
        "statement": CLAIMS[id].statement,
        "quantity": f"quantity of {id}",
        "prediction": 1.0,
        "measured": 1.02,
        "low": 0.97,
        "high": 1.07,
        "relation": "equals",
        "resolution": 0.1,
        "verdict": verdict,
        "where": "analytic function",
        "n": 100,
        "seed": 0,
        "seconds": 0.1,
    } | facts


def made_up() -> dict[str, dict]:
    """stage -> {rows, tables} of a whole run, all of it invented."""
    draws = np.random.default_rng(0)
    laws = {"uniform": (8.3, 0.4, 2.9), "rademacher": (8.3, 0.0, 2.9), "gaussian-raw": (25.0, 9.8, 5.0)}
    names = ("mean square norm", "variance of the square norm", "mean norm")
    moments = [
        {"law": law, "quantity": q, "predicted": v, "measured": v * 1.001, "half": v * 0.01}
        for law, values in laws.items()
        for q, v in zip(names, values, strict=True)
    ]
    square = [
        {"law": law, "square_norm": float(m + v**0.5 * z)}
        for law, (m, v, _) in laws.items()
        for z in draws.normal(size=50)
    ]
    slopes = [
        {"where": where, "sigma": s, "first": a, "second": b, "value": s**k, "low": low, "high": high}
        for a, b, k in (("uniform", "gaussian", 4), ("gaussian-raw", "uniform", 2))
        for s in (0.02, 0.1)
        for where, low, high in (("analytic function", None, None), ("tiny transformer", -(s**k), 3 * s**k))
    ]
    schemes = (("one draw", 2), ("two draws", 2), ("pair", 4))
    variances = [
        {"where": "analytic function", "sigma": s, "scheme": n, "predicted": s**k, "measured": s**k}
        | {"low": 0.9 * s**k, "high": 1.1 * s**k}
        for n, k in schemes
        for s in (0.01, 0.1)
    ]
    on_text = [
        {"where": REAL, "alpha": a, "scheme": n, "measured": a**k, "predicted": a**k, "ratio": 1.0}
        | {"low": 0.6, "high": 1.8}
        for n, k in schemes
        for a in ALPHAS
    ]
    pooled = [
        {"where": REAL, "subject": "model", "alpha": a, "sigma": a / 200, "examples": 2, "draws": 4}
        | {"T": t, "T_low": t - 0.05, "T_high": t + 0.05, "T_these_low": t - 0.02, "T_these_high": t + 0.02}
        | {"R": 1.2, "R_low": 1.0, "R_high": 1.4, "R_these_low": low, "R_these_high": high}
        for a, t, low, high in zip(ALPHAS, (1.0, 1.05, 0.7), (1.1, 1.1, None), (1.3, 1.3, None), strict=True)
    ]
    by_example = [
        {"where": REAL, "subject": "model", "example": b, "alpha": a, "sigma": a / 200, "excess": 1e-4 * a * h}
        | {
            "second_order": 1.1e-4 * a * h,
            "T": 0.9,
            "T_without": 0.9 - 0.1 * b,
            "T_low": 0.8,
            "T_high": 1.0,
            "R": 0.9,
            "R_low": None,
            "R_high": None,
        }
        for a in ALPHAS
        for b, h in enumerate((-4.0, 9.0))
    ]
    traces = [
        {"example": b, "tokens": 9, "scored_tokens": 4, "quantity": q, "method": m, "probes": 4, "dof": 3}
        | {"value": v * (b - 0.4), "stderr": 3.0, "seconds": 1.0}
        for q, m, v in (("tr H", "taylor", 50), ("tr G", "taylor", 70), ("tr R", "taylor", -20), ("tr H", "hvp", 50))
        for b in range(2)
    ]
    layers = [
        {
            "law": law,
            "alpha": 3.0,
            "layer": k,
            "clean": 1.0,
            "growth": 0.01,
            "growth_stderr": 0.001,
            "displacement": 0.02,
        }
        | {"displacement_stderr": 0.001, "dof": 5}
        for law in ("uniform", "symnoise")
        for k in range(3)
    ]
    norms = [
        {"law": law, "example": b, "clean": 100.0, "predicted": 108.0, "measured": 108.1, "stderr": 0.1}
        for law in ("uniform", "rademacher")
        for b in range(2)
    ]
    premise = row("N3", "fails", key="premise", subject="model", measured=0.0312, resolution=1e-3, where=REAL)
    alone = row("N3", "undecided", subject="model", low=None, high=None, n=1, where=REAL)
    stages = {
        "sources": {
            "model": {"name": "toy", "source": "made up", "revision": None, "sha256": {"toy.gguf": "ab" * 32}}
            | {"class": "Toy", "dtype": "float32", "parameters": 1234567},
            "data": {"name": "words", "form": "messages", "sha256": "cd" * 32, "examples": 77},
        },
        "moments": {"rows": [row("M1", "holds")], "tables": {"moments": moments, "square_norms": square}},
        "mixing": {"rows": [], "tables": {}},
        "analytic": {
            "rows": [row("S2", "holds"), row("S1", "holds")],
            "tables": {"slopes": slopes, "variances": variances},
        },
        "tiny": {"rows": [row("S2", "undecided", subject="tiny", low=-8.0, high=12.0)], "tables": {}},
        "curvature": {"rows": [], "tables": {"curvature": traces}},
        "validity": {
            "rows": [
                row("V1", "fails", subject="model", relation="within", measured=0.7, low=0.65, high=0.75, where=REAL)
            ],
            "tables": {"validity": pooled, "validity by example": by_example, "variances on text": on_text},
        },
        "laws": {"rows": [row("P3", "holds", relation="at most")], "tables": {}},
        "norms": {"rows": [premise, alone], "tables": {"layers": layers, "norms": norms}},
    }
    start = []
    for arm in ARMS:
        curves = [
            {"arm": arm, "step": s, "held_out_loss": 3 - 0.1 * s, "used_row_norm": 3 + 0.01 * s, "all_row_norm": 3.0}
            for s in (0, 2, 4)
        ]
        by_arm = [
            {"arm": arm, "when": w, "example": b, "quantity": q, "value": 10.0 + b, "stderr": 1.0, "dof": 3}
            for w in ("before", "after")
            for q in ("tr H", "tr G", "C(σ)")
            for b in range(2)
        ]
        start += [record for record in by_arm if record["when"] == "before"]
        by_arm = [record for record in by_arm if record["when"] == "after"]
        stages[f"training-{arm}"] = {"rows": [], "tables": {"curves": curves, "curvature by arm": by_arm, "arms": []}}
    stages["training-start"] = {"rows": [], "tables": {"curvature by arm": start}}
    return stages


def write(folder: Path, results: dict[str, dict]) -> Path:
    """The results as a run's folder."""
    (folder / "stages").mkdir(parents=True, exist_ok=True)
    for name, result in results.items():
        record = {"stage": name, "what": f"what {name} does", "settings": {"seed": 0}, "seconds": 61.0}
        record |= {"peak_rss_mib": 2048.0, "python": "3.11", "versions": {"symnoise": "0.1.0"}, "commit": "f" * 40}
        record |= {"platform": "Linux", "result": result}
        (folder / "stages" / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    settings = {"seed": 0, "training": {"arms": list(ARMS)}}
    (folder / "run.json").write_text(json.dumps({"settings": settings, "seconds_this_time": 1.0}), encoding="utf-8")
    return folder


def tables(results: dict[str, dict]) -> dict[str, pd.DataFrame]:
    merged: dict[str, list] = {}
    for result in results.values():
        for name, records in result.get("tables", {}).items():
            merged.setdefault(name, []).extend(records)
    return {name: frame(records) for name, records in merged.items()}


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The page of a whole made-up run."""
    return write_report(write(tmp_path_factory.mktemp("a") / "run", made_up()))


@pytest.fixture(scope="module")
def page(report) -> str:
    return report.read_text(encoding="utf-8")


def text(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_every_figure_is_written_three_times_with_its_data(report, page):
    folder = report.parent / "figures"
    for name in FIGURES:
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len(pd.read_csv(folder / f"{name}.csv")) > 0
        assert f'id="figure-{name}"' in page
    assert page.count("data:image/svg+xml;base64,") == len(FIGURES)
    assert not re.search(r'(src|href)="(https?:)?//', page), "the page must not load anything"
    assert sorted(p.name for p in report.parent.iterdir()) == sorted(
        ["figures", "ledger.csv", "ledger.json", "report.html", "run.json", "stages"]
    )


def test_equal_records_give_equal_bytes(tmp_path):
    few = {name: result for name, result in made_up().items() if name in ("sources", "laws", "norms")}
    folders = [write(tmp_path / side / "run", few) for side in ("one", "other")]
    for folder in folders:
        write_report(folder)
    one, other = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders)
    assert one.keys() == other.keys()
    assert [path for path in one if one[path] != other[path]] == []


def test_a_missing_stage_is_named_with_the_command_that_makes_it(tmp_path, page):
    few = {name: result for name, result in made_up().items() if name in ("moments", "training-none")}
    folder = write(tmp_path / "run", few)
    (folder / "figures").mkdir()
    (folder / "figures" / "layers.png").write_bytes(b"from an older run")
    said = text(write_report(folder).read_text(encoding="utf-8"))
    measured = "sources, mixing, analytic, tiny, curvature, laws, norms, validity"
    missing = f"{measured}, training-start, training-uniform, training-symnoise"
    assert f"Not measured yet: {missing}. Run python -m experiments.quick --output run" in said
    assert "Not drawn: needs the stage norms: run `python -m experiments.quick --output run`" in said
    assert sorted(p.stem for p in (folder / "figures").glob("*.png")) == ["moments", "training"]
    assert "Not measured yet" not in page


def test_no_records_and_a_broken_one_are_errors_of_one_line(tmp_path):
    with pytest.raises(InputError, match=r"no stage records; run `python -m experiments.quick"):
        write_report(tmp_path)
    folder = write(tmp_path / "run", {"moments": made_up()["moments"]})
    (folder / "stages" / "moments.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot read .*moments\.json .*delete it"):
        write_report(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda record: record.update(result=3), "it has no result"),
        (lambda record: record["result"].update(rows=[3]), "no lists of records"),
        (lambda record: record["result"]["tables"].update(moments=[{"law": []}]), "no lists of records"),
        (lambda record: record["result"]["tables"]["moments"][0].update(measured=10**400), "no lists of records"),
        (lambda record: record["result"]["rows"][0].pop("verdict"), "a row of its ledger has no verdict"),
        (lambda record: record["result"]["rows"][0].update(measured="many"), "a row of its ledger has no measured"),
        (lambda record: record["result"]["tables"]["moments"][0].pop("law"), "its table moments has no column law"),
    ],
)
def test_a_record_that_is_no_record_is_an_error_of_one_line(tmp_path, spoil, says):
    folder = write(tmp_path / "run", {"moments": copy.deepcopy(made_up()["moments"])})
    path = folder / "stages" / "moments.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    spoil(record)
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(InputError, match=rf"cannot read .*moments\.json: .*{says}.*; delete it"):
        write_report(folder)


def test_badges_counts_and_headline_follow_the_verdicts(tmp_path, page):
    def badges(page: str) -> dict[str, int]:
        return {w: page.count(f'<span class="badge {w}">') for w in ("holds", "fails", "undecided")}

    assert badges(page) == {"holds": 4, "fails": 2, "undecided": 2}
    assert "Of 3 predictions, 0 hold, 2 fail and 1 is undecided. At least one row fails for V1 and N3." in text(page)
    assert "Of 5 identities, which check the implementation, 1 does not hold" in text(page)
    predictions, identities = page.split('<h3 id="identity">')
    predictions = predictions.split('<h3 id="prediction">')[1]
    assert badges(predictions) == {"holds": 0, "fails": 2, "undecided": 1}
    assert badges(identities) == {"holds": 4, "fails": 0, "undecided": 1}
    assert 'href="#V1-prediction"' in page and 'id="V1-prediction"' in page and 'id="V1-identity"' not in page
    assert "The reason looked for" in predictions and "The reason looked for" not in identities

    turned = {name: copy.deepcopy(made_up()[name]) for name in ("laws", "validity")}
    turned["validity"] = {"rows": turned["validity"]["rows"], "tables": {}}
    turned["validity"]["rows"][0]["verdict"] = "holds"
    turned["laws"]["rows"][0]["verdict"] = "undecided"
    other = write_report(write(tmp_path / "run", turned)).read_text(encoding="utf-8")
    assert badges(other) == {"holds": 1, "fails": 0, "undecided": 1}
    assert "The reason looked for" in page
    assert "The reason looked for" not in other


def test_the_ledger_file_is_in_the_order_of_the_theory(report):
    rows = json.loads((report.parent / "ledger.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in rows] == ["M1", "S1", "S2", "S2", "P3", "V1", "N3", "N3"]
    assert {"id", "statement", "prediction", "measured", "low", "high", "verdict", "where", "n", "seed"} <= set(rows[0])
    assert list(pd.read_csv(report.parent / "ledger.csv").id) == [row["id"] for row in rows]


def test_reasons_for_failing_rows_come_from_the_tables(page):
    said = text(page)
    # T is 1.05 at α = 5 and 0.7 at α = 10: in α², 0.9 lies three sevenths of the way.
    assert "first leaves 1 ± 10 % at α ≈ 7.6 (" in said
    assert "tr H is negative in 1 of 2 examples" in said
    assert "the largest |cos(X, ∇ℓ)| is 0.0312 for toy on words" in said


def test_the_reason_for_n3_names_where_its_premise_holds():
    rows = [
        row("N3", verdict, key=f"{key}{made}", subject=subject, where=where)
        for subject, made, where, verdict in (
            ("model", "", REAL, "fails"),
            ("tiny", ".scale-invariant", "tiny, of X/‖X‖", "holds"),
        )
        for key in ("identity", "premise")
    ]
    broken, control = reasons(rows, {})["N3"]
    assert REAL in broken and "tiny" not in broken
    assert control == "Where the premise holds (tiny, of X/‖X‖), the identity: holds."


def test_an_unbounded_ratio_says_why_it_is_undecided():
    one = row("V1", "undecided", key="ratio-of-means.alpha=5", subject="model", low=None, high=None, n=48)
    assert note(one).startswith("unbounded: the mean second-order term may be 0")


def test_words_select_nothing():
    """Every text that a reader sees put otherwise: the same reasons, counts and rows of the paper."""
    published = read_published()
    names = {where: f"place {k}" for k, where in enumerate(dict.fromkeys(r["where"] for r in published.rows))}
    other = [
        r | {"quantity": f"words {k}", "statement": "said otherwise", "where": names[r["where"]]}
        for k, r in enumerate(published.rows)
    ]

    def words(found: dict[str, list[str]]) -> dict[str, list[str]]:
        for where, name in sorted(names.items(), key=lambda pair: -len(pair[0])):
            found = {id: [sentence.replace(where, name) for sentence in said] for id, said in found.items()}
        return found

    evidence = published.tables
    assert reasons(other, evidence) == words(reasons(published.rows, evidence)) != {}
    assert by_subject(other) == by_subject(published.rows) and headline(other) == headline(published.rows)
    keys = [(key.split(".", 1), subject) for key, subject in ROWS.values()]
    of_paper = [row(id, "holds", key=key, subject=subject, quantity="?", where="?") for (id, key), subject in keys]
    assert [named(name, of_paper) for name in ROWS] == of_paper
    # A model may be called what it likes: only its subject says that it is one.
    tiny = row("V1", "fails", subject="model", where="tiny-gpt2 on sampled text")
    assert [part["name"] for part in by_subject([tiny])] == ["Pretrained model"]
    assert sentences._fails_on_model(tiny)


def test_radius_is_interpolated_and_may_never_be_reached():
    assert radius(pd.DataFrame({"alpha": [1.0, 2.0], "T": [1.2, 1.0]})) == pytest.approx(
        0.5**0.5
    )  # from T = 1 at α = 0
    assert math.isnan(radius(pd.DataFrame({"alpha": [1.0, 2.0], "T": [1.02, 0.95]})))


def test_a_second_text_has_curves_of_its_own():
    one = tables(made_up())
    other = {name: one[name].assign(where="toy on alpaca.json") for name in ("validity", "validity by example")}
    data = validity.frame({name: pd.concat([one[name], other[name]]) for name in other})
    left, _, *_ = validity.draw(data).axes
    labels = [text.get_text() for text in left.texts]
    assert labels.count("slope Σxy/Σx²") == 1 and "slope, alpaca" in labels
    said, alone = validity.caption(data), validity.caption(validity.frame(one))
    assert (
        "2 are wider than 2 or unbounded" in said
        and "dashed and open: the second text" in said
        and "second text" not in alone
    )
    assert said.split("Bars are")[0] == alone.split("Bars are")[0]  # it speaks of the first
    assert list(validity.pooled(data, "T")["where"].unique()) == [REAL]
    assert "; slope with one text left out 0.80 to 0.90 at α = 5; 0.80" in said


def test_intervals_are_of_the_pooled_numbers_alone():
    """No bar of a single text: they used to span the panel. The unbounded ratio has a point and no bar."""
    data = validity.frame(tables(made_up()))
    left = validity.draw(data).axes[0]
    bars = [container for container in left.containers if container.has_yerr]
    assert len(bars) == 2 * len(ALPHAS) - 1
    assert data[data.example.notna()].low.isna().all()
    wide = data.assign(these_low=data.these_low.where(data.quantity != "T", -5.0))
    bars = [container for container in validity.draw(wide).axes[0].containers if container.has_yerr]
    assert len(bars) == len(ALPHAS) - 1  # a bar through the whole frame looks like a rule of it
    assert "1 is wider than 2 or unbounded" in validity.caption(data)


def test_one_seed_and_one_probe_draw_without_an_interval_and_say_so(page):
    assert "no interval from a single value" in text(page)
    assert "no interval with one seed" in training.caption(training.frame(tables(made_up())))

    single = made_up()["curvature"]["tables"]["curvature"]
    for record in single:
        record |= {"stderr": None, "dof": 0, "probes": 1}
    data = curvature.frame({"curvature": frame(single)})
    assert data.low.isna().all()
    drawn = curvature.draw(data)
    bars = [c for ax in drawn.axes for c in ax.containers if c.has_yerr]
    assert bars == []
    assert "8 points have no interval" in curvature.caption(data)


def test_a_caption_names_the_alpha_that_was_measured():
    assert "at α = 3;" in layers.caption(layers.frame(tables(made_up())))


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(matplotlib.rcParams)
    data = tables(made_up())
    for module in FIGURES.values():
        module.draw(module.frame(data))
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-6.637156, "−6.637"),
        (25.000000000000004, "25"),
        (0.0, "0"),
        (2.0450713e-8, "2.045·10⁻⁸"),
        (123456.7, "123457"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_numbers_have_sensible_digits(value, shown):
    assert number(value) == shown


def test_a_measurement_has_the_digits_of_its_interval():
    assert measurement(8.33357, 8.3267, 8.34045) == ("8.3336", "8.3267 to 8.3405")
    assert measurement(-94.2, -140.0, -50.0) == ("−94", "−140 to −50")
    assert measurement(0.0, 0.0, 0.0) == ("0", "exact")
    assert measurement(0.00123, None, None) == ("0.001230", "no interval")
    assert measurement(-6.9, -12.2, -0.04) == ("−6.9", "−12.2 to −0.04")  # 0 would leave open whether it has 0 in it
    assert measurement(-5.0, -12.0, 0.0) == ("−5.0", "−12.0 to 0")
    assert [seconds(s) for s in (0.31, 12.4, 185.2)] == ["0.3 s", "12 s", "3 min 05 s"]
