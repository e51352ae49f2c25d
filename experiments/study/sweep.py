"""All runs of a study of a small model, without starting Python for every step.

    python -m experiments.study.sweep experiments/configs/studies/micro.yaml --jobs 2

On a micro model, importing what a step needs takes as long as the step. Here every run is a fork of one process that
has imported everything; it does what the scripts train, measure, generate and evaluate do, and writes the same files.
Existing files are kept, and the Snakefile accepts the new ones: afterwards, or after an interrupt, `make study` makes
the rest.
"""

import os
import shutil
import signal
import sys
import threading
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from experiments.study.base import base
from experiments.study.command import Config, DataFile, Runs, one_run
from experiments.study.evaluate import evaluate
from experiments.study.generate import generate
from experiments.study.measure import measure
from experiments.study.spec import Run, Study, load_study
from experiments.study.train import train
from result_schema.bad_input import one_line_on_bad_input
from symnoise.core import InputError

STEPS = {"train.json": train, "measure.json": measure, "replies.json": generate, "outcomes.json": evaluate}


def sweep(study: Study, folder: Path, jobs: int) -> None:
    """Finish every run, `jobs` at a time, with one thread each.

    `InputError` naming the runs that failed, and for a study with `tasks` or `alpaca_eval`, which need weights later.
    """
    if study.tasks is not None or study.alpaca_eval is not None:
        raise InputError(f"{study.name} has benchmarks, which a sweep does not run: make study STUDY={study.name}")
    torch.set_num_threads(1)  # a fork loses its parent's threads, so there must be none
    if not (folder / "base.json").is_file():
        base(study, folder)
    _import_what_steps_need()
    waiting = [run for run in study.runs if not _is_done(folder / run.name)]
    running: dict[int, tuple[Any, Run]] = {}
    done, failed = len(study.runs) - len(waiting), []
    print(f"{done} of {len(study.runs)} runs are done", flush=True)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                process = get_context("fork").Process(target=_finish, args=(study, run, folder))
                process.start()
                running[process.sentinel] = (process, run)
            for ended in connection.wait(list(running)):
                process, run = running.pop(ended)  # type: ignore[arg-type]
                process.join()
                if process.exitcode:
                    failed.append(run.name)
                else:
                    done += 1
                    print(f"{run.name} ({done} of {len(study.runs)})", flush=True)
    finally:  # no run outlives the sweep
        for process, _ in running.values():
            process.terminate()
    if failed:
        raise InputError(f"{len(failed)} runs failed, for the reasons above: {', '.join(failed)}")


def _is_done(place: Path) -> bool:
    """Whether a run has all its files; one that was killed while it deleted its weights goes on with that."""
    return all((place / file).is_file() for file in STEPS) and not (place / "weights").exists()


def _finish(study: Study, run: Run, folder: Path) -> None:
    """`finish` in a process that ends with its parent, also where that one is killed."""
    threading.Thread(target=_end_after, args=[parent_process()], daemon=True).start()
    finish(study, run, folder)


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)


def finish(study: Study, run: Run, folder: Path) -> None:
    """Run the missing steps of one run in order, then delete its weights, as the Snakefile does."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the sweep gets it as well, and ends its runs
    place = folder / run.name
    try:
        for file, step in STEPS.items():
            if not (place / file).is_file():
                step(study, run, folder)
    except InputError as error:
        print(f"symnoise: {run.name}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        sys.exit(2)
    shutil.rmtree(place / "weights", ignore_errors=True)


def _import_what_steps_need() -> None:
    import rouge_score.rouge_scorer  # noqa: F401
    import sacrebleu.metrics  # noqa: F401
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401


def command(
    config: Config,
    data: DataFile = "",
    runs: Runs = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Number of parallel runs, one core each.")] = 2,
) -> None:
    """All runs of a study of a small model, in forks of one process."""
    study = load_study(config, data or None)
    with one_run(runs / study.key):
        sweep(study, runs / study.key, jobs)


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(command))  # no progress bars: a fork would lose their thread
