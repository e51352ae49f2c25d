"""The examples in docstrings give what they show."""

import ast
import doctest
from collections.abc import Iterator
from pathlib import Path

import pytest

from result_schema.files import ROOT

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def examples(path: Path) -> Iterator[doctest.DocTest]:
    """From the source: the type checker's wrappers hide functions from doctest's own search."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, DOCUMENTED) and ">>>" in (text := ast.get_docstring(node) or ""):
            name = f"{path.relative_to(ROOT)}:{getattr(node, 'name', 'module')}"
            yield doctest.DocTestParser().get_doctest(text, {}, name, str(path), 0)


EXAMPLES = [example for path in sorted((ROOT / "symnoise").rglob("*.py")) for example in examples(path)]


def test_the_main_functions_have_examples() -> None:
    named = {example.name.rpartition(":")[2] for example in EXAMPLES}
    main = {"Estimate", "Noise", "generator", "load_data", "trace", "hvp", "smoothed_curvature", "attach"}
    assert named >= main | {"variance_budget"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_gives_what_it_shows(example) -> None:
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)
