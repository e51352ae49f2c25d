"""Every study that has landed: its ledger and tables are written again from its result files, with the same bytes.

What a mixed model has a part in goes through LAPACK, whose last digits are the processor's, and is compared to 1e-6.
"""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.paper.landed import FIRST_LOOKS, ROOT, STUDIES
from analysis.study import report
from analysis.study.data import COLUMNS
from analysis.study.report import write_study

FOLDERS = [ROOT / "results" / study for study in (*STUDIES, *FIRST_LOOKS)]
LANDED = [folder for folder in FOLDERS if (folder / "study.json").is_file()]


@pytest.mark.parametrize("landed", LANDED, ids=lambda folder: folder.name)
def test_tables_come_again_from_the_result_files(landed: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(report, "drawings", lambda *_: [])  # pictures are of the tables, and take most of the time
    folder = tmp_path / landed.name
    folder.mkdir()
    for name in ("study.json", *(f"{table}.parquet" for table in COLUMNS)):
        shutil.copy(landed / name, folder)
    write_study(folder)
    made = {path.relative_to(folder) for path in (folder / "tables").iterdir()}
    fitted = {Path("tables/associations.csv"), Path("ledger.csv")}
    assert fitted - {Path("ledger.csv")} < made and len(made) == 5
    for name in made - fitted:
        assert (folder / name).read_bytes() == (landed / name).read_bytes(), name
    for name in fitted:
        again, before = (pd.read_csv(place / name) for place in (folder, landed))
        pd.testing.assert_frame_equal(again, before, rtol=1e-6, atol=1e-12)
