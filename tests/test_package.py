"""The package's metadata promises what is tested, and its description needs nothing from the repository."""

import re
import tomllib

import symnoise
from result_schema.files import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def test_it_says_who_made_it_what_it_is_and_where_to_read_more() -> None:
    assert PROJECT["authors"] and PROJECT["urls"] and PROJECT["keywords"]
    assert {"Typing :: Typed", "Programming Language :: Python :: 3 :: Only"} <= set(PROJECT["classifiers"])
    assert all(url.startswith("https://") for url in PROJECT["urls"].values())
    cited = re.findall(r"^version: (.*)$|^  - name: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert {"".join(found) for found in cited} == {symnoise.__version__, PROJECT["authors"][0]["name"]}
    assert PROJECT["version"] == symnoise.__version__


def test_the_oldest_python_is_the_one_that_tests_and_checks_run_with() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.fullmatch(r".*Python :: 3\.\d+", c)]
    assert named == [oldest] == [PYPROJECT["tool"]["mypy"]["python_version"]]
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    for page in ("README.md", "CONTRIBUTING.md", "docs/index.md", "Makefile"):
        assert f"Python {oldest}" in (ROOT / page).read_text(encoding="utf-8"), page


def test_its_description_has_no_relative_links_or_pictures() -> None:
    text = (ROOT / PROJECT["readme"]).read_text(encoding="utf-8")
    assert "symnoise fetch" in text and not re.findall(r"\]\((?!https://)", text)
