"""Every command of the README, the package's description and the guides is one that its command line takes.

Those of `symnoise` in the README are also run, on a tiny model, as are its Python lines. `tests/newcomer` runs them on
the bundled model.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from experiments.quick.run import main as quick
from result_schema.files import ROOT
from symnoise.cli.app import app
from tests.command import call
from tests.readme_commands import README, commands, python_blocks, section
from tests.tiny import tiny, tiny_tokenizer

PAGES = [README, ROOT / "symnoise" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SMALL = {
    "curvature": ["--max-length", 64],
    "smooth": ["--examples", 3, "--draws", 2, "--max-length", 64],
    "advise": ["--quick"],
    "train": ["--steps", 2, "--batch", 2, "--eval-rows", 2],
}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def written() -> Iterator[tuple[Path, list[str]]]:
    for page in PAGES:
        for words in commands(page.read_text(encoding="utf-8")):
            yield page, words


WRITTEN = list(written())


@pytest.mark.parametrize(
    ("page", "words"), WRITTEN, ids=[f"{page.relative_to(ROOT)}: {' '.join(words)}" for page, words in WRITTEN]
)
def test_its_command_line_takes_it(page: Path, words: list[str]) -> None:
    match words:
        case ["symnoise", "--version" | "--help"]:
            pass
        case ["symnoise", *rest]:
            _takes(app, rest)
        case ["python", "-m", "experiments.quick", *rest]:
            job = typer.Typer()
            job.command("quick")(quick)
            get_command(job).make_context("quick", rest)
        case ["python", "-m", module, *_]:
            place = ROOT / module.replace(".", "/")
            assert module in ("venv", "symnoise") or place.with_suffix(".py").is_file() or place.is_dir(), module
        case ["python", script, *_]:
            assert (ROOT / script).is_file(), script
        case ["make", *targets]:
            wanted = [word for word in targets if "=" not in word]
            assert wanted and set(wanted) <= TARGETS, targets
            given = dict(word.split("=", 1) for word in targets if "=" in word)
            if "STUDY" in given and given["STUDY"].isidentifier():
                assert (ROOT / "experiments" / "configs" / "studies" / f"{given['STUDY']}.yaml").is_file()
        case ["pip", "install", *what]:
            for file in re.findall(r"-r (\S+)", " ".join(what)):
                assert (ROOT / file).is_file(), file
        case ["pip", *_] | ["git", *_]:
            pass


def _takes(group: typer.Typer, words: list[str]) -> None:
    """Parse without running; a wrong command, option or value is Typer's error."""
    outer = get_command(group)
    with outer.make_context("symnoise", [words[0]], resilient_parsing=True) as context:
        command = outer.get_command(context, words[0])
        assert command is not None, f"there is no command {words[0]}"
        ellipsis_free = [word for word in words[1:] if word != "…"]
        if ellipsis_free or words[1:]:
            command.make_context(words[0], ellipsis_free, parent=context)


def test_there_are_commands_behind_each_door() -> None:
    doors = {"Two commands": "make", "Measure my model": "symnoise", "Fine-tune with noise": "symnoise"}
    for door, program in (doors | {"Reproduce the paper": "make"}).items():
        assert any(words[0] == program for words in commands(section(door))), door
    named = {words[1] for words in commands(section("Measure my model") + section("Fine-tune with noise"))}
    assert named >= {"report", *SMALL, "compare"}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    tiny("llama").save_pretrained(folder / "model")
    tiny_tokenizer(chat=True).save_pretrained(folder / "model")
    rows = [{"prompt": f"add 1 to {n}", "completion": f"it is {n + 1}."} for n in range(24)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_the_doors_lines_run_in_small(home, monkeypatch, capsys) -> None:
    monkeypatch.chdir(home)
    for door in ("Measure my model", "Fine-tune with noise"):
        for words in commands(section(door)):
            if words[:2] == ["symnoise", "compare"]:
                _train_those(words[2:], monkeypatch)
            if words[0] == "symnoise":
                line = [{"MODEL": "model", "DATA": "rows.jsonl"}.get(word, word) for word in words[1:]]
                model = ["--model", "model"] if words[1] == "train" else []
                assert call(monkeypatch, *line, *model, *SMALL.get(words[1], [])) == 0, words
    said = capsys.readouterr().out
    assert "±" in said and "held-out loss" in said
    assert {"out.json", "symnoise-0"} <= {path.name for path in home.iterdir()}


def _train_those(folders: list[str], monkeypatch) -> None:
    """The runs that README compares: as its line trains one, for each noise and seed in the folder's name."""
    (line,) = [words[1:] for words in commands(section("Fine-tune with noise")) if words[1] == "train"]
    for folder in folders:
        kind, _, seed = folder.partition("-")
        noise = "none" if kind == "none" else "symnoise"
        more = ["--model", "model", "--noise", noise, "--seed", seed, "--output", folder, *SMALL["train"]]
        assert call(monkeypatch, *line, *more) == 0


def test_the_lines_for_ones_own_loop_run(home, monkeypatch) -> None:
    """`model`, `args`, `rows` and `train` are the reader's own."""
    pytest.importorskip("trl")
    import trl

    import symnoise as sn

    monkeypatch.chdir(home)
    loaded = sn.load_model("model")
    settings = {"max_steps": 1, "per_device_train_batch_size": 2, "report_to": [], "use_cpu": True}
    fired: list[bool] = []

    def train(model) -> None:
        model.train()
        batch = sn.encode(sn.load_data("rows.jsonl", limit=2), loaded.tokenizer, max_length=32)
        model(**batch).loss.backward()
        fired.append(True)

    own = {
        "model": loaded.model,
        "train": train,
        "rows": sn.load_data("rows.jsonl"),
        "args": trl.SFTConfig(output_dir="sft", **settings),
    }
    ran = 0
    for code in python_blocks(section("Fine-tune with noise")):
        exec(compile(code, "README.md", "exec"), {"sn": sn, **own})
        ran += 1
    assert ran and fired
