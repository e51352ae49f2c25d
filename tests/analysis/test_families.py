"""The page of several models: measured where there is a tiny one, and the published page is that of its records."""

import json
from pathlib import Path

import pytest

from analysis.families import page, read, write
from experiments import families
from result_schema.files import ROOT
from symnoise.core import InputError
from symnoise.curvature import trace
from symnoise.data import encode, load_data
from symnoise.models import EmbeddingLoss, load_model
from symnoise.plot.numbers import number
from tests.tiny import tiny, tiny_tokenizer

PUBLISHED = ROOT / "results" / "families"


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    """A tiny model measured by the script, as three models of a folder."""
    folder = tmp_path_factory.mktemp("families")
    tiny("llama").save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    rows = [{"prompt": f"Say {n}.", "completion": f"{n} is what I say."} for n in range(8)]
    (folder / "rows.json").write_text(json.dumps(rows))
    found = families.measure("a/model", str(folder / "rows.json"), str(folder / "model"))
    (folder / "records").mkdir()
    for k, name in enumerate("abc"):
        made = found | {"model": name, "parameters": 1e6 * (3 - k)}
        (folder / "records" / f"{name}.json").write_text(json.dumps(made))
    return folder


def test_means_over_rows_and_r_in_proportion_to_alpha(records) -> None:
    points = read(records / "records")
    own = points[points.model == "a"]
    loaded, text = load_model(str(records / "model")), load_data(str(records / "rows.json"))
    batch = encode(list(text)[: families.ROWS], loaded.tokenizer, max_length=families.TOKENS, model=loaded.model)
    exact = trace(EmbeddingLoss(loaded.model, batch), "exact").value
    measured = own[own.quantity == "tr H"].iloc[0]
    assert abs(measured.value - float(exact.mean())) < 5 * measured.stderr
    r = own[own.quantity == "r"].set_index("alpha").value
    loss = EmbeddingLoss(loaded.model, batch)
    noise = 5 / (3 * loss.lengths).sqrt()[:, None] / loss.embeddings.norm(dim=-1)
    assert r[5.0] == pytest.approx(float(noise[loss.mask != 0].median()), rel=1e-5)
    assert r[15.0] == pytest.approx(3 * r[5.0])
    parts = own[own.alpha.isna()].set_index("quantity").value
    assert parts["tr H"] == pytest.approx(parts["tr G"] + parts["tr R"], rel=1e-6)


def test_smaller_models_come_first_with_all_their_numbers(records) -> None:
    said = page(read(records / "records"), "rows")
    assert said.index("| c, Llama") < said.index("| b, Llama") < said.index("| a, Llama")
    assert "The first 4 rows of the same text (rows) that fit in 96 tokens" in said
    assert "| r, α = 1 | r, α = 5 | r, α = 10 | r, α = 15 |" in said and "nan" not in said
    points = read(records / "records")
    value = points[(points.quantity == "r") & (points.alpha == 5)].value.iloc[0]
    assert f"At α = 5 the noise is {number(value, 2)} to {number(value, 2)} of a token" in said


def test_models_measured_on_other_rows_are_refused(records, tmp_path) -> None:
    for name in "ab":
        made = json.loads((records / "records" / f"{name}.json").read_text())
        (tmp_path / f"{name}.json").write_text(json.dumps(made | {"probes": made["probes"] + (name == "b")}))
    with pytest.raises(InputError, match="were not measured on the same rows"):
        read(tmp_path)
    with pytest.raises(InputError, match=r"has no models; run `python -m experiments\.families` first"):
        read(tmp_path / "none")


def test_the_published_page_is_that_of_the_published_records(tmp_path) -> None:
    write(PUBLISHED, tmp_path, "tatsu-lab/alpaca")
    for name in ("families.md", "families.csv"):
        assert (tmp_path / name).read_text() == (ROOT / "docs" / name).read_text()
