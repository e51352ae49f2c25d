"""The recipes of CONTRIBUTING.md work: each is followed in a copy of the packages, and no other file changes."""

import filecmp
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from result_schema.files import ROOT
from tests.processes import one

PACKAGES = ("symnoise", "result_schema", "experiments", "analysis")
STUDIES = "experiments/configs/studies"


@dataclass(frozen=True)
class Edit:
    """`new` in the place of `old`, which the file has once; a new file where `old` is empty."""

    path: str
    old: str
    new: str


def added(path: str, anchor: str, *, before: str = "", after: str = "") -> Edit:
    return Edit(path, anchor, before + anchor + after)


@dataclass(frozen=True)
class Recipe:
    """edits: to the packages.  check: code that fails where the addition does not work."""

    edits: tuple[Edit, ...]
    check: str


LAW = """
TRIANGULAR = Law(
    name="triangular",
    label="triangular",
    description="sum of two uniform draws",
    variance=2 / 3,
    kurtosis=2.4,
    quantile=lambda p: torch.where(p < 0.5, 2 * (2 * p).sqrt() - 2, 2 - 2 * (2 - 2 * p).sqrt()),
    characteristic_less_1=lambda t: torch.sinc(t * 1.5**0.5 / torch.pi).square() - 1,
)

"""
ATAN = """
def _atan(x: Tensor) -> Derivatives:
    slope = 1 / (1 + x * x)
    return torch.atan(x), slope, -2 * x * slope * slope


"""
CLAIM = """        Claim("M4", "each coordinate of Rademacher noise is α/√(3 L d) in size", "±1, scaled"),
"""
KIND = """    Rule("M4", SUBJECTS, "identity", "±1, scaled"),
"""
ROW = """    mask, owner = torch.ones((1, length), dtype=torch.long), generator(seed, "size")
    epsilon = Noise("rademacher", alpha).sample(torch.empty((1, length, dim)), mask, generator=owner)
    size = (alpha**2 / (3 * length * dim)) ** 0.5
    own: dict[str, Any] = {"key": "size", "subject": "sampled", "where": where, "resolution": 1e-5}
    rows.append(row("M4", "largest |ε|, rademacher", size, float(epsilon.abs().max()), 1e-6, **own))
"""
FIGURE = '''"""Measured moments divided by their closed forms."""

import pandas as pd
from matplotlib.figure import Figure

from symnoise.plot.style import SINGLE, figure, styled

TITLE = "Ratios of moments"
TABLES, STAGES = ("moments",), ("moments",)
ALT = "One point for each law."


def frame(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return tables["moments"].assign(ratio=lambda table: table.measured / table.predicted)


@styled
def draw(data: pd.DataFrame) -> Figure:
    drawn = figure(SINGLE, 2)
    drawn.subplots().scatter(data.law, data.ratio)
    return drawn


def caption(data: pd.DataFrame) -> str:
    return "At 1 where they agree."
'''
ANSWERS = '''def _from_question(row: Row, number: int) -> Example:
    """A question with its answer."""
    return Example((("user", _text(row, "question")), ("assistant", _text(row, "answer"))), row=number)


'''
LAWS, RULES = "symnoise/noise/laws.py", "symnoise/curvature/taylor/rules/elementwise.py"
ARMS, FORMATS = "result_schema/study.py", "symnoise/data/formats.py"


def study_with(arm: str) -> str:
    """The smallest study, with one more arm."""
    stated = yaml.safe_load((ROOT / STUDIES / "micro-smoke.yaml").read_text(encoding="utf-8"))
    return yaml.safe_dump(stated | {"name": "added", "arms": [*stated["arms"], arm]}, allow_unicode=True)


RECIPES = {
    "A law": Recipe(
        (
            added(LAWS, "LAWS = {law.name: law for law in (", before=LAW),
            added(LAWS, "(UNIFORM, GAUSSIAN, RADEMACHER", after=", TRIANGULAR"),
        ),
        """
from symnoise.noise import Noise, sampled_moments, single_draws
from symnoise.theory import Ridges, check_least_variance
assert Noise.named("triangular-pair", 5.0).paired
assert "triangular" in single_draws()
mean = sampled_moments(Noise.named("triangular", 5.0), 8, 16, 20_000).mean_square_norm
assert abs(float(mean.value) - 25 / 3) < 4.5 * float(mean.stderr)
rows = {row.key: row.verdict for row in check_least_variance(Ridges.drawn().subject(), 20_000).rows}
assert rows["P3.least.triangular"] == "holds", rows
""",
    ),
    "A Taylor rule": Recipe(
        (
            added(RULES, "_UNARY: dict[Any,", before=ATAN.lstrip()),
            added(RULES, "    aten.tanh: _tanh,\n", after="    aten.atan: _atan,\n"),
        ),
        """
import torch
from symnoise.curvature.taylor.tensor import Frame, Taylor
x = torch.linspace(-2, 2, 5, dtype=torch.float64)
result = torch.atan(Taylor(x, torch.stack([torch.ones_like(x), torch.zeros_like(x)]), Frame(1, 1)))
torch.testing.assert_close(result.coefficients, torch.stack([1 / (1 + x**2), -2 * x / (1 + x**2) ** 2]))
""",
    ),
    "A claim": Recipe(
        (
            added("symnoise/theory/claims.py", '        Claim("M3",', before=CLAIM),
            added("symnoise/theory/claims.py", '    Rule("M3",', before=KIND),
            added("symnoise/theory/checks/noise_moments.py", "    rows.append(_pair_row(", before=ROW),
        ),
        """
from dataclasses import asdict
from analysis.ledger import parts
from symnoise.theory import check_moments
rows = [asdict(row) for row in check_moments(draws=100).rows]
(own,) = (row for row in rows if row["id"] == "M4")
assert own["verdict"] == "holds" and own["kind"] == "identity", own
assert "Rademacher noise is" in repr(parts([own], {}))
""",
    ),
    "A figure": Recipe(
        (
            Edit("analysis/figures/added.py", "", FIGURE),
            added("analysis/figures/__init__.py", "from analysis.figures import ", after="added, "),
            added("analysis/figures/__init__.py", "for module in (", after="added, "),
        ),
        """
import tempfile
from pathlib import Path
import pandas as pd
from analysis.figures import FIGURES
from analysis.gallery import entries
from analysis.page import drawn
table = pd.DataFrame({"law": ["uniform"], "measured": [1.1], "predicted": [1.0]})
folder = Path(tempfile.mkdtemp())
drawing = drawn(FIGURES["added"], FIGURES["added"].frame({"moments": table}), folder, "added")
assert drawing.caption == "At 1 where they agree." and (folder / "added.pdf").stat().st_size
assert "added" in [entry.name for entry in entries()["Theory against measurement"]]
""",
    ),
    "A study arm": Recipe(
        (
            added(ARMS, '    "uniform": Arm("uniform"),\n', after='    "added": Arm("uniform", batch=3),\n'),
            Edit(f"{STUDIES}/added.yaml", "", study_with("added")),
        ),
        f"""
from pathlib import Path
import pandas as pd
from experiments.study.spec import load_study
from result_schema.study import TABLES, check_table
study = load_study(Path("{STUDIES}/added.yaml"))
(first, *_) = (run for run in study.runs if run.arm == "added")
assert first.noise.name == "uniform" and study.steps("added") == study.training.steps
runs = pd.DataFrame([dict.fromkeys(TABLES["runs"].columns) | {{"arm": "added", "status": "done"}}])
check_table("runs", runs, "runs.parquet", "make study")
""",
    ),
    "A data format": Recipe(
        (
            added(FORMATS, "# Each form with the key", before=ANSWERS),
            added(
                FORMATS, '    "text": ("text", _from_text),\n', before='    "answers": ("question", _from_question),\n'
            ),
        ),
        """
import json, tempfile
from pathlib import Path
import symnoise as sn
path = Path(tempfile.mkdtemp()) / "rows.jsonl"
path.write_text(json.dumps({"question": "Name a prime.", "answer": "Seven."}), encoding="utf-8")
rows = sn.load_data(path)
assert rows[0].messages == (("user", "Name a prime."), ("assistant", "Seven."))
assert rows.provenance()["form"] == "answers"
""",
    ),
}


def said(title: str) -> list[str]:
    """The files that a recipe of CONTRIBUTING.md names in its list."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Recipes")[1]
    (section,) = (part for part in re.split(r"^### ", text, flags=re.M) if part.startswith(f"{title}\n"))
    return re.findall(r"^- `([^`]+)`", section, flags=re.M)


def follow(recipe: Recipe, copy: Path) -> None:
    for edit in recipe.edits:
        path = copy / edit.path
        text = path.read_text(encoding="utf-8") if edit.old else ""
        assert text.count(edit.old) == 1, f"{edit.path} has {edit.old!r} {text.count(edit.old)} times"
        path.write_text(text.replace(edit.old, edit.new), encoding="utf-8")


def changed(copy: Path) -> set[str]:
    """Files that differ from the repository's."""
    files = [path for package in PACKAGES for path in (copy / package).rglob("*") if path.is_file()]
    names = {str(path.relative_to(copy)) for path in files if path.suffix != ".pyc"}
    return {n for n in names if not (ROOT / n).is_file() or not filecmp.cmp(ROOT / n, copy / n, shallow=False)}


def test_contributing_has_these_recipes_and_each_is_one_to_three_files() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Recipes")[1]
    assert re.findall(r"^### (.+)$", text, flags=re.M) == list(RECIPES)
    for title in RECIPES:
        assert 1 <= len(said(title)) <= 3
        assert all("NAME" in name or (ROOT / name).is_file() for name in said(title))


def run_in(copy: Path, code: str) -> None:
    """Run `code` with the packages of `copy` in place of the repository's."""
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = True
    here = f"import symnoise; assert symnoise.__file__.startswith({str(copy)!r})\n"
    exec(here + code, {})


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_is_enough(title: str, tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "notebooks"))
    recipe = RECIPES[title]
    follow(recipe, tmp_path)
    assert one(run_in, tmp_path, recipe.check, errors=tmp_path / "said") == 0, (tmp_path / "said").read_text()
    patterns = {name.replace("NAME", "added") for name in said(title)}
    assert changed(tmp_path) == {edit.path for edit in recipe.edits} <= patterns


def test_pre_commit_runs_what_make_lint_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (target,) = re.findall(r"^lint:.*\n((?:\t.+\n)+)", makefile, flags=re.M)
    assert [hook["entry"] for hook in hooks] == target.replace("$(BIN)", ".venv/bin").replace("\t", "").splitlines()
    assert all(hook["language"] == "system" and hook["pass_filenames"] is False for hook in hooks)
