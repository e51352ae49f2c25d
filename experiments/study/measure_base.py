"""The model before fine-tuning, measured as every run is at its end; the same for all of them.

python -m experiments.study.measure_base STUDY.yaml
"""

from pathlib import Path

from experiments.study.base import base_model
from experiments.study.command import study_command
from experiments.study.measure import curvature
from experiments.study.spec import Study
from experiments.study.texts import split
from symnoise.core import provenance, write_json


def start(study: Study, folder: Path) -> None:
    """Write start.json."""
    points, _ = curvature(study, base_model(study, folder))
    record = {"measured_by": study.measured_by, "points": points, "data_sha256": split(study).data.sha256}
    write_json(folder / "start.json", record | provenance())


if __name__ == "__main__":
    study_command(start)()
