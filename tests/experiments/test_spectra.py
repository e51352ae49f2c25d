"""Spectra of real text, on a tiny model: tables and figure are written and agree with the library."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from analysis.figures.__main__ import draw
from experiments import spectra
from experiments.quick.run import Source
from symnoise.curvature import spectrum
from tests.tiny import tiny, tiny_tokenizer


@pytest.fixture
def places(tmp_path) -> dict[str, str]:
    tiny("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer(chat=True).save_pretrained(tmp_path / "model")
    rows = [{"instruction": f"say {i}", "output": f"{i} and {i + 1}"} for i in range(4)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return {"model": str(tmp_path / "model"), "data": str(tmp_path / "rows.json")}


def test_densities_and_eigenvalues_are_written_and_drawn(places: dict[str, str], tmp_path) -> None:
    output = tmp_path / "spectra"
    spectra.main(**places, examples=2, max_length=24, steps=12, probes=3, k=4, output=output)
    assert {path.name for path in Path(output).iterdir()} == {
        "density.csv",
        "eigenvalues.csv",
    }
    said = "\n".join(draw(output))
    assert {"density.pdf", "density.png"} < {path.name for path in Path(output).iterdir()}
    curves, top = (pd.read_csv(output / f"{name}.csv") for name in ("density", "eigenvalues"))
    for _, curve in curves.groupby("example"):
        assert torch.trapezoid(
            torch.tensor(curve.density.to_numpy()), torch.tensor(curve.eigenvalue.to_numpy())
        ) == pytest.approx(1, abs=0.01)
    expected = spectrum(Source(places).loss(2, 24), 4, "magnitude").values
    torch.testing.assert_close(
        torch.tensor(top.eigenvalue.to_numpy()).reshape(2, 4), expected, rtol=1e-3, atol=1e-3 * float(expected.max())
    )
    assert "12 steps from 3 probes" in said and "the 4 eigenvalues of largest size" in said
