"""`symnoise train`: options made from the settings, a run, and how it ended."""

import inspect
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer

from symnoise.finetune.settings import TrainSettings

if TYPE_CHECKING:
    from symnoise.finetune.run import Outcome

# Typer instead of jsonargparse, tyro or HfArgumentParser: the other commands have it, and it needs no PyTorch.
_KINDS = get_type_hints(TrainSettings)


def _option(setting: "Field[Any]") -> inspect.Parameter:
    """The option of a setting: None if it is not given, so that defaults do not override config files."""
    names = [*setting.metadata["names"], f"--{setting.name.replace('_', '-')}"]
    kind = next(iter(get_args(_KINDS[setting.name])), _KINDS[setting.name])
    if kind is bool:
        names = [f"{name}/--no-{name[2:]}" for name in names]
    shown = ("on" if setting.default else "off") if kind is bool else str(setting.default)
    options = typer.Option(
        *names,
        help=setting.metadata["help"],
        rich_help_panel=setting.metadata["group"],
        show_default=shown if setting.default not in (None, "") else False,
    )
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, options]
    )


def train(
    config: Annotated[list[Path] | None, typer.Option(help="YAML file; later files override, options win.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Two steps on a tiny random model of --family.")] = False,
    json: Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")] = None,
    **given: Any,
) -> None:
    """Fine-tune with embedding noise; rerun the command to resume an interrupted run."""
    flags = {key: value for key, value in given.items() if value is not None}
    with _warnings_in_one_line():
        _run(config or [], flags, dry_run, json)


_own = [p for p in inspect.signature(train).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
_options = [_option(setting) for setting in fields(TrainSettings)]
train.__signature__ = inspect.Signature([*_own, *_options])  # type: ignore[attr-defined]
train.__annotations__ = {p.name: p.annotation for p in (*_own, *_options)}


def _run(configs: list[Path], flags: dict[str, Any], dry: bool, json: Path | None) -> None:
    from symnoise.cli.shared import left_out, writable, write
    from symnoise.core import InputError
    from symnoise.finetune.dry_run import dry_run
    from symnoise.finetune.reading import read_settings
    from symnoise.finetune.run import fine_tune, is_main_process

    if flags.get("steps") and "epochs" in flags:
        raise InputError("--steps and --epochs both set the length of the run: give one of them")
    chosen = read_settings(configs, flags)
    with writable(json):
        outcome = dry_run(chosen) if dry else fine_tune(chosen)
    interrupted = outcome.step < outcome.steps
    if not is_main_process():
        sys.exit(130 if interrupted else 0)
    if json is not None:
        result = {"output": str(outcome.output), "step": outcome.step, "steps": outcome.steps}
        more = {"seconds": outcome.seconds, "measured": outcome.measured, "sha256": outcome.weights}
        named = {"model": chosen.model, "data": chosen.data, "noise": chosen.noise, "alpha": chosen.noise_alpha}
        named |= {"even": chosen.even, "odd": chosen.odd, "eval_rows": outcome.held_out}
        rows = left_out(outcome.data.get("left_out_because", {}))
        write(json, {**named, **result, **more, **rows, "seed": chosen.seed})
    if interrupted:
        print(
            f"symnoise: stopped after step {outcome.step} of {outcome.steps}, checkpoint "
            f"{outcome.output}/checkpoint-{outcome.step}; run the same command again to resume",
            file=sys.stderr,
        )
        sys.exit(130)
    if dry:
        print(f"dry run of {chosen.family} passed: {outcome.steps} steps{_losses(outcome)}")
    else:
        print(f"{outcome.steps} steps{_losses(outcome)}; model, card and log in {outcome.output}")
        print(_held_out(outcome))
        print(f'load it in Python: import symnoise; loaded = symnoise.load_model("{outcome.output}")')


def _losses(outcome: "Outcome") -> str:
    shown = {key: value for key, value in outcome.measured.items() if not key.startswith("eval_loss")}
    names = {"loss": "mean training loss", "clean_loss": "mean clean loss", "trace": "tr H", "used_norm": "used norm"}
    return "".join(f", {names[name]} {value:.5g}" for name, value in shown.items())


def _held_out(outcome: "Outcome") -> str:
    """Held-out loss before and after training."""
    measured = outcome.measured
    if "eval_loss" not in measured:
        return "no held-out loss: give --eval-rows N to see whether training helped on unseen rows"
    before, after = measured["eval_loss_before"], measured["eval_loss"]
    return f"held-out loss without noise, on {outcome.held_out} rows: {before:.5g} before, {after:.5g} after training"


@contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Show our own warnings as one line, like errors; hide those of other libraries."""

    def show(message: Any, category: Any, filename: str, *_: Any, **__: Any) -> None:
        if category is UserWarning and "/torch/" not in filename:
            print(f"symnoise: warning: {message}", file=sys.stderr)

    usual = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual
