"""Variance budget of a study's training step, along one run that `train` has finished.

    python -m experiments.study.train  STUDY.yaml none_a0_s0
    python -m experiments.study.budget STUDY.yaml none_a0_s0 --output results/variance-budget/mirror.json

The sweep and `make study` remove a run's weights at its end, so this follows `train` directly.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from experiments.study.base import base_model
from experiments.study.command import Config, DataFile, Runs
from experiments.study.results import processor, records, weights
from experiments.study.spec import Run, Study, load_study
from experiments.study.texts import split, training_rows
from result_schema.bad_input import one_line_on_bad_input
from symnoise import __version__
from symnoise.core import InputError, generator, progress_shown, provenance, unknown, write_json
from symnoise.core.batch_records import BatchRecords, Kept, key_of
from symnoise.data import collate
from symnoise.models import LoadedModel
from symnoise.training.budget import variance_budget

# Fixed before the first run. r goes from 0.03 to 1 on SmolLM2's embeddings; 5, 10 and 15 are the published recipes' α.
ALPHAS = (1.0, 2.5, 5.0, 10.0, 15.0, 40.0)
BATCHES, DRAWS = 12, 2
WHEN = ("start", "middle", "end")


def budget(study: Study, run: Run, folder: Path, when: tuple[str, ...], output: Path) -> None:
    """Write the budget of each point of `when`, on batches of the run's own training rows, as a table.

    points: when, alpha, quantity, value, stderr and the 95 % interval over batches; those already in `output` are kept,
    and so are finished batches of a point.
    """
    place = folder / run.name
    if records(place / "train.json")["status"] != "done":
        raise InputError(f"{run.name} diverged; a variance budget needs a run that was trained to its end")
    facts = {"study": study.name, "run": run.name, "batch": study.batch(run.arm), "batches": BATCHES, "draws": DRAWS}
    facts |= {"data_sha256": split(study).data.sha256, "processor": processor(), "symnoise": __version__}
    kept: dict[str, Any] = records(output) if output.is_file() else {**facts, "points": []}
    if any(kept.get(name) != value for name, value in facts.items()):
        raise InputError(f"{output} is the budget of another run, or made by another version; choose another file")
    found: list[dict[str, Any]] = kept["points"]
    unfinished = BatchRecords(output)
    for name in when:
        if name not in {point["when"] for point in found}:
            source = base_model(study, folder) if name == "start" else weights(place, name)
            found += [{"when": name, **point} for point in points(study, run, source, unfinished)]
            write_json(output, {**facts, "points": found, **provenance()})
    unfinished.remove()


def points(study: Study, run: Run, source: LoadedModel, unfinished: BatchRecords) -> list[dict[str, Any]]:
    """Every quantity of `VarianceBudget` at every α, on disjoint batches of training rows in random order."""
    model, tokenizer, size = source.model, source.tokenizer, study.batch(run.arm)
    rows = training_rows(study, run.seed, tokenizer, model)
    if len(rows) < BATCHES * size:
        raise InputError(f"{study.name} trains on {len(rows)} rows; {BATCHES} disjoint batches need {BATCHES * size}")
    order = torch.randperm(len(rows), generator=generator(run.seed, "budget rows")).tolist()
    parts = [order[at * size : (at + 1) * size] for at in range(BATCHES)]
    texts = [[rows[i] for i in part] for part in parts]
    settings = [ALPHAS, DRAWS, run.seed, processor(), source.provenance()]
    keys = [key_of(settings, texts[: j + 1]) for j in range(BATCHES)]  # a record has products with the earlier batches
    batches = [collate(text, tokenizer) for text in texts]
    model.requires_grad_(True)
    found = variance_budget(model, batches, ALPHAS, None, DRAWS, run.seed, Kept(unfinished, keys))
    tables = [one.to_frame().assign(alpha=one.alpha) for one in found]
    return [{str(name): value for name, value in row.items()} for table in tables for row in table.to_dict("records")]


def command(
    config: Config,
    run: str,
    output: Annotated[Path, typer.Option(help="JSON file; rerun the command to resume.")],
    when: Annotated[str, typer.Option(help="Points of the run, comma-separated.")] = ",".join(WHEN),
    data: DataFile = "",
    runs: Runs = Path("runs"),
) -> None:
    """Variance budget along one run of a study."""
    study, asked = load_study(config, data or None), tuple(when.split(","))
    for name in asked:
        if name not in WHEN:
            raise unknown("point of a run", name, WHEN)
    with progress_shown():
        budget(study, study.run(run), runs / study.key, asked, output)


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(command))
