"""Bad input: random faults in valid files, given to every command, each in a process of its own.

A command ends well if it says in one line what is wrong, with exit code 2, within ten seconds, and leaves no new file;
or if the fault is none, so that it does its work. A traceback, another exit code, silence or a stray file is a failure.

    python -m tests.trust.inputs 7                        # with another seed: what fails, with its message
"""

import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from symnoise.cli import main
from symnoise.core import track
from tests.trust.faults import Fault, of_bytes, of_json, of_lines, of_safetensors, of_yaml
from tests.trust.figures import Figure
from tests.trust.world import make_world

SEED, EACH = 0, 12  # faults per kind of file
LEAST, LIMIT_S, LONGEST = 80, 10.0, 420  # refusals in all; seconds; characters of a line
PYTHON = "python"
OUT = "out"
ROWS = ["rows.json", "rows.jsonl", "rows.csv", "rows.parquet", "rows.txt", "rows.json.gz"]
FEW = ["--examples", "2", "--max-length", "64"]
MEASURING = [
    ["curvature", *FEW, "--probes", "4", "--json", f"{OUT}/x.json"],
    ["spectrum", *FEW, "--json", f"{OUT}/x.json"],
    ["smooth", *FEW, "--draws", "2", "--json", f"{OUT}/x.json"],
    ["norms", *FEW, "--draws", "2", "--json", f"{OUT}/x.json"],
    ["budget", "--batches", "2", "--batch", "2", "--draws", "2", "--max-length", "64", "--json", f"{OUT}/x.json"],
    ["advise", "--quick", "--json", f"{OUT}/x.json"],
    ["report", "--quick", "--output", OUT],
    ["train", "--output", OUT, "--steps", "1", "--max-length", "64", "--eval-rows", "2"],
]
MODEL, DATA = ["--model", "model"], ["--data", "rows.json"]
KEPT = ["curvature", *MODEL, *DATA, *FEW, "--probes", "4", "--json", "kept.json"]
OF_MODEL = [[*command, *MODEL, *DATA] for command in MEASURING]
OF_MODEL += [["plan", *MODEL, *DATA, *FEW], ["doctor", "--model", "model"]]


@dataclass(frozen=True)
class Target:
    """A file that is broken, how, and the commands that then read it: words after `symnoise`, or after `python -m`."""

    file: str
    faults: st.SearchStrategy[Fault]
    commands: list[list[str]]


@dataclass(frozen=True)
class Ending:
    """How a command ended. new: files that it left."""

    command: str
    code: int
    said: list[str]
    seconds: float
    new: list[str]

    @property
    def fault(self) -> str:
        """What is wrong with it; "" if nothing is."""
        if self.code == 0:
            return ""
        if self.code != 2:
            return f"exit code {self.code}"
        if any(line.startswith("Traceback") for line in self.said):
            return "a traceback"
        if not self.said or not self.said[-1].startswith("symnoise: "):
            return "no line"
        if len(self.said[-1]) > LONGEST:
            return f"a line of {len(self.said[-1])} characters"
        if self.new:
            return f"left {', '.join(self.new[:3])}"
        return f"{self.seconds:.0f} s" if self.seconds > LIMIT_S else ""


def targets() -> list[Target]:
    """Every kind of file."""
    kinds = {"json": of_json, "jsonl": of_lines}
    found = [
        Target(
            name,
            kinds.get(name.rpartition(".")[2], of_bytes)(),
            [[*command, *MODEL, "--data", name] for command in MEASURING],
        )
        for name in ROWS
    ]
    in_model = {"config.json": of_json, "tokenizer.json": of_json, "tokenizer_config.json": of_json}
    in_model |= {"generation_config.json": of_json, "model.safetensors": of_safetensors}
    found += [Target(f"model/{name}", faults(), OF_MODEL) for name, faults in in_model.items()]
    of_gguf = [["curvature", "--model", "model.gguf", *DATA, *FEW], ["doctor", "--model", "model.gguf"]]
    found += [
        Target("model.gguf", of_bytes(), of_gguf),
        Target("train.yaml", of_yaml(), [["train", "--config", "train.yaml"]]),
        Target("quick.yaml", of_yaml(), [[PYTHON, "experiments.quick", "--config", "quick.yaml", "--output", OUT]]),
        Target(
            "study.yaml",
            of_yaml(),
            [[PYTHON, "experiments.study.sweep", "study.yaml", "--data", "none.jsonl", "--runs", OUT]],
        ),
        Target("annotations.json", of_json(), [[PYTHON, "experiments.alpaca_eval", "winrate", "annotations.json"]]),
        Target(
            "plan.yaml",
            of_yaml(),
            [[PYTHON, "experiments.alpaca_eval", "length", "plan.yaml", "annotations.json", "--output", f"{OUT}/x"]],
        ),
    ]
    found += of_results()
    compare = ["compare", "run-none", "run-symnoise", "--json", f"{OUT}/x.json", "--html", f"{OUT}/x.html"]
    found += [Target("run-none/log.jsonl", of_lines(), [compare]), Target("run-none/train.yaml", of_yaml(), [compare])]
    return found


def of_results() -> list[Target]:
    """What symnoise itself has written, read again."""
    judge = [PYTHON, "experiments.alpaca_eval", "judge", "judge.yaml", "replies.json", "rows.json", "--output", OUT]
    return [
        Target("kept.json", of_json(), [KEPT]),
        Target("template.jinja", of_bytes(), [["curvature", *MODEL, *DATA, *FEW, "--chat-template", "template.jinja"]]),
        Target("judge.yaml", of_yaml(), [judge]),
        Target("replies.json", of_json(), [judge]),
        Target("results/study.json", of_json(), [[PYTHON, "analysis.study", "results"]]),
        Target("results/runs.parquet", of_bytes(), [[PYTHON, "analysis.study", "results"]]),
    ]


def measure() -> list[Figure]:
    """Of each kind of file, the share of commands that end well; how many refused; the slowest refusal."""
    figures, endings = [], []
    with tempfile.TemporaryDirectory() as made:
        for target, ended in endings_of(Path(made), SEED):
            endings += ended
            share = sum(not one.fault for one in ended) / len(ended)
            figures.append(Figure(target.file, share, 1, 1, len(ended), str(SEED)))
    refused = [one for one in endings if one.code == 2]
    figures.append(Figure("inputs refused in one line", len(refused), LEAST, float("inf"), len(endings), str(SEED)))
    slowest = max(one.seconds for one in refused)
    return [*figures, Figure("slowest refusal, s", slowest, 0, LIMIT_S, len(refused), str(SEED))]


def endings_of(folder: Path, seed: int) -> list[tuple[Target, list[Ending]]]:
    """Every target with its faults; what fails is printed at once."""
    torch.set_num_threads(1)
    world = folder / "world"
    world.mkdir()
    make_world(world)
    in_a_process(world, lambda: called(KEPT))
    found = []
    for target in track(targets(), "kinds of files"):
        ended = [tried(world, folder / "try", target.file, *one) for one in drawn(target, seed)]
        for one in ended:
            if one.fault:
                print(f"{target.file}: {one.command}: {one.fault}\n  " + "\n  ".join(one.said[-6:]), flush=True)
        found.append((target, ended))
    return found


def drawn(target: Target, seed: int, count: int = EACH) -> list[tuple[list[str], Fault]]:
    """So many random pairs of a command and a fault."""
    found: list[tuple[list[str], Fault]] = []

    @hypothesis.seed(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(target.commands), target.faults)
    def draw(command: list[str], fault: Fault) -> None:
        found.append((command, fault))

    draw()
    return found


def tried(world: Path, folder: Path, file: str, command: list[str], fault: Fault) -> Ending:
    """The command in a copy of the world with `file` broken."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world, folder)
    (folder / file).write_bytes(fault((folder / file).read_bytes()))
    before = {path for path in folder.rglob("*") if path.is_file()}
    started = time.monotonic()
    code, said = in_a_process(folder, lambda: called(command))
    seconds = time.monotonic() - started
    new = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path not in before)
    return Ending(
        " ".join(command), code, said, seconds, [name for name in new if not name.startswith(("said", "cache"))]
    )


def called(command: list[str]) -> None:
    """Run it as its program does."""
    if command[0] != PYTHON:
        sys.argv = ["symnoise", *command]
        main()
    sys.argv = command[1:]
    runpy.run_module(command[1], run_name="__main__", alter_sys=True)


def in_a_process(folder: Path, work: Callable[[], None]) -> tuple[int, list[str]]:
    """Exit code of `work` in a fork of this process with `folder` as its directory, and its lines on standard error.

    A signal counts as its negative number; it is given two minutes.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(folder)
            os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
            said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(said, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            signal.alarm(120)
            work()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    text = (folder / "said").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return os.waitstatus_to_exitcode(status), lines


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        tries = endings_of(Path(made), int(sys.argv[1]))
    failed = sum(bool(one.fault) for _, ended in tries for one in ended)
    sys.exit(f"{failed} of {sum(len(ended) for _, ended in tries)} did not end well" if failed else 0)
