"""Runs of `symnoise train` side by side: what they were set to, what they came to, differences paired by seed."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from symnoise.core import Estimate, InputError
from symnoise.finetune.folder import CARD, LOG, SETTINGS, made_of
from symnoise.finetune.log import basis, summary
from symnoise.finetune.reading import read_settings
from symnoise.finetune.settings import TrainSettings

Arm = tuple[tuple[str, Any], ...]  # settings and values by which runs differ, the seed left out

MEASURES = {
    "eval_loss_before": "held-out loss before",
    "eval_loss": "held-out loss after",
    "loss": "training loss with noise",
    "clean_loss": "training loss without noise",
    "trace": "tr H",
    "used_norm": "norm of rows in use",
}
_NOISE = ("noise", "noise_alpha", "even", "odd")
# What changes no number that is compared: names, checks, and what is saved, logged and measured when.
_APART = {"output", "family", "form", "strict", "save_every", "keep", "keep_state", "report_to", "pair_mode"} | {
    *("log_every", "eval_every", "track_every", "curvature_every")
}
COMPARED = [field.name for field in fields(TrainSettings) if field.name not in _APART]
_SAME = 1e-3  # of a loss: processors differ by less, other rows or another model by more


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, settings, `MEASURES` as far as they were recorded, the steps that each of them rests
    on, and what the folder says of its model, rows and processes ({} by earlier versions)."""

    folder: Path
    settings: dict[str, Any]
    measured: dict[str, float]
    basis: dict[str, Any]
    sources: dict[str, Any]

    @property
    def seed(self) -> int:
        """The random seed."""
        return int(self.settings["seed"])


@dataclass(frozen=True)
class Difference:
    """arm − reference: of each measure the mean over the seeds that both have; NaN errors where that is one seed.

    apart: measures left out because two runs of a pair were measured at different steps.
    """

    arm: Arm
    seeds: list[int]
    measured: dict[str, Estimate]
    apart: list[str]


@dataclass(frozen=True)
class Comparison:
    """Runs in the order given, the settings that differ, the arm that the others are compared with, differences."""

    runs: list[Run]
    differing: list[str]
    reference: Arm
    differences: list[Difference]

    @property
    def measures(self) -> list[str]:
        """What any run recorded, in the order of `MEASURES`."""
        return [key for key in MEASURES if any(key in run.measured for run in self.runs)]


def read_run(folder: Path) -> Run:
    """The run in an output folder; `InputError` where there is none, or one that has not finished."""
    if not (folder / SETTINGS).is_file():
        raise InputError(f"{folder} holds no run of symnoise train: it has no {SETTINGS}")
    if not (folder / CARD).is_file():
        raise InputError(f"the run in {folder} has not finished: give its symnoise train command again")
    settings = asdict(read_settings([folder / SETTINGS], {}))
    history = _history(folder / LOG)
    if settings["noise"] == "none":  # an α that does nothing is no difference
        settings["noise_alpha"] = None
    return Run(folder, settings, summary(history), basis(history), made_of(folder))


def _history(path: Path) -> list[dict[str, float]]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the log of the run {path}: it is missing or not lines of JSON") from error
    for number, line in enumerate(lines, 1):
        if not isinstance(line, dict) or "step" not in line or not all(map(_is_number, line.values())):
            raise InputError(f"cannot read the log of the run {path}: line {number} is no step with its numbers")
    return lines


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def compare(folders: Sequence[Path], *, any_settings: bool = False) -> Comparison:
    """The runs in `folders`, and each arm minus the reference: the arm without noise, else that of the first run.

    any_settings: whether runs may differ in more than noise, α, dials and seed.

    Raises `InputError` for fewer than two runs, a folder without a finished run, two runs of one arm and seed, other
    settings that differ, other weights, rows or processes, held-out losses before training that differ, and runs that
    recorded nothing in common.
    """
    if len(folders) < 2:
        raise InputError("give two runs or more to compare")
    runs = [read_run(folder) for folder in folders]
    if any("clean_loss" in run.measured for run in runs):
        runs = [_with_clean_loss(run) for run in runs]
    differing = [key for key in COMPARED if any(run.settings[key] != runs[0].settings[key] for run in runs)]
    if not any_settings:
        _require_alike(runs, differing)
    arms = {run.folder: _arm(run, differing) for run in runs}
    by_seed: dict[tuple[Arm, int], Run] = {}
    for run in runs:
        other = by_seed.setdefault((arms[run.folder], run.seed), run)
        if other is not run:
            raise InputError(f"{other.folder} and {run.folder} have the same settings and seed: leave one out")
    if not set.intersection(*(set(run.measured) for run in runs)):
        raise InputError("the runs have nothing in common: no measure was recorded by all of them")
    order = list(dict.fromkeys(arms.values()))
    plain = [_arm(run, differing) for run in runs if run.settings["noise"] == "none"]
    reference = (plain or order)[0]
    others = [arm for arm in order if arm != reference]
    return Comparison(runs, differing, reference, [_difference(by_seed, arm, reference) for arm in others])


def _with_clean_loss(run: Run) -> Run:
    """The run; one trained without noise with its training loss, which is the mean of all steps, as that too."""
    if run.settings["noise"] != "none" or "loss" not in run.measured or "clean_loss" in run.measured:
        return run
    measured, basis = ({**found, "clean_loss": found["loss"]} for found in (run.measured, run.basis))
    return replace(run, measured=measured, basis=basis)


def _arm(run: Run, differing: Sequence[str]) -> Arm:
    return tuple((key, run.settings[key]) for key in differing if key != "seed")


def _require_alike(runs: Sequence[Run], differing: Sequence[str]) -> None:
    """Runs from the same model and rows, which only their noise and seed tell apart."""
    first = runs[0]
    for key in differing:
        if key not in (*_NOISE, "seed"):
            run = next(run for run in runs if run.settings[key] != first.settings[key])
            raise InputError(
                f"{key} is {first.settings[key]!r} in {first.folder} and {run.settings[key]!r} in {run.folder}: runs "
                "that differ in more than noise and seed are compared with --any"
            )
    for run in runs:
        if changed := [key for key in run.sources if key in first.sources and run.sources[key] != first.sources[key]]:
            raise InputError(
                f"{first.folder} and {run.folder} were made of other content: {', '.join(changed)}; --any compares "
                "them all the same"
            )
        before, other = (each.measured.get("eval_loss_before", math.nan) for each in (first, run))
        if abs(before - other) > _SAME * abs(before):
            raise InputError(
                f"the held-out loss before training is {before:.5g} in {first.folder} and {other:.5g} in {run.folder}: "
                "they started from other weights or rows; --any compares them all the same"
            )


def _difference(by_seed: dict[tuple[Arm, int], Run], arm: Arm, reference: Arm) -> Difference:
    seeds = sorted(seed for found, seed in by_seed if found == arm and (reference, seed) in by_seed)
    measured: dict[str, Estimate] = {}
    apart = []
    for key in MEASURES:
        pairs = [(by_seed[arm, seed], by_seed[reference, seed]) for seed in seeds]
        known = [pair for pair in pairs if all(key in run.measured for run in pair)]
        if any(one.basis[key] != other.basis[key] for one, other in known):
            apart.append(key)
        elif known:
            differences = [one.measured[key] - other.measured[key] for one, other in known]
            measured[key] = Estimate.from_draws(torch.tensor(differences, dtype=torch.float64))
    return Difference(arm, seeds, measured, apart)
