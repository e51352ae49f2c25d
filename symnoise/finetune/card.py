"""The model card of a trained model: base model, data, noise, settings and results."""

from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from symnoise.core import provenance
from symnoise.finetune.settings import TrainSettings
from symnoise.noise import law

_SIDES = {
    (False, True): "one draw a row",
    (False, False): "one draw a row",
    (True, True): "a mirrored pair: every row is trained on as X + ε and as X − ε, and the loss is the mean",
    (True, False): "two independent draws: every row is trained on with each, and the loss is the mean",
}
_DIALLED = (
    "by dials μ = {even:g} and λ = {odd:g}: every row is trained on as (1−μ) ℓ(X) + ½(μ+λs) ℓ(X+ε) + ½(μ−λs) ℓ(X−ε), "
    "s = ±1 at random"
)
_LENGTHS = {
    "true": "L the number of real tokens of the row (of the document, where rows are packed)",
    "padded": "L the padded length of the batch, padding noised too (as Transformers' `neftune_noise_alpha`)",
}
_SETTINGS = (
    *("epochs", "batch", "accumulation", "max_length", "learning_rate", "schedule", "warmup", "weight_decay"),
    *("max_grad_norm", "lora_rank", "bf16", "gradient_checkpointing"),
)


def model_card(
    settings: TrainSettings,
    model: dict[str, Any],
    data: dict[str, Any],
    run: dict[str, Any],
) -> str:
    """Model card (README.md) in the hub's format.

    Args:
        settings: Settings of the run.
        model: Provenance of the base model.
        data: Provenance of the rows.
        run: steps, rows, held_out, processes, prompt (the format in which rows were rendered) and measured.
    """
    measured = "".join(f"- {key}: {value:.6g}\n" for key, value in run["measured"].items())
    chosen = "".join(f"| {key} | {getattr(settings, key)} |\n" for key in _SETTINGS)
    return f"""{_front_matter(settings)}
# {settings.model} on {settings.data} with {settings.noise} noise

{_sources(settings, model, data, run)}
## Use

```python
import symnoise

loaded = symnoise.load_model("{settings.output}")  # or where you put this folder
model, tokenizer = loaded.model, loaded.tokenizer
```

It was trained on rows in this form, of which the reply is scored:

```text
{run["prompt"]}
```

## Noise

{noise_of(settings)}
## Measured

{measured}
## Settings

| | |
|---|---|
{chosen}
`train.yaml` holds all of them (`symnoise train --config train.yaml --output …`); `log.jsonl` what was logged.

## Versions

{_versions()}"""


def _front_matter(settings: TrainSettings) -> str:
    """What the hub reads."""
    return f"""---
base_model: {settings.model}
datasets: [{settings.data}]
library_name: {"peft" if settings.lora_rank else "transformers"}
tags: [{", ".join(dict.fromkeys(("symnoise", settings.noise)))}]
---"""


def _sources(settings: TrainSettings, model: dict[str, Any], data: dict[str, Any], run: dict[str, Any]) -> str:
    """Base model, data and how much training."""
    what = "LoRA adapter" if settings.lora_rank else "full fine-tuning"
    weights = "".join(f"\n  - `{name}` sha256 `{digest}`" for name, digest in model["sha256"].items())
    revision = f", revision `{model['revision']}`" if model["revision"] else ""
    return (
        f"- **Base model**: `{model['name']}` ({model['class']}, {model['parameters']:,} parameters{revision})"
        f"{weights}\n"
        f"- **Data**: `{data['name']}` ({data['form']} form), sha256 `{data['sha256']}`; {run['rows']} rows trained "
        f"on, {run['held_out']} held out, {data['left_out']} left out\n"
        f"- **Training**: {what}, {run['steps']} optimizer steps on {run['processes']} process(es)\n"
    )


def noise_of(settings: TrainSettings) -> str:
    """The card's section on noise."""
    noise = settings.make_noise()
    if noise is None:
        return f"None. Seed {settings.seed} for order of rows and dropout.\n"
    of, dials = law(noise.law), settings.make_dials()
    calibrated = "yes" if noise.calibrated else "no"
    return (
        f"- **Name**: `{settings.noise}`, α = {settings.noise_alpha:g}\n"
        f"- **Law**: {of.label}: ε = c·α/√(L·d)·u, u {of.description}, {_LENGTHS[settings.noise_length]}, "
        "d the embedding width\n"
        f"- **Calibrated**: {calibrated}; c = {noise.calibration:.6g}, so E‖ε‖² = α²v c² = "
        f"{(noise.calibration * noise.alpha) ** 2 * of.variance:.6g} for every row that has it on all tokens, "
        "before the schedule\n"
        f"- **Paired**: {_SIDES[noise.paired, noise.mirrored] if dials is None else _DIALLED.format(**asdict(dials))}\n"
        f"- **On**: {settings.noise_where} tokens; α schedule {settings.noise_schedule}; "
        f"pair mode {settings.pair_mode}\n"
        f"- **Seed**: {settings.seed}, with process, optimizer step and micro-step; it also names the order of rows\n"
    )


def _versions() -> str:
    found = provenance()
    lines = {"python": found["python"], **found["versions"], "commit": found["commit"]}
    for name in ("accelerate", "peft"):
        try:
            lines[name] = version(name)
        except PackageNotFoundError:
            continue
    return "".join(f"- {name}: {value}\n" for name, value in lines.items())
