"""The commands that kills.py disturbs, small enough for seconds, and how they are started and ended."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from result_schema.files import ROOT
from symnoise.finetune.dry_run import rows, tiny_model
from tests.experiments.test_quick import SMALL
from tests.tiny import tiny, tiny_tokenizer
from tests.trust.inside import sitecustomize as inside

LIMIT_S = 300.0  # after which a run counts as hanging
WORDS = ("red", "blue", "green", "seven", "river", "stone", "quiet", "bright")
TRAIN = """train --model ../../inputs/gpt2 --data ../../inputs/rows.json --output out --json out.json --steps 6
--batch 2 --accumulation 2 --max-length 240 --learning-rate 1e-2 --save-every 2 --log-every 1 --track-every 1
--curvature-every 3 --curvature-rows 2 --eval-rows 3 --eval-every 2 --noise-schedule cosine"""
CURVATURE = """curvature --model ../../inputs/llama --data ../../inputs/few.json --examples 12 --batch 2 --probes 4
--json out.json"""
QUICK = "--config ../../inputs/quick.yaml --output out"
SWEEP = "../../inputs/study.yaml --data ../../inputs/words.json --runs out --jobs 2"


@dataclass(frozen=True)
class Victim:
    """A command, and its exit codes after Ctrl-C, SIGTERM and bad input.

    begun: files of the undisturbed result with which every try begins, since they take long.
    """

    name: str
    words: tuple[str, ...]
    codes: dict[int, int] = field(default_factory=lambda: {signal.SIGINT: 130, signal.SIGTERM: 1, 0: 2})
    begun: tuple[str, ...] = ()


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "symnoise")
VICTIMS = (
    Victim("train", ("symnoise", *TRAIN.split()), {signal.SIGINT: 130, signal.SIGTERM: 130, 0: 2}),
    # torchrun's own exit code is 1 whatever its processes' are.
    Victim("train, two processes", (*TORCHRUN, *TRAIN.split()), {signal.SIGINT: 1, signal.SIGTERM: 1, 0: 1}),
    Victim("curvature --json", ("symnoise", *CURVATURE.split())),
    Victim("reproduce", ("experiments.quick", *QUICK.split()), begun=("out/stages/tiny.json",)),
    Victim("a study", ("experiments.study.sweep", *SWEEP.split())),
)


def inputs(folder: Path) -> None:
    """The models, rows and configs that the commands name."""
    tiny_model("gpt2", folder / "gpt2", room=256)
    tiny("llama").save_pretrained(folder / "llama")
    tiny_tokenizer(chat=True).save_pretrained(folder / "llama")
    (folder / "rows.json").write_text(json.dumps(rows("Alpaca")))
    few = [{"instruction": f"say {i}", "output": f"{i} and {i + 1}"} for i in range(12)]
    (folder / "few.json").write_text(json.dumps(few))
    words = [(f"Say {WORDS[i % 8]} {i}.", f"{WORDS[i % 8]} and {WORDS[i // 8 % 8]} {i}") for i in range(160)]
    (folder / "words.json").write_text(json.dumps([{"instruction": one, "output": other} for one, other in words]))
    places = {"model": "../../inputs/llama", "data": "../../inputs/few.json", "second_data": "../../inputs/few.json"}
    small = SMALL | {"theory": {"tiny_draws": 64}}
    (folder / "quick.yaml").write_text(yaml.safe_dump({"seed": 0, **places, "alphas": [0.5, 5], **small}))
    settings = yaml.safe_load((ROOT / "experiments/configs/studies/micro-smoke.yaml").read_text())
    settings |= {"seeds": 1, "arms": ["symnoise"], "controls": ["none"], "equivalence": None}
    settings["primary"]["contrasts"] = [["symnoise", "none"]]
    settings["pretraining"] |= {"rows": 64, "vocabulary": 300, "hidden": 16, "steps": 4}
    settings["training"] |= {"rows": 8, "pool": 12, "steps": 4, "evaluate_every": 1, "save_every": 1}
    settings["measuring"] |= {"held_out": 4}
    settings["generating"] |= {"prompts": 2, "max_new_tokens": 4}
    (folder / "study.yaml").write_text(yaml.safe_dump(settings))


@dataclass(frozen=True)
class Ended:
    """How a run ended: exit code (negative: the signal), output, seconds, number of operations on files."""

    code: int
    said: str
    seconds: float
    operations: int

    @property
    def lines(self) -> list[str]:
        """What symnoise itself said."""
        return [line for line in self.said.splitlines() if line.startswith("symnoise: ")]


class Running:
    """A victim at work in `folder`/work."""

    def __init__(
        self, victim: Victim, folder: Path, at: int = 0, number: int = signal.SIGKILL, clock: float = 0.0
    ) -> None:
        work, tries = folder / "work", len(list(folder.glob("control-*")))
        self.control = folder / f"control-{tries}"
        self.control.mkdir(parents=True)
        work.mkdir(exist_ok=True)
        own = {"TRUST_CONTROL": self.control, "TRUST_FOLDER": work, "TRUST_AT": at, "TRUST_SIGNAL": int(number)}
        environment = os.environ | {name: str(value) for name, value in own.items()} | {"TRUST_CLOCK": str(clock)}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment["PYTHONPATH"] = f"{ROOT / 'tests/trust/inside'}:{ROOT}"
        self._said = (self.control / "said").open("w")
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *victim.words],
            cwd=work,
            env=environment,
            stdout=self._said,
            stderr=self._said,
            start_new_session=True,
        )

    def kill_after(self, seconds: float) -> bool:
        """Whether it was still running after so long, and is now killed with all its processes."""
        try:
            self._process.wait(max(0.0, seconds - (time.monotonic() - self._began)))
        except subprocess.TimeoutExpired:
            if not (self.control / "pids").exists():  # killed before its first line
                self._process.kill()
            else:
                inside.signal_all(self.control, signal.SIGKILL)
            return True
        return False

    def wait_for(self, happened: Callable[[], object]) -> None:
        """Until `happened()`, or the end."""
        while not happened() and self._process.poll() is None:
            time.sleep(0.02)

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Within the block it does nothing."""
        inside.signal_all(self.control, signal.SIGSTOP)
        yield
        inside.signal_all(self.control, signal.SIGCONT)

    def end(self) -> Ended:
        """Wait for the end; one that hangs is killed, and its exit code says so."""
        self.kill_after(LIMIT_S)
        code = self._process.wait()
        self._said.close()
        operations = self.control / "operations"
        count = operations.stat().st_size if operations.exists() else 0
        said = (self.control / "said").read_text(errors="replace")
        return Ended(code, said, time.monotonic() - self._began, count)


def moments(owner: random.Random, whole: Ended, *, by_time: bool) -> Iterator[tuple[float, int]]:
    """(seconds, 0), or (0, operation), uniform over an undisturbed run."""
    while True:
        yield (owner.uniform(0, whole.seconds), 0) if by_time else (0.0, owner.randint(1, whole.operations))


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system of 64 MiB at `place`; `OSError` for who may not mount one."""
    place.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def mount(*words: str) -> None:
    """`OSError` if it is refused."""
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())
