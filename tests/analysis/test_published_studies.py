"""Every published study: its ledger and tables are written again from its result files.

Words, counts and verdicts are the same; numbers to 1e-9, since sums of products are rounded as the processor's BLAS
kernel orders them. `make test-kernels` runs this under another kernel and vector width.
"""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from analysis.paper.published import MECHANISM, STUDIES
from analysis.study import report
from analysis.study.report import write_study
from result_schema.files import ROOT
from result_schema.study import TABLES

# The α with the lowest held-out loss in each sweep, and those of which the guide has the numbers.
SWEEPS = {
    "micro-r-sweep": (15, (5, 10, 15, 30)),
    "micro-r-flips-sweep": (30, (5, 10, 15, 30)),
    "micro-r-flips-far": (30, (30, 60, 90, 120)),
}
FOLDERS = [ROOT / "results" / study for study in (*STUDIES, *MECHANISM, *SWEEPS)]
PUBLISHED = [folder for folder in FOLDERS if (folder / "study.json").is_file()]


DIALLED = ("dials", "dials-one-pass", "transfer", "transfer-dials", "transfer-dolly", "transfer-open-platypus")
DIALLED += ("transfer-evol-instruct", "transfer-longer")


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda folder: folder.name)
def test_tables_come_again_from_the_result_files(published: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(report, "drawings", lambda *_: [])  # pictures are of the tables, and take most of the time
    folder = tmp_path / published.name
    folder.mkdir()
    for name in ("study.json", *(f"{table}.parquet" for table in TABLES)):
        shutil.copy(published / name, folder)
    write_study(folder)
    made = sorted(path.relative_to(folder) for path in (folder / "tables").iterdir())
    assert len(made) == 5 + (published.name in DIALLED)  # and slopes
    for name in (*made, "ledger.csv"):
        again, before = (pd.read_csv(place / name) for place in (folder, published))
        pd.testing.assert_frame_equal(again, before, rtol=1e-9, atol=1e-12, obj=str(name))
    again, before = (json.loads((place / "ledger.json").read_text("utf-8")) for place in (folder, published))
    assert [(row["key"], row["verdict"]) for row in again] == [(row["key"], row["verdict"]) for row in before]


def test_the_guide_says_what_the_sweeps_found() -> None:
    """Uniform noise minus none, in held-out loss, at each α that the guide names."""
    guide = " ".join((ROOT / "docs" / "guide" / "study.md").read_text("utf-8").split())
    for sweep, (chosen, said_of) in SWEEPS.items():
        table = pd.read_csv(ROOT / "results" / sweep / "tables" / "contrasts.csv")
        own = table[(table.measure == "held-out loss") & (table.when == "end")].set_index("alpha")["mean"]
        assert own.idxmin() == chosen
        own = own.map(lambda mean: f"{mean:+.3f}".replace("-", "−"))
        said = guide[guide.index(f"`{sweep}`") :]
        numbers = re.findall(r"[+−]\d\.\d{3}", said)[:4]
        assert numbers == [own[alpha] for alpha in said_of], sweep
