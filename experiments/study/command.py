"""The command line shared by the study's scripts."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import typer

from experiments.study.spec import Run, Study, load_study
from result_schema.bad_input import one_line_on_bad_input
from symnoise.core import one_run_at_a_time, progress_shown

Config = Annotated[Path, typer.Argument(help="YAML file of the study, such as experiments/configs/studies/micro.yaml.")]
DataFile = Annotated[str, typer.Option("--data", help="Use this data set instead of the study's.")]
TasksFile = Annotated[str, typer.Option("--tasks", help="YAML file to use instead of the study's section tasks.")]
Runs = Annotated[Path, typer.Option(help="Folder of raw runs.")]


def one_run(folder: Path) -> AbstractContextManager[None]:
    """Within the block no other process is accepted that writes what this one does into the folder."""
    return one_run_at_a_time(folder, folder / ".lock", "choose another folder with --runs")


def study_command(work: Callable[[Study, Path], Any]) -> Callable[[], None]:
    """The program `… STUDY.yaml`, which calls work(study, folder of the study's raw runs)."""

    def command(config: Config, data: DataFile = "", tasks: TasksFile = "", runs: Runs = Path("runs")) -> None:
        study = load_study(config, data or None, Path(tasks) if tasks else None)
        work(study, runs / study.key)

    return _program(command, work)


def run_command(work: Callable[[Study, Run, Path], Any]) -> Callable[[], None]:
    """The program `… STUDY.yaml RUN`, which calls work(study, run, folder of the study's raw runs)."""

    def command(
        config: Config, run: str, data: DataFile = "", tasks: TasksFile = "", runs: Runs = Path("runs")
    ) -> None:
        study = load_study(config, data or None, Path(tasks) if tasks else None)
        work(study, study.run(run), runs / study.key)

    return _program(command, work)


def _program(command: Callable[..., None], work: Callable[..., Any]) -> Callable[[], None]:
    command.__doc__ = work.__doc__

    def program() -> None:
        with progress_shown():
            typer.run(command)

    return lambda: one_line_on_bad_input(program)
