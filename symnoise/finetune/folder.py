"""The output folder of a run: claimed at its start, filled at its end."""

import json
import os
import shutil
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from symnoise.core import InputError, one_run_at_a_time, read_yaml, sha256, sha256_of, write_atomically, write_json
from symnoise.finetune.rows import Rows
from symnoise.finetune.settings import TrainSettings

SETTINGS, SOURCES, LOG, CARD = "train.yaml", "sources.json", "log.jsonl", "README.md"
_PROCESSES = "processes"
# Files of a checkpoint that are needed only to resume; the others are the model.
_OPTIMIZER = "optimizer"
_STATE = (
    *(_OPTIMIZER, "scheduler", "scaler", "rng_state", "trainer_state", "training_args", "pytorch_model_fsdp"),
    *("used_rows", "curvature_start"),  # of the trackers
)


def one_run(output: Path) -> AbstractContextManager[None]:
    """Within the block no other run is accepted in the folder."""
    return one_run_at_a_time(output, output / ".lock", "choose another --output")


def refuse_other_files(output: Path, checkpoint: Path | None) -> None:
    """Refuse a folder with files that a run would replace and none has written, such as a model's own.

    Raises:
        InputError: Naming one of them.
    """
    if checkpoint or (output / SOURCES).is_file():
        return
    names = (CARD, LOG, SETTINGS, "config.json", "adapter_config.json", "*.safetensors", "tokenizer*", "chat_template*")
    if found := next((file for name in names for file in sorted(output.glob(name))), None):
        raise InputError(f"{output} holds {found.name}, which is of no run of symnoise train: choose another --output")


def refuse_other_settings(output: Path, settings: TrainSettings, checkpoint: Path | None) -> None:
    """Refuse a folder that holds a run with other settings.

    Raises:
        InputError: Naming the settings that differ.
    """
    file, finished = output / SETTINGS, (output / CARD).is_file()
    if file.is_file() and (checkpoint or finished):
        before = read_yaml(file, "settings of the run")
        length = () if finished else ("steps", "epochs")  # along which its learning rate has begun to change
        if isinstance(before, dict) and (changed := settings.changed(before, length)):
            raise InputError(
                f"{output} holds a run with other settings: {'; '.join(changed)}; choose another --output, or put them "
                "back"
            )


def made_of(output: Path) -> dict[str, Any]:
    """What `sources` said of the run in a folder; {} where an earlier version said nothing."""
    file = output / SOURCES
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{file} is damaged, so what the run was made of is not known: leave it out, or train into another folder"
        ) from error


def sources(model: dict[str, Any], rows: Rows, processes: int) -> dict[str, Any]:
    """What a run is made of: what identifies the model of this provenance, the SHA-256 of the encoded rows, and the
    number of processes that share the rows of a step."""
    encoded = {"training rows": rows.training, "held-out rows": rows.held_out}
    digests = {name: sha256_of(part) for name, part in encoded.items()}
    return _identity("model", model) | digests | {_PROCESSES: processes}


def _identity(name: str, model: dict[str, Any]) -> dict[str, Any]:
    """The SHA-256 of a model's files, its commit on the hub if known, and, of an adapter, those of its base."""
    found = {name: model["sha256"]}
    if model["revision"]:
        found[f"revision of the {name}"] = model["revision"]
    return found | (_identity(f"base of the {name}", model["base"]) if "base" in model else {})


def refuse_other_sources(output: Path, now: dict[str, Any], checkpoint: Path | None) -> None:
    """Refuse a folder that holds a run of another model or on other rows: their files may have changed since.

    Raises:
        InputError: Naming which of them differ.
    """
    before = _began_with(output, checkpoint)
    if changed := [name for name in now if name in before and before[name] != now[name]]:
        raise InputError(
            f"{output} holds a run with other content: {', '.join(changed)} changed since it began; choose another "
            "--output, or put back what changed"
        )


def refuse_other_processes(output: Path, processes: int, checkpoint: Path | None) -> None:
    """Refuse a folder that holds a run on another number of processes, whose steps had another number of rows.

    Raises:
        InputError: With both numbers.
    """
    before = _began_with(output, checkpoint).get(_PROCESSES, processes)
    if before != processes:
        raise InputError(
            f"{output} holds a run on {before} process(es), and this would go on with {processes}, so with steps of "
            f"another number of rows; choose another --output, or start {before} process(es)"
        )


def _began_with(output: Path, checkpoint: Path | None) -> dict[str, Any]:
    """What `sources` said when the run in the folder began; earlier versions said less, and without a run it is {}."""
    return made_of(output) if checkpoint or (output / CARD).is_file() else {}


def require_state(checkpoint: Path | None, step: int, steps: int) -> None:
    """`InputError` if a run is to continue to `steps` from a checkpoint without optimizer state."""
    if checkpoint is None or step >= steps:
        return
    if not any(file.name.startswith((_OPTIMIZER, "global_step")) for file in checkpoint.iterdir()):  # or DeepSpeed's
        raise InputError(
            f"the run in {checkpoint.parent} finished after {step} steps and kept no optimizer state, so it cannot "
            f"continue to {steps}: start another from --model {checkpoint.parent}, or train with --keep-state"
        )


def claim(output: Path, settings: TrainSettings, sources: dict[str, Any], *, finished: bool) -> None:
    """Write the settings, and `sources`, into the folder; without a card unless the run in it is `finished`."""
    if not finished:
        (output / CARD).unlink(missing_ok=True)  # of a run that goes on, to more steps
    write_json(output / SOURCES, sources)
    text = yaml.safe_dump(asdict(settings), sort_keys=False, allow_unicode=True)
    write_atomically(output / SETTINGS, lambda path: path.write_text(text, encoding="utf-8"))


def publish(checkpoint: Path, output: Path, card: str) -> dict[str, str]:
    """Put the model of the last checkpoint into `output`, each file atomically, and the card last.

    Returns:
        The SHA-256 of each weight file.
    """
    weights = {}
    for file in sorted(checkpoint.iterdir()):
        if file.is_file() and file.name != CARD and not file.name.startswith(_STATE):
            _put(file, output)
            if file.suffix == ".safetensors":
                weights[file.name] = sha256(file)
    write_atomically(output / CARD, lambda path: path.write_text(card, encoding="utf-8"))
    return weights


def _put(file: Path, output: Path) -> None:
    """Put the file into `output` in one step: as a hard link, or as a copy where the file system has no links."""

    def link(fresh: Path) -> None:
        fresh.unlink()
        try:
            os.link(file, fresh)
        except OSError:
            shutil.copyfile(file, fresh)

    write_atomically(output / file.name, link)


def remove_optimizer_state(output: Path) -> None:
    """Remove the optimizer state, two floats per weight in every checkpoint, of no use after the run."""
    for file in output.glob(f"checkpoint-*/{_OPTIMIZER}*"):
        if file.is_file():
            file.unlink()
