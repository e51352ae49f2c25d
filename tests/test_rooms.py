"""Packages and rooms import one way, the front door is light, and every public name is behind it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import symnoise
from result_schema.files import ROOT

# What each package imports of the others, in this order, and each room of the library of the rooms above it.
PACKAGES = {
    "symnoise": (),
    "result_schema": ("symnoise",),
    "experiments": ("symnoise", "result_schema"),
    "analysis": ("symnoise", "result_schema"),
}
ROOMS = ["core", "noise", "data", "models", "curvature", "norms", "theory", "training", "finetune", "plot", "cli"]
LIBRARY = [path for room in ROOMS for path in sorted((ROOT / "symnoise" / room).rglob("*.py"))]
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match, ast.AsyncFor, ast.AsyncWith)
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path, *, at_once: bool = False) -> set[str]:
    """Dotted names that a file imports; at_once: only those that it imports when it is imported itself."""
    names, tree = set(), parsed(path)
    for node in _outside_functions(tree) if at_once else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from _outside_functions(node)


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", LIBRARY, ids=module)
def test_a_room_uses_only_rooms_above_it(path: Path) -> None:
    room = path.relative_to(ROOT / "symnoise").parts[0]
    parts = [name.split(".") for name in imported(path)]
    used = {part[1] for part in parts if part[0] == "symnoise" and len(part) > 1 and part[1] in ROOMS}
    assert used <= set(ROOMS[: ROOMS.index(room) + 1])


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_package_uses_only_packages_that_it_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    used = {name.partition(".")[0] for name in imported(path)} & set(PACKAGES)
    assert used <= {package, *PACKAGES[package]}


@pytest.mark.parametrize("package", ["result_schema", "experiments", "analysis"])
def test_no_module_imports_itself_by_way_of_others(package: str) -> None:
    files = {module(path): path for path in FILES if path.relative_to(ROOT).parts[0] == package}
    graph = {name: imported(path, at_once=True) & set(files) - {name} for name, path in files.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, naming the circle


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Its length without the docstring, which may explain as much as it takes."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


def _nesting(node: ast.AST, level: int = 0) -> int:
    """The deepest block in a function, without the functions and classes in it; `elif` is as deep as its `if`."""
    deepest = level
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, _nesting(child, level + (isinstance(child, BLOCKS) and not is_elif)))
    return deepest


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    sizes = [(function.name, _lines(function)) for function in _functions(path)]
    assert not [(name, size) for name, size in sizes if size > 50]


@pytest.mark.parametrize("path", LIBRARY, ids=module)
def test_a_function_is_nested_at_most_three_deep(path: Path) -> None:
    depths = [(function.name, _nesting(function)) for function in _functions(path)]
    assert not [(name, depth) for name, depth in depths if depth > 3]


@pytest.mark.parametrize("name", symnoise.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(symnoise, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = symnoise.no_such_thing


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import symnoise", "torch"),
        ("import symnoise.cli", "torch"),
        ("import symnoise; symnoise.Noise, symnoise.hvp, symnoise.smoothed_curvature", "transformers"),
    ],
)
def test_light_imports(code: str, absent: str) -> None:
    check = f"import sys; {code}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_type_checkers_see_the_names_that_are_imported_when_used() -> None:
    for room in ("", "training"):
        tree = ast.parse((ROOT / "symnoise" / room / "__init__.py").read_text(encoding="utf-8"))
        (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
        typed = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
        lists = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)]
        lazy, public = [x for x in lists if isinstance(x, dict)][-1], [x for x in lists if isinstance(x, list)][-1]
        assert typed - {"plot"} == set(lazy)
        assert typed <= set(public)


WITHOUT_TRL = """
import importlib.abc, pydoc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "trl":
            raise ModuleNotFoundError(name)

# What is not there has no spec, and its import fails.
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "trl" else found(name, package)
sys.meta_path.insert(0, Absent())
from symnoise import *
assert callable(trace) and "SymNoiseSFTTrainer" not in globals()
import symnoise as sn
assert "SymNoiseTrainer" in pydoc.render_doc(sn)
try:
    sn.SymNoiseSFTTrainer
except sn.InputError as error:
    print(error)
"""


def test_without_trl_everything_else_is_there() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TRL], check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "SymNoiseSFTTrainer needs TRL; run: pip install trl peft\n"
