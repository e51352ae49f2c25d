"""`symnoise train`: flags over config files, a run, and how it ended."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer


def _flag(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, show_default=False)


def train(
    config: Annotated[list[Path] | None, _flag("YAML file; several are merged in their order, flags win.")] = None,
    model: Annotated[str | None, _flag("Hub id, local folder, .gguf file, or smollm2.")] = None,
    data: Annotated[
        str | None, _flag("Hub id (or ID:CONFIG@SPLIT), file, folder of files, or chitchat (bundled).")
    ] = None,
    output: Annotated[str | None, _flag("Folder for checkpoints, log, model and card.")] = None,
    family: Annotated[str | None, _flag("Model type it must be, such as llama; a dry run makes one.")] = None,
    form: Annotated[str | None, _flag("Form the data must have, such as Alpaca or ShareGPT.")] = None,
    rows: Annotated[int | None, _flag("Rows to train on; 0 for all.")] = None,
    chat_template: Annotated[str | None, _flag("Jinja file in the place of the model's chat template.")] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict/--no-strict", help="Stop at the first row that cannot be used.")
    ] = None,
    noise: Annotated[str | None, _flag("none, uniform, gaussian, gaussian-raw, rademacher, symnoise, *-pair.")] = None,
    noise_alpha: Annotated[float | None, _flag("Noise strength α, as NEFTune's.", "--alpha", "--noise-alpha")] = None,
    noise_length: Annotated[str | None, _flag("L of the scale: true or padded.")] = None,
    noise_where: Annotated[str | None, _flag("Tokens that get noise: all, prompt or response.")] = None,
    noise_schedule: Annotated[str | None, _flag("α along the run: constant, linear or cosine.")] = None,
    even: Annotated[
        float | None, _flag("Dial μ: weight of the noise's even effect, its curvature; a pair has 1.")
    ] = None,
    odd: Annotated[
        float | None, _flag("Dial λ: weight of its odd effect, gradient noise; a single draw has 1.")
    ] = None,
    pair_mode: Annotated[str | None, _flag("doubled (one batch) or two-pass (memory of one side).")] = None,
    steps: Annotated[int | None, _flag("Optimizer steps; 0 for whole epochs.")] = None,
    epochs: Annotated[float | None, _flag("Times through the rows.")] = None,
    batch: Annotated[int | None, _flag("Rows a process takes at a time.")] = None,
    accumulation: Annotated[int | None, _flag("Batches to a step.")] = None,
    max_length: Annotated[int | None, _flag("Truncate rows to this many tokens.")] = None,
    learning_rate: Annotated[float | None, _flag("Highest learning rate.")] = None,
    schedule: Annotated[str | None, _flag("Learning rate along the run: constant, linear or cosine.")] = None,
    warmup: Annotated[float | None, _flag("Fraction of the steps, or from 1 on their number.")] = None,
    weight_decay: Annotated[float | None, _flag("AdamW's.")] = None,
    max_grad_norm: Annotated[float | None, _flag("Gradients are clipped to this norm; 0 for no clipping.")] = None,
    lora_rank: Annotated[int | None, _flag("LoRA of this rank; 0 trains every weight.")] = None,
    bf16: Annotated[bool | None, typer.Option("--bf16/--no-bf16", help="Compute in bfloat16.")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing/--no-gradient-checkpointing", help="Less memory, slower.")
    ] = None,
    seed: Annotated[int | None, _flag("Names the draws, the order of rows, dropout.")] = None,
    save_every: Annotated[int | None, _flag("Steps between checkpoints.")] = None,
    keep: Annotated[int | None, _flag("Checkpoints that stay.")] = None,
    log_every: Annotated[int | None, _flag("Steps between lines of the log.")] = None,
    track_every: Annotated[int | None, _flag("Steps between noise moments, clean loss and norms; 0 for none.")] = None,
    curvature_every: Annotated[int | None, _flag("Steps between measurements of tr H; 0 for none.")] = None,
    curvature_rows: Annotated[int | None, _flag("Held-out rows that tr H is measured on.")] = None,
    eval_rows: Annotated[int | None, _flag("Rows held out, from the first on.")] = None,
    eval_every: Annotated[int | None, _flag("Steps between held-out losses.")] = None,
    report_to: Annotated[str | None, _flag("tensorboard, trackio, wandb …")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Two steps on a tiny random model of the family.")] = False,
    json: Annotated[Path | None, _flag("Also write the result to this file.", "--json")] = None,
) -> None:
    """Fine-tune with embedding noise; the same command goes on where an interrupted run stopped."""
    given = {key: value for key, value in locals().items() if value is not None}
    flags = {key: value for key, value in given.items() if key not in ("config", "dry_run", "json")}
    with _warnings_in_one_line():
        _run(config or [], flags, dry_run, json)


def _run(configs: list[Path], flags: dict[str, Any], dry: bool, json: Path | None) -> None:
    from symnoise.core import write_json
    from symnoise.finetune import dry_run, run, settings

    chosen = settings.read_settings(configs, flags)
    outcome = dry_run.dry_run(chosen) if dry else run.fine_tune(chosen)
    interrupted = outcome.step < outcome.steps
    if not run.is_main_process():
        sys.exit(130 if interrupted else 0)
    if json is not None:
        result = {"output": str(outcome.output), "step": outcome.step, "steps": outcome.steps}
        more = {"seconds": outcome.seconds, "measured": outcome.measured, "sha256": outcome.weights}
        named = {"model": chosen.model, "data": chosen.data, "noise": chosen.noise, "alpha": chosen.noise_alpha}
        named |= {"even": chosen.even, "odd": chosen.odd}
        write_json(json, {**named, **result, **more, "seed": chosen.seed})
    said = "".join(f", {name.replace('_', ' ')} {value:.5g}" for name, value in outcome.measured.items())
    if interrupted:
        print(
            f"symnoise: stopped after step {outcome.step} of {outcome.steps}, checkpoint "
            f"{outcome.output}/checkpoint-{outcome.step}; run the same command again to go on",
            file=sys.stderr,
        )
        sys.exit(130)
    if dry:
        print(f"dry run of {chosen.family} passed: {outcome.steps} steps{said}")
    else:
        print(f"{outcome.steps} steps{said}; model, card and log in {outcome.output}")


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Warnings of ours as lines like the errors; those of other libraries stay away."""

    def show(message: Any, category: Any, filename: str, *_: Any, **__: Any) -> None:
        if category is UserWarning and "/torch/" not in filename:
            print(f"symnoise: warning: {message}", file=sys.stderr)

    usual = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual
