"""The bench of changes: its ratio is that of the variances, and its interval covers it."""

import re

import pandas as pd
import pytest
import torch

from experiments.bench import changes
from result_schema.files import ROOT
from symnoise.core import generator


def test_the_ratio_of_fresh_to_paired_variances_with_its_interval() -> None:
    """Correlation 0.98 of equal variances: a paired difference has 0.02 of the variance, so 50 times fewer probes."""
    random, covered = generator(0, "pairs"), 0
    for _ in range(200):
        here, other = torch.randn((2, changes.PROBES, 4), generator=random, dtype=torch.float64)
        value, low, high = changes.ratio(here, 0.98 * here + (1 - 0.98**2) ** 0.5 * other)
        covered += low <= 50 <= high
        assert low < value < high
    assert 0.91 <= covered / 200 <= 0.98  # 95 % within 2.6 standard errors


def test_the_smoke_run_has_every_checkpoint(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(changes, "STEPS", 2)
    monkeypatch.setattr(changes, "PROBES", 7)
    changes.main(smoke=True, output=tmp_path / "changes.csv")
    frame = pd.read_csv(tmp_path / "changes.csv")
    assert frame.step.tolist() == [0, 1, 2]
    assert (frame.latest_ratio[1:] > 4).all() and frame.change_ratio[1] == frame.latest_ratio[1]
    assert (frame.trace_ratio > 1).all()  # the start's probes count
    assert "since the last" in capsys.readouterr().out


def test_the_guide_says_what_was_measured() -> None:
    frame = pd.read_csv(ROOT / "docs" / "changes.csv").set_index("step")
    guide = (ROOT / "docs" / "guide" / "curvature.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*?) \| (.*?) \|$", guide.partition("| step | since the start")[2], re.M)[:7]
    assert [int(step) for step, *_ in rows] == [1, 4, 12, 16, 24, 40, 48]
    for step, *cells in rows:
        for name, cell in zip(("change", "latest"), cells, strict=True):
            said = [float(number.replace(",", "")) for number in re.findall(r"[\d.,]+", cell)]
            ends = ("ratio", "ratio_low", "ratio_high")
            assert said == pytest.approx([frame.loc[int(step), f"{name}_{end}"] for end in ends], rel=0.04)
