"""The main job: measure, compare every claim with its measurement, fine-tune small arms.

    python -m experiments.quick                                          # results/quick, about 15 minutes on 2 cores
    python -m experiments.quick --model gpt2 --data rows.jsonl --output results/gpt2
    python -m experiments.quick --config my.yaml --output results/mine   # only what differs from the default
    python -m analysis.report results/quick                              # then: the ledger, the figures, the report

Rerun the command to resume: finished stages are kept. Invalid settings are refused at once.
"""

import os
import time
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import typer

from experiments.fine_tuning import fine_tune_arm, measure_start
from experiments.quick.settings import CONFIG, read_settings
from experiments.quick.stages import Stages
from experiments.rows import AMONG, first_usable
from result_schema.quick import START, training_stage
from symnoise.core import InputError, one_run_at_a_time, peak_rss_mib, progress_shown, retained_heap, write_json
from symnoise.curvature import SmoothedCurvature, smoothed_curvature, trace, trace_parts
from symnoise.data import Data, collate, encode_row, load_data
from symnoise.models import EmbeddingLoss, LoadedModel, load_model
from symnoise.noise import Noise
from symnoise.norms import layer_growth
from symnoise.theory import (
    Findings,
    Ridges,
    check_cancellation,
    check_coupled_laws,
    check_diagonal_on_text,
    check_first_layer,
    check_least_variance,
    check_mixing,
    check_moments,
    check_moments_at_scale,
    check_norms,
    check_radial,
    check_smoothing_analytically,
    check_smoothing_sampled,
    check_split,
    check_tiny_transformer,
    check_validity,
    check_variances,
    check_variances_on_text,
)

MEASURED = ("model", "data", "text")
RANGE = ("model", "data", "alphas", "range")
SIZED = ("text", "range", "training")
TRAINED = ("model", "data", "training")


def main(
    config: Annotated[Path, typer.Option(help="YAML file of sizes and seeds.")] = CONFIG,
    output: Annotated[Path, typer.Option(help="Folder of the stage records; what is done there is kept.")] = Path(
        "results/quick"
    ),
    model: Annotated[str | None, typer.Option(help="As in symnoise curvature; before the config's.")] = None,
    data: Annotated[str | None, typer.Option(help="As in symnoise curvature; before the config's.")] = None,
    second_data: Annotated[str | None, typer.Option(help="Text for claims on a second one; none by default.")] = None,
) -> None:
    """Run every stage that is not done yet; `python -m analysis.report` makes the ledger and the report of the records.

    The defaults reproduce the published run, but for its second text.
    """
    settings = read_settings(config, model, data, second_data)
    started = time.perf_counter()
    alone = one_run_at_a_time(output, output / ".lock", "choose another --output")
    with alone, progress_shown() as console, retained_heap() as heap:
        console.print(f"symnoise quick run: {config} → {output}   (malloc: {heap})")
        stages = Stages(output, settings, console)
        source = Source(settings)
        uses = ("model", "data", "second_data", *SIZED)
        if stages.run("sources", source.checked, "which model and which text", uses) != source.identity():
            raise InputError(f"the model or a text is not what {output} was begun with; choose another --output")
        theory(stages, settings)
        text(stages, settings, source)
        validity(stages, settings, source)
        stages.run(training_stage(START), partial(measure_start, settings), "the model before fine-tuning", TRAINED)
        for arm in settings["training"]["arms"]:
            stages.run(training_stage(arm), partial(fine_tune_arm, arm, settings), f"fine-tuning, {arm}", TRAINED)
        run = {
            "settings": settings,
            "seconds_this_time": time.perf_counter() - started,
            "seconds": sum(record["seconds"] for record in stages.records.values()),
            "peak_rss_mib": max(peak_rss_mib(), *(r["peak_rss_mib"] for r in stages.records.values())),
            "stages": {name: record["seconds"] for name, record in stages.records.items()},
            "claims": {
                name: sorted({row["id"] for row in record["result"].get("rows", [])})
                for name, record in stages.records.items()
            },
        }
        write_json(output / "run.json", run)
        console.print(
            f"[bold]Done[/] in {run['seconds_this_time']:.0f} s, at most {run['peak_rss_mib']:.0f} MiB: {output}"
            f"   (the report: python -m analysis.report {output})"
        )


def theory(stages: Stages, settings: dict[str, Any]) -> None:
    """The claims where everything is known: sampled laws, an analytic function, a tiny transformer."""
    seed = settings["seed"]

    def analytic() -> Findings:
        ridges = Ridges.drawn(seed=seed)
        subject = ridges.subject()
        return (
            check_smoothing_analytically(seed)
            + check_smoothing_sampled(subject, 0.1, 100_000, seed)
            + check_cancellation(subject, 0.1, seed=seed)
            + check_variances(subject, 0.1, seed=seed)
            + check_least_variance(subject, seed=seed)
        )

    stages.run("moments", lambda: check_moments(seed=seed) + check_moments_at_scale(seed=seed), "M1 to M3, sampled", ())
    stages.run("mixing", lambda: check_mixing(seed=seed), "L1, X1 and R1, sampled", ())
    stages.run("analytic", analytic, "S1 to P3 on a function with known derivatives", ())
    stages.run(
        "tiny",
        partial(check_tiny_transformer, settings["theory"]["tiny_draws"], seed),
        "S1 to P4, V1 and N3 on a tiny float64 transformer with its dense Hessian",
        ("theory",),
    )


def text(stages: Stages, settings: dict[str, Any], source: "Source") -> None:
    """The pretrained model on real text: curvature, laws compared, norms."""
    stages.run(
        "curvature",
        partial(curvature, settings, source),
        "tr H, tr G and the rest, by Taylor mode, Hessian products and differences",
        MEASURED,
    )
    stages.run(
        "laws",
        partial(laws, settings, source),
        "the laws compared by coupled draws; the parts of a pair; the diagonal of H; the first layer",
        MEASURED,
    )
    stages.run(
        "norms",
        partial(norms, settings, source),
        "embedding norms, growth through the layers, the radial identity",
        MEASURED,
    )


def curvature(settings: dict[str, Any], source: "Source") -> dict[str, Any]:
    """tr H and its parts of each example, by every method."""
    options, seed = settings["text"], settings["seed"]
    chosen, probes = source.loss(options["examples"], options["max_length"]), options["probes"]
    parts = trace_parts(chosen, probes=probes, seed=seed, precision="float32")  # alike on every machine
    by_method = {
        "hvp": trace(chosen, "hvp", probes, seed),  # the same probes: equal but for rounding
        "difference": trace(chosen, "difference", probes // 8, seed),
    }
    records = [
        {"example": b, "tokens": int(chosen.lengths[b]), "scored_tokens": int(chosen.scored_tokens[b])}
        | {"quantity": name, "method": estimate.method, "probes": estimate.probes, "dof": estimate.dof}
        | {"value": float(estimate.value[b]), "stderr": float(estimate.stderr[b]), "seconds": estimate.seconds}
        for name, estimate in (
            ("tr H", parts.hessian),
            ("tr G", parts.gauss_newton),
            ("tr R", parts.rest),
            *(("tr H", estimate) for estimate in by_method.values()),
        )
        for b in range(len(chosen.ids))
    ]
    return {"rows": [], "tables": {"curvature": records}}


def laws(settings: dict[str, Any], source: "Source") -> Findings:
    """The laws by coupled draws, the parts of a pair, the diagonal of H and the first layer."""
    options = settings["text"]
    chosen = source.loss(options["law_examples"], options["max_length"])
    facts: dict[str, Any] = {"where": source.where(), "seed": settings["seed"]}
    return (
        check_coupled_laws(chosen, 5.0, options["coupled_draws"], **facts)
        + check_split(chosen, 1.0, options["split_draws"], **facts)
        + check_diagonal_on_text(chosen, options["diagonal_probes"], **facts)
        + check_first_layer(source.model.model, **facts)
    )


def norms(settings: dict[str, Any], source: "Source") -> Findings:
    """Embedding norms, the radial identity, and growth through the layers."""
    options, seed, where = settings["text"], settings["seed"], source.where()
    short = source.loss(options["radial_examples"], options["radial_tokens"])
    radial = check_radial(short, options["radial_probes"], where=where, seed=seed)
    chosen = source.loss(options["examples"], options["max_length"])
    layers = [
        record
        for law in ("uniform", "gaussian", "gaussian-raw", "symnoise")
        for record in _layers(chosen, law, options["layer_draws"], seed)
    ]
    return check_norms(chosen, 5.0, where=where, seed=seed) + radial + Findings(tables={"layers": layers})


def _layers(loss: EmbeddingLoss, law: str, draws: int, seed: int) -> list[dict[str, Any]]:
    """Growth and displacement of the norm layer by layer under one law, means over examples."""
    noise = Noise.named(law, 5.0)
    assert noise is not None
    growth = layer_growth(loss, noise, draws, seed)
    records = []
    for layer in range(len(growth.clean)):
        mean, moved = (
            replace(e, value=e.value[layer], stderr=e.stderr[layer]).mean()
            for e in (growth.growth, growth.displacement)
        )
        records.append(
            {"law": law, "alpha": 5.0, "layer": layer, "clean": float(growth.clean[layer].mean())}
            | {"growth": float(mean.value), "growth_stderr": float(mean.stderr)}
            | {"displacement": float(moved.value), "displacement_stderr": float(moved.stderr), "dof": mean.dof}
        )
    return records


def validity(stages: Stages, settings: dict[str, Any], source: "Source") -> None:
    """What is left of the quadratic term from small α to the training α, and variances over draws."""
    options, seed, alphas = settings["range"], settings["seed"], [float(a) for a in settings["alphas"]]
    training = tuple(a for a in alphas if a >= 5)

    def measure(data: str) -> SmoothedCurvature:
        losses = source.losses(options["examples"], options["max_length"], options["batch"], data)
        return SmoothedCurvature.joined([_smoothed(loss, alphas, options["draws"], seed) for loss in losses])

    def first() -> Findings:
        smoothed, where = measure("data"), source.where()
        checks = check_validity(smoothed, alphas, where=where, training=training, seed=seed)
        return checks + check_variances_on_text(smoothed, alphas, where=where, seed=seed)

    def second() -> Findings:
        where = source.where("second_data")
        return check_validity(
            measure("second_data"), alphas, where=where, training=training, text="second-text", seed=seed
        )

    what = "slope and ratio of means of pairs’ excess, and variances over draws, from small α to the training α"
    stages.run("validity", first, what, RANGE)
    if settings["second_data"] is not None:
        stages.run("validity-second", second, "the same slope and ratio on a second text", ("second_data", *RANGE))


def _smoothed(loss: EmbeddingLoss, alphas: list[float], draws: int, seed: int) -> SmoothedCurvature:
    """At the σ of each training α."""
    dim = loss.embeddings.shape[-1]
    sigmas = torch.stack([Noise.neftune(alpha).sigma(loss.lengths.cpu(), dim) for alpha in alphas])
    return smoothed_curvature(loss, sigmas, draws=draws, seed=seed)


class Source:
    """The model and the texts of a run, loaded when first asked for."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    @cached_property
    def model(self) -> LoadedModel:
        return load_model(self._settings["model"])

    @cache  # noqa: B019 (a run has one source, and two texts at most)
    def text(self, which: str = "data") -> Data:
        return load_data(self._settings[which])

    def where(self, which: str = "data") -> str:
        """Model and text, for a reader."""
        return f"{Path(self._settings['model']).name} on {Path(self._settings[which]).name}"

    def checked(self) -> dict[str, Any]:
        """Model and texts, once each has the rows that every stage will ask for; `InputError` naming the key if not."""
        text, span, training = (self._settings[name] for name in SIZED)
        wanted = [
            (text["examples"], text["max_length"], "text.max_length", "data"),
            (text["radial_examples"], text["radial_tokens"], "text.radial_tokens", "data"),
            (span["examples"], span["max_length"], "range.max_length", "data"),
            (training["held_out"] + training["rows"], training["max_length"], "training.max_length", "data"),
        ]
        if self._settings["second_data"] is not None:
            wanted.append((span["examples"], span["max_length"], "range.max_length", "second_data"))
        for examples, tokens, key, which in wanted:
            self.rows(examples, tokens, which, key)
        return self.identity()

    def identity(self) -> dict[str, Any]:
        """Provenance of the model and of the texts."""
        texts = ("data", "second_data") if self._settings["second_data"] is not None else ("data",)
        return {"model": self.model.provenance(), **{which: self.text(which).provenance() for which in texts}}

    def rows(
        self, examples: int, max_length: int, which: str = "data", key: str = "max_length"
    ) -> list[dict[str, list[int]]]:
        """The first `examples` examples with something to score within `max_length` tokens, as token ids."""
        model, tokenizer = self.model.model, self.model.tokenizer
        rows, data = list(self.text(which))[: AMONG * examples], self._settings[which]
        chosen = first_usable(rows, examples, tokenizer, model, max_length, data=data, key=key)
        return [encode_row(row, tokenizer, max_length=max_length, model=model) for row in chosen]

    def losses(self, examples: int, max_length: int, batch: int, which: str = "data") -> list[EmbeddingLoss]:
        """These examples in batches of rows of about the same length; their numbers name their draws."""
        rows = self.rows(examples, max_length, which)
        order = sorted(range(examples), key=lambda i: len(rows[i]["input_ids"]))
        parts = [order[i : i + batch] for i in range(0, examples, batch)]
        tokenizer = self.model.tokenizer
        return [EmbeddingLoss(self.model.model, collate([rows[i] for i in part], tokenizer), part) for part in parts]

    def loss(self, examples: int, max_length: int) -> EmbeddingLoss:
        """These examples as one batch."""
        return EmbeddingLoss(self.model.model, collate(self.rows(examples, max_length), self.model.tokenizer))
