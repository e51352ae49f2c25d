"""The site: its guides' code is run, and its reference has every public name."""

import importlib
import importlib.util
import inspect
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import symnoise as sn
from result_schema.files import ROOT
from tests.tiny import tiny, tiny_tokenizer

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
REFERENCE = {
    name for path in (DOCS / "reference").glob("*.md") for name in re.findall(r"^::: (\S+)$", path.read_text(), re.M)
}


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), flags=re.S | re.M)


GUIDES = [path for path in PAGES if blocks(path)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """What stands in for the bundled model and data: a tiny model, and four conversations."""
    folder = tmp_path_factory.mktemp("small")
    tiny("llama").save_pretrained(folder / "model")
    tiny_tokenizer(chat=True).save_pretrained(folder / "model")
    turns = [[("user", f"add 1 to {n}"), ("assistant", f"it is {n + 1}.")] for n in range(4)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turn]} for turn in turns]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return {'"smollm2"': repr(str(folder / "model")), '"chitchat"': repr(str(folder / "data.jsonl"))}


def test_there_are_guides() -> None:
    assert {path.stem for path in GUIDES} >= {"curvature", "fine-tuning"}


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_the_code_of_a_guide_runs_in_its_order(path, small, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)  # the Trainers write where they stand
    space: dict[str, object] = {"__name__": "guide"}
    for number, code in enumerate(blocks(path), 1):
        for name, there in small.items():
            code = code.replace(name, there)
        exec(compile(code, f"{path.name}, block {number}", "exec"), space)
    assert capsys.readouterr().out


def test_the_reference_has_every_public_name_where_it_is_defined() -> None:
    public = [getattr(sn, name) for name in sn.__all__ if name != "plot"] + [
        getattr(sn.plot, name) for name in sn.plot.__all__
    ]
    assert {f"{item.__module__}.{item.__qualname__}" for item in public} <= REFERENCE
    for place in REFERENCE:
        module, _, name = place.rpartition(".")
        assert getattr(importlib.import_module(module), name).__module__ == module, place
    listed = re.findall(r"`(\w+)`", (DOCS / "reference" / "index.md").read_text().split("\n\n**Shapes")[0])
    assert set(listed) == set(sn.__all__)


@pytest.mark.parametrize("place", sorted(REFERENCE))
def test_what_the_reference_shows_is_documented(place) -> None:
    module, _, name = place.rpartition(".")
    item = getattr(importlib.import_module(module), name)
    parts = [item] if inspect.isfunction(item) else [item, *vars(item).values()]
    for part in parts:
        called = getattr(part, "fget", None) or getattr(part, "__func__", part)  # of properties and class methods
        if inspect.isfunction(called) and called.__name__.startswith("_"):
            continue
        if inspect.isfunction(called) or part is item:
            assert called.__doc__, f"{place}: {getattr(called, '__name__', name)} has no docstring"


def test_every_page_is_in_the_navigation() -> None:
    said = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert all(str(path.relative_to(DOCS)) in said for path in PAGES)
    assert yaml.safe_load(said)["theme"]["font"] is False, "the site loads nothing from elsewhere"
    for path in sorted((ROOT / "analysis" / "notebooks").glob("*.ipynb")):
        assert f"notebooks/{path.stem}.md" in said


def test_links_lead_to_files_of_the_repository_and_on_the_site_to_pages(monkeypatch) -> None:
    """Who reads the pages where the code is hosted follows them, too."""
    for path in [*PAGES, *ROOT.glob("*.md")]:
        for link in re.findall(r"\]\(([^)\s#]+)", path.read_text(encoding="utf-8")):
            assert link.startswith("http") or (path.parent / link).exists(), f"{path}: {link}"
    notebooks = hook("notebooks", monkeypatch, mkdocs_structure_files=SimpleNamespace(File=object, Files=object))
    for page, place in (("index", "notebooks/01-noise-moments.md"), ("guide/curvature", "../notebooks/03-")):
        text = notebooks.on_page_markdown((DOCS / f"{page}.md").read_text(encoding="utf-8"))
        assert f"({place}" in text and "ipynb)" not in text


def test_search_needs_no_network_when_the_site_is_opened_as_a_file() -> None:
    """The offline plugin adds a script from the network, unless a polyfill of that name is there."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert {"search", "offline"} <= {name for name in site["plugins"] if isinstance(name, str)}
    assert site["extra"]["polyfills"] == ["assets/iframe-worker.js"]
    shim = (DOCS / "assets" / "iframe-worker.js").read_text(encoding="utf-8")
    assert "MIT License" in shim and "window.Worker" in shim


def hook(name: str, monkeypatch, **modules: SimpleNamespace):
    """A hook of the site, without the site's own packages."""
    for module, stand_in in modules.items():
        monkeypatch.setitem(sys.modules, module.replace("_", "."), stand_in)
    specification = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    made = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(made)
    return made


def test_what_comes_from_the_readme_is_there(monkeypatch) -> None:
    readme = hook("readme", monkeypatch)
    page = readme.on_page_markdown((DOCS / "index.md").read_text(encoding="utf-8"))
    assert "<!-- from README" not in page
    assert "sn.EmbeddingLoss(" in page


def test_a_notebook_becomes_a_page_with_its_pictures(monkeypatch) -> None:
    files = SimpleNamespace(File=object, Files=object)
    made = hook("notebooks", monkeypatch, mkdocs_structure_files=files)
    text = {"output_type": "stream", "name": "stdout", "text": ["1 ± 2\n"]}
    picture = {"output_type": "display_data", "data": {"image/png": "QUJD", "text/plain": "<Figure>"}}
    table = {
        "output_type": "execute_result",
        "data": {
            "text/html": '<div>\n<style scoped> a { } </style>\n<table border="1" class="dataframe"></table>\n</div>'
        },
    }
    code = {"cell_type": "code", "source": ["x = 1\n", "x"], "outputs": [text, picture, table]}
    page, pictures = made.page("n", {"cells": [{"cell_type": "markdown", "source": "# Title\n\nWhy."}, code]})
    assert page.startswith("# Title\n\n*This page is the notebook `analysis/notebooks/n.ipynb`")
    assert "```python\nx = 1\nx\n```\n\n```text\n1 ± 2\n```\n\n![" in page and page.endswith("<table></table>")
    assert pictures == {"n-1.png": b"ABC"}
