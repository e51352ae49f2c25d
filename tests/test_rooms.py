"""The rooms import one way, the front door is light, and every public name is behind it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import symnoise

ROOMS = ["core", "noise", "data", "models", "curvature", "norms", "theory", "training", "cli"]
PACKAGE = Path(symnoise.__file__).parent
FILES = [path for room in ROOMS for path in sorted((PACKAGE / room).rglob("*.py"))]


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "symnoise" and len(part) > 1 and part[1] in ROOMS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_uses_only_rooms_above_it(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    allowed = set(ROOMS[: ROOMS.index(room) + 1])
    assert imported_rooms(path) <= allowed


def test_the_library_knows_nothing_of_experiments_or_analysis() -> None:
    for path in FILES:
        assert "import experiments" not in path.read_text() and "from analysis" not in path.read_text(), path


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
