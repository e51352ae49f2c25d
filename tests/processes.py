"""Processes of the tests' own, as torchrun starts them: forks of one server that has imported everything once."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "tests.cli.ranks",
        "tests.experiments.study_processes",
        "tests.finetune.runs",
        "tests.training.killed",
        "tests.training.two_processes",
        "tests.frozen",
    ]
)
LIMIT_S = 240
# What accelerate's fsdp2.yaml adds.
FSDP2 = {
    **{"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_RESHARD_AFTER_FORWARD": "true"},
    **{"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"},
}


def one(target: Callable[..., Any], *arguments: Any, errors: Path | None = None) -> int:
    """Exit code of `target(*arguments)` in a process of its own; a signal counts as its negative number.

    errors: a file for what it says on standard error.
    """
    return _exit_codes([(target, arguments, {}, {2: errors} if errors else {})])[0]


def two(
    target: Callable[..., Any], *arguments: Any, said: Path | None = None, more: dict[str, str] | None = None
) -> list[int]:
    """Exit codes of `target(*arguments)` as both processes of a run, whose store is torchrun's and outlives them.

    said: a folder for what each says, in `0.out`, `0.err`, `1.out` and `1.err`. more: variables of the environment.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=LIMIT_S))
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    size = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    calls = []
    for rank in ("0", "1"):
        environment = {**place, **size, "RANK": rank, "LOCAL_RANK": rank, **(more or {})}
        files = {1: said / f"{rank}.out", 2: said / f"{rank}.err"} if said else {}
        calls.append((target, arguments, environment, files))
    return _exit_codes(calls)


def _exit_codes(calls: list[tuple[Any, ...]]) -> list[int]:
    children = [SERVER.Process(target=_call, args=call, daemon=True) for call in calls]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=LIMIT_S)
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    return codes


def _call(
    target: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str], files: dict[int, Path]
) -> None:
    """files: where what goes to standard output, 1, and standard error, 2, goes instead."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    for number, path in files.items():
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    sys.exit(target(*arguments))
