"""Every published study: its ledger and tables are written again from its result files.

Words, counts and verdicts are the same; numbers to 1e-9, since sums of products are rounded as the processor's BLAS
kernel orders them. `make test-kernels` runs this under another kernel and vector width.
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.paper.published import FIRST_LOOKS, MECHANISM, STUDIES
from analysis.study import report
from analysis.study.report import write_study
from result_schema.files import ROOT
from result_schema.study import TABLES

FOLDERS = [ROOT / "results" / study for study in (*STUDIES, *MECHANISM, *FIRST_LOOKS)]
PUBLISHED = [folder for folder in FOLDERS if (folder / "study.json").is_file()]


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda folder: folder.name)
def test_tables_come_again_from_the_result_files(published: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(report, "drawings", lambda *_: [])  # pictures are of the tables, and take most of the time
    folder = tmp_path / published.name
    folder.mkdir()
    for name in ("study.json", *(f"{table}.parquet" for table in TABLES)):
        shutil.copy(published / name, folder)
    write_study(folder)
    made = sorted(path.relative_to(folder) for path in (folder / "tables").iterdir())
    assert len(made) == 5 + published.name.startswith("dials")
    for name in (*made, "ledger.csv"):
        again, before = (pd.read_csv(place / name) for place in (folder, published))
        pd.testing.assert_frame_equal(again, before, rtol=1e-9, atol=1e-12, obj=str(name))
    again, before = (json.loads((place / "ledger.json").read_text("utf-8")) for place in (folder, published))
    assert [(row["key"], row["verdict"]) for row in again] == [(row["key"], row["verdict"]) for row in before]
