"""The main job, end to end: measure, hold every claim against its measurement, fine-tune small arms, report.

    python -m experiments.quick                                          # results/quick, about 15 minutes on 2 cores
    python -m experiments.quick --config my.yaml --output results/mine

Safe to interrupt and to run again: finished stages are kept.
"""

import os
import time
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import typer
import yaml

from analysis.report import write_report
from experiments.ending import one_line_on_bad_input
from experiments.fine_tuning import fine_tune, measure_start
from experiments.stages import Stages
from symnoise.core import InputError, peak_rss_mib, progress_shown, retained_heap, write_json
from symnoise.curvature import smoothed_curvature, trace, trace_parts
from symnoise.data import Data, encode, load_data, usable
from symnoise.models import EmbeddingLoss, LoadedModel, load_model
from symnoise.noise import Noise
from symnoise.norms import layer_growth
from symnoise.theory import (
    Findings,
    Ridges,
    check_cancellation,
    check_coupled_laws,
    check_least_variance,
    check_moments,
    check_moments_at_scale,
    check_norms,
    check_radial,
    check_smoothing_analytically,
    check_smoothing_sampled,
    check_split,
    check_tiny_transformer,
    check_trained_norms,
    check_validity,
    check_variances,
    check_variances_on_text,
)

CONFIG = Path(__file__).parent / "configs" / "quick.yaml"
MEASURED = ("model", "data", "alphas", "text")
TRAINED = ("model", "data", "training")


def main(config: Path = CONFIG, output: Path = Path("results/quick")) -> None:
    """Run every stage that is not done yet, then write the ledger and the report."""
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    started = time.perf_counter()
    with progress_shown() as console, retained_heap() as heap:
        console.print(f"symnoise quick run: {config} → {output}   (malloc: {heap})")
        stages = Stages(output, settings, console)
        theory(stages, settings)
        text(stages, settings)
        stages.run("training-start", partial(measure_start, settings), "the model before fine-tuning", TRAINED)
        for arm in settings["training"]["arms"]:
            stages.run(f"training-{arm}", partial(fine_tune, arm, settings), f"fine-tuning, {arm}", TRAINED)
        stages.run("trained-norms", lambda: trained_norms(stages, settings), "N3 in training, arm by arm", TRAINED)
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
        report = write_report(output)
        console.print(
            f"[bold]Done[/] in {run['seconds_this_time']:.0f} s, at most {run['peak_rss_mib']:.0f} MiB: {report}"
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
    stages.run("analytic", analytic, "S1 to P3 on a function with known derivatives", ())
    stages.run(
        "tiny",
        partial(check_tiny_transformer, settings["theory"]["tiny_draws"], seed),
        "S1 to P4, V1 and N3 on a tiny float64 transformer with its dense Hessian",
        ("theory",),
    )


def text(stages: Stages, settings: dict[str, Any]) -> None:
    """The pretrained model on real text: curvature, range of validity, laws compared, norms."""
    options, seed, alphas = settings["text"], settings["seed"], [float(a) for a in settings["alphas"]]
    where = f"{Path(settings['model']).name} on {Path(settings['data']).name}"
    source = Source(settings)
    training_alphas = tuple(a for a in alphas if a >= 5)

    def loss(examples: int = options["examples"]) -> EmbeddingLoss:
        return source.loss(examples, options["max_length"])

    def sources() -> dict[str, Any]:
        return {"model": source.model.provenance(), "data": source.data.provenance()}

    def curvature() -> dict[str, Any]:
        chosen, probes = loss(), options["probes"]
        parts = trace_parts(chosen, probes=probes, seed=seed)
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

    def validity() -> Findings:
        chosen = loss()
        dim = chosen.embeddings.shape[-1]
        sigmas = torch.stack([Noise.neftune(alpha).sigma(chosen.lengths.cpu(), dim) for alpha in alphas])
        smoothed = smoothed_curvature(chosen, sigmas, draws=options["draws"], seed=seed)
        records = [
            {"example": b, "alpha": alpha, "sigma": float(sigmas[i, b]), "hessian": float(smoothed.forms[:, b].mean())}
            | {"C": float(smoothed.C.value[i, b]), "C_stderr": float(smoothed.C.stderr[i, b])}
            | {"T": float(smoothed.T.value[i, b]), "T_stderr": float(smoothed.T.stderr[i, b]), "dof": smoothed.C.dof}
            | {
                "pair": float(smoothed.pair[i, :, b].mean()),
                "odd_rms": float(smoothed.odd[i, :, b].square().mean().sqrt()),
            }
            for i, alpha in enumerate(alphas)
            for b in range(len(chosen.ids))
        ]
        checks = check_validity(smoothed, alphas, where=where, training=training_alphas, seed=seed)
        checks += check_variances_on_text(smoothed, alphas, where=where, seed=seed)
        return checks + Findings(tables={"smoothed": records})

    def laws() -> Findings:
        chosen = loss(options["law_examples"])
        return check_coupled_laws(chosen, 5.0, options["coupled_draws"], where=where, seed=seed) + check_split(
            chosen, 1.0, options["split_draws"], where=where, seed=seed
        )

    def norms() -> Findings:
        short = source.loss(options["radial_examples"], options["radial_tokens"])
        radial = check_radial(short, options["radial_probes"], where=where, seed=seed)
        chosen = loss()
        records = []
        for name in ("uniform", "gaussian", "gaussian-raw", "symnoise"):
            noise = Noise.named(name, 5.0)
            assert noise is not None
            growth = layer_growth(chosen, noise, options["layer_draws"], seed)
            for layer in range(len(growth.clean)):
                mean, moved = (
                    replace(e, value=e.value[layer], stderr=e.stderr[layer]).mean()
                    for e in (growth.growth, growth.displacement)
                )
                records.append(
                    {"law": name, "alpha": 5.0, "layer": layer, "clean": float(growth.clean[layer].mean())}
                    | {"growth": float(mean.value), "growth_stderr": float(mean.stderr)}
                    | {"displacement": float(moved.value), "displacement_stderr": float(moved.stderr), "dof": mean.dof}
                )
        return check_norms(chosen, 5.0, where=where, seed=seed) + radial + Findings(tables={"layers": records})

    stages.run("sources", sources, "which model and which text", MEASURED)
    stages.run(
        "curvature", curvature, "tr H, tr G and the rest, by Taylor mode, Hessian products and differences", MEASURED
    )
    stages.run("validity", validity, "T(σ), C(σ) and variances over draws, from small α to the training α", MEASURED)
    stages.run("laws", laws, "the laws compared by coupled draws; the two parts of a pair", MEASURED)
    stages.run("norms", norms, "embedding norms, growth through the layers, the radial identity", MEASURED)


def trained_norms(stages: Stages, settings: dict[str, Any]) -> Findings:
    """Growth of the trained rows' norms in each arm, held against the sign of tr H."""
    tables = {arm: stages.records[f"training-{arm}"]["result"]["tables"] for arm in settings["training"]["arms"]}
    growth = {
        arm: [t["curves"][-1]["used_row_norm"] / t["curves"][0]["used_row_norm"] - 1] for arm, t in tables.items()
    }
    start = stages.records["training-start"]["result"]["tables"]["curvature by arm"]
    before = [record for record in start if record["quantity"] == "tr H"]
    trace = sum(record["value"] for record in before) / len(before)
    return check_trained_norms(growth, trace, where=f"fine-tuning, {settings['model']}", seed=settings["seed"])


class Source:
    """The model and the data of a run, loaded when first asked for."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings

    @cached_property
    def model(self) -> LoadedModel:
        return load_model(self._settings["model"])

    @cached_property
    def data(self) -> Data:
        return load_data(self._settings["data"])

    def loss(self, examples: int, max_length: int) -> EmbeddingLoss:
        """The first `examples` examples with something to score within `max_length` tokens, as one batch."""
        model, tokenizer = self.model.model, self.model.tokenizer
        pool = list(self.data)[: 16 * examples]
        chosen = usable(pool, tokenizer, max_length=max_length, model=model)[:examples]
        if len(chosen) < examples:
            raise InputError(f"{self._settings['data']}: too few rows fit {max_length} tokens; raise max_length")
        return EmbeddingLoss(model, encode(chosen, tokenizer, max_length=max_length, model=model))


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
