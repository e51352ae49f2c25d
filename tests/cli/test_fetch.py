"""`symnoise fetch` with pip itself, from one folder into another: no network, and this environment stays as it is."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from result_schema.files import ROOT
from symnoise.cli import fetch
from symnoise.core import PackagedFile, sha256
from tests.command import call


def wheel(folder: Path) -> Path:
    """A package with a file words.txt, which asks for a package that does not exist."""
    path, info = folder / "made_up_words-1.0-py3-none-any.whl", "made_up_words-1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: made-up-words\nVersion: 1.0\nRequires-Dist: there-is-no-such-package\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("made_up_words/__init__.py", "raise AssertionError('it is never imported')")
        file.writestr("made_up_words/words.txt", "one two")
        file.writestr(f"{info}/METADATA", metadata)
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def words(tmp_path, monkeypatch) -> PackagedFile:
    (tmp_path / "index").mkdir()
    (tmp_path / "site").mkdir()
    made = wheel(tmp_path / "index")
    folders = {"FIND_LINKS": tmp_path / "index", "TARGET": tmp_path / "site"}
    for name, value in ({"CONFIG_FILE": "/dev/null", "NO_INDEX": "1"} | folders).items():
        monkeypatch.setenv(f"PIP_{name}", str(value))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")
    file = PackagedFile(
        name="words",
        what="the word list",
        module="made_up_words",
        requirement="made-up-words==1.0",
        pattern="*.txt",
        sha256=sha256(made),
        size=made.stat().st_size,
    )
    monkeypatch.setattr(fetch, "BUNDLED", {"words": file})
    return file


def fails(monkeypatch, capsys, tmp_path, *names: str) -> str:
    assert call(monkeypatch, "fetch", *names) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("symnoise: ") and not list((tmp_path / "site").iterdir())
    return line


def test_it_brings_the_file_and_nothing_else_once(words, monkeypatch, capsys, tmp_path) -> None:
    assert words.find() is None
    assert call(monkeypatch, "fetch") == 0
    there = tmp_path / "site" / "made_up_words" / "words.txt"
    assert capsys.readouterr().out == f"words: fetching made-up-words==1.0 (0 MB)\nwords: {there}\n"
    assert words.path().read_text() == "one two"
    installed = {path.name for path in (tmp_path / "site").iterdir()}
    assert installed == {"made_up_words", "made_up_words-1.0.dist-info"}
    assert call(monkeypatch, "fetch", "words") == 0
    assert capsys.readouterr().out == f"words: {there}\n"


def test_another_file_than_the_pinned_one_is_not_installed(words, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(fetch, "BUNDLED", {"words": replace(words, sha256="0" * 64)})
    assert "its SHA-256 differs" in fails(monkeypatch, capsys, tmp_path)


def test_an_index_without_the_package(words, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setattr(fetch, "BUNDLED", {"words": replace(words, requirement="made-up-words==2.0")})
    said = fails(monkeypatch, capsys, tmp_path, "words")
    assert "could not fetch made-up-words==2.0" in said and "No matching distribution" in said


def test_an_environment_without_pip(words, monkeypatch, capsys, tmp_path) -> None:
    found = fetch.importlib.util.find_spec
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None if name == "pip" else found(name))
    assert "uv pip install --no-deps made-up-words==1.0" in fails(monkeypatch, capsys, tmp_path)


def test_an_unknown_name(monkeypatch, capsys, tmp_path) -> None:
    assert call(monkeypatch, "fetch", "smolm2") == 2
    assert "did you mean 'smollm2'" in capsys.readouterr().err


def test_pins_are_those_of_the_requirements() -> None:
    lines = (ROOT / "requirements-bundled.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in lines if not line.startswith("#")} == {file.requirement for file in fetch.BUNDLED.values()}
