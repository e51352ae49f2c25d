"""The gallery shows what is published, byte for byte, and says how to make what has not."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.gallery import entries, write_gallery
from analysis.page import drawn
from analysis.study.figures import FIGURES
from result_schema.files import ROOT
from symnoise.plot import style
from symnoise.plot.page import write_csv
from tests.analysis.made_up_study import study


@pytest.mark.parametrize("name", ["validity", "variances"])
def test_landed_data_give_the_landed_picture(tmp_path: Path, name: str, monkeypatch, coarse_pictures) -> None:
    monkeypatch.setattr(style, "_RC", coarse_pictures)
    (entry,) = (entry for entry in entries()["Theory against measurement"] if entry.name == name)
    assert entry.data is not None
    drawn(entry.module, entry.data, tmp_path, name)
    assert (tmp_path / f"{name}.png").read_bytes() == (ROOT / "docs" / "quick" / f"{name}.png").read_bytes()


def test_the_page_has_what_landed_and_says_how_to_make_the_rest(tmp_path: Path, monkeypatch) -> None:
    data = tmp_path / "docs" / "quick" / "data"
    data.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "quick" / "data" / "norms.csv", data)
    results = tmp_path / "results" / "micro"
    write_csv(results / "figures" / "curves.csv", FIGURES["curves"].frame(study(results, seeds=2), pd.DataFrame()))
    point = {"probes": 8, "tokens": 128, "rows": 1, "depth": 30, "seconds": 1.0, "memory_gib": 0.5}
    lines = [
        {**point, "method": method, "axis": axis, axis: value, "seconds": value / 8}
        for method in ("taylor", "hvp")
        for axis in ("probes", "tokens", "rows", "depth")
        for value in (8, 16)
    ]
    pd.DataFrame(lines).to_csv(tmp_path / "docs" / "growth.csv", index=False)

    page = write_gallery(tmp_path).read_text(encoding="utf-8")

    pictures = {path.stem for path in (tmp_path / "docs" / "gallery").glob("*.png")}
    assert pictures == {"norms", "growth", "micro-curves"}
    assert all(f"]({name}.png)" in page for name in pictures)
    assert page.count("`make reproduce` measures it") == 7
    assert page.count("`python -m experiments.spectra` measures it") == 1
    assert page.count("`make study STUDY=micro` measures it") == len(FIGURES) - 2  # no dials, and the curves are there
    assert page.count("`make study STUDY=smollm2` measures it") == len(FIGURES) - 1


def test_every_figure_has_a_section_on_how_to_read_it() -> None:
    page = (ROOT / "docs" / "figures.md").read_text(encoding="utf-8")
    anchors = set(re.findall(r"\{ #([\w-]+) \}", page))
    assert anchors == {entry.anchor for found in entries().values() for entry in found}
    for section in page.split("\n## ")[1:]:
        assert all(f"- **{part}" in section for part in ("Axes.", "Intervals.", "Against", "Seen."))
