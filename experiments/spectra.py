"""Spectral densities and largest eigenvalues of the Hessian on real text, as tables.

python -m experiments.spectra                   # SmolLM2, 3 conversations; about 10 minutes on 2 cores
python -m analysis.figures results/spectra      # then: the figure
"""

from pathlib import Path

import pandas as pd
import torch
import typer

from experiments.quick.run import Source
from result_schema.bad_input import one_line_on_bad_input
from symnoise.core import progress_shown, write_atomically
from symnoise.curvature import spectral_density, spectrum

POINTS, WIDTH = 1501, 0.01  # of the grid; the bells' standard deviation over the spectrum's range


def main(
    model: str = "smollm2",
    data: str = "chitchat",
    examples: int = 3,
    max_length: int = 96,
    steps: int = 48,
    probes: int = 3,
    k: int = 10,
    seed: int = 0,
    output: Path = Path("results/spectra"),
) -> None:
    """Measure, and write density.csv and eigenvalues.csv into `output`."""
    loss = Source({"model": model, "data": data}).loss(examples, max_length)
    with progress_shown():
        density = spectral_density(loss, steps, probes, seed)
        top = spectrum(loss, k, "magnitude", seed)
    reach = 1.15 * max(float(density.nodes.abs().max()), float(top.values.abs().max()))
    width = WIDTH * float(density.nodes.max() - density.nodes.min())
    grid = torch.linspace(-reach, reach, POINTS, dtype=torch.float64)
    curve = density.density(grid, width)
    curves, values = [], []
    for b in range(examples):
        facts = {"example": b, "tokens": int(loss.lengths[b]), "coordinates": int(density.coordinates[b])}
        run = {"width": width, "steps": steps, "probes": probes}
        columns = {"eigenvalue": grid.tolist(), "density": curve.value[b].tolist(), "stderr": curve.stderr[b].tolist()}
        curves.append(pd.DataFrame(columns | facts | run))
        values.append(
            pd.DataFrame({"eigenvalue": top.values[b].tolist(), "residual": top.residuals[b].tolist()} | facts)
        )
    tables = {"density": pd.concat(curves), "eigenvalues": pd.concat(values)}
    for name, table in tables.items():
        write_atomically(output / f"{name}.csv", lambda path, table=table: table.to_csv(path, index=False))  # type: ignore[misc]
    typer.echo(f"written to {output}; the figure: python -m analysis.figures {output}")


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
