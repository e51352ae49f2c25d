"""Mutants of a toy: one that a test catches, one that none does, and what the figures make of them."""

from pathlib import Path

import pytest

from tests.trust import mutants
from tests.trust.mutations import Mutant, mutants_of, sample

TOY = '''"""A toy."""


def twice(x: float | None = None) -> float:
    """2 x."""
    if x is None:
        raise ValueError("no x" + "!")
    return 2 * x


def spare(x: float) -> float:
    return x + 1
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "toy_of_mutants.py").write_text(TOY)
    (folder / "test_toy.py").write_text("from toy_of_mutants import twice\ndef test_it():\n    assert twice(3) == 6\n")
    return folder


def planted(tree: Path) -> list[Mutant]:
    return mutants_of(tree, "toy_of_mutants.py")


def test_every_fault_that_can_be_seen_is_planted_and_no_other(tree) -> None:
    assert [(one.function, one.line, one.mutated) for one in planted(tree)] == [
        ("twice", 6, "if x is not None:"),
        ("twice", 8, "return 3 * x"),
        ("twice", 8, "return 2 / x"),
        ("spare", 12, "return x + 2"),
        ("spare", 12, "return x - 1"),
    ]


def test_a_sample_is_spread_over_files_and_hardly_changes_with_one_of_them() -> None:
    many = [Mutant(file, line, "", f"line {line}", "", "") for file in "abc" for line in range(40)]
    drawn = sample(many, 12, seed=3)
    assert [[one.file for one in drawn].count(file) for file in "abc"] == [4, 4, 4]
    assert drawn == sample(many[::-1], 12, seed=3) != sample(many, 12, seed=4)
    more = sample([*many, Mutant("a", 40, "", "a new line", "", "")], 12, seed=3)
    assert len(set(drawn) & set(more)) >= 11


def test_a_caught_mutant_and_a_survivor_are_told_apart(tree) -> None:
    by_line = {one.mutated: one for one in planted(tree)}
    assert mutants.tried(tree, by_line["return 3 * x"], {"test_toy.py": 0.1})["killed"]
    assert not mutants.tried(tree, by_line["return x - 1"], {"test_toy.py": 0.1})["killed"]
    assert (tree / "toy_of_mutants.py").read_text() == TOY


def test_the_tests_of_a_mutant_are_those_that_enter_its_function_then_the_rest_of_their_files(tree) -> None:
    enters = {"a::slow": (2.0, ["f.py:one"]), "a::fast": (1.0, ["f.py:one"]), "a::other": (0.1, []), "b::no": (0.1, [])}
    tests = {name: {"seconds": seconds, "enters": found} for name, (seconds, found) in enters.items()}
    assert list(mutants.tests_for(Mutant("f.py", 1, "one", "", "", ""), tests)) == ["a::fast", "a::slow", "a::other"]


@pytest.mark.parametrize(("explained", "kept"), [(True, True), (False, False)])
def test_a_survivor_needs_a_reason(tree, monkeypatch, explained, kept) -> None:
    monkeypatch.setattr(mutants, "SURVIVORS", tree / "survivors.csv")
    survivor = planted(tree)[-1]
    known = {mutants.key(survivor): "nobody calls it"} if explained else {}
    share, unexplained = mutants.figures(20, [survivor], known)
    assert share.kept and share.measured == 0.95 and unexplained.kept is kept
    assert (tree / "survivors.csv").read_text().count("return x - 1") == 1


def test_every_reason_is_of_a_mutant_that_can_be_planted() -> None:
    lines: dict[str, set[str]] = {}
    for file, original, _ in mutants.reasons():
        lines.setdefault(file, set()).add(original)
    found = {mutants.key(one) for file in lines for one in mutants_of(mutants.ROOT, file, lines[file])}
    assert not [known for known in mutants.reasons() if known not in found]


def test_mutants_of_some_lines_are_those_of_all_that_are_there(tree) -> None:
    some = mutants_of(tree, "toy_of_mutants.py", {"return 2 * x"})
    assert some == [one for one in planted(tree) if one.original == "return 2 * x"] and len(some) == 2
