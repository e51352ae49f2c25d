"""`symnoise spectrum`: eigenvalues of each example's Hessian, and its spectral density."""

from pathlib import Path
from typing import Any

import pandas as pd

from symnoise.cli.shared import draw, load, long_work, positive, show, write
from symnoise.core import InputError, track
from symnoise.curvature import spectral_density
from symnoise.curvature import spectrum as eigenvalues


def spectrum(
    *,
    count: int,
    which: str,
    density: bool,
    steps: int,
    probes: int,
    seed: int,
    json: Path | None,
    figure: Path | None,
    data: str,
    **source: Any,
) -> None:
    """Print, and write, `count` eigenvalues of every example with residuals, and the density if requested."""
    positive("--count", count)
    if density and json is None:
        raise InputError("the density is written, not printed: give --json FILE with --density")
    with long_work(json, figure):
        text = load(data=data, **source)
        examples: list[dict[str, Any]] = []
        for i in track(range(len(text)), "examples"):
            loss = text.loss(range(i, i + 1))
            found = eigenvalues(loss, count, which, seed)
            examples.append(
                {"example": i, "tokens": int(loss.lengths[0]), "coordinates": loss.embeddings[0].numel()}
                | {"values": found.values[0].tolist(), "residuals": found.residuals[0].tolist()}
            )
            if density:
                measured = spectral_density(loss, steps, probes, seed)
                examples[-1] |= {"nodes": measured.nodes[0].tolist(), "weights": measured.weights[0].tolist()}
    show(
        f"{text.model.name} on {data}: {count} eigenvalues, {which}",
        ("example", "coordinates", "eigenvalues", "largest residual"),
        [
            (str(e["example"]), str(e["coordinates"]), "  ".join(f"{value:.4g}" for value in e["values"]))
            + (f"{max(e['residuals']):.1g}",)
            for e in examples
        ],
        text.notes().strip(),
    )
    rows = [
        {"example": e["example"], "rank": rank, "value": value, "residual": residual}
        for e in examples
        for rank, (value, residual) in enumerate(zip(e["values"], e["residuals"], strict=True))
    ]
    draw(figure, "spectrum", pd.DataFrame(rows))
    facts = text.facts() | {"which": which, "count": count, "seed": seed}
    if density:
        facts |= {"steps": steps, "probes": probes}
    write(json, facts | {"per_example": examples}, text.model)
