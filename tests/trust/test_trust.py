"""The parts of make trust can fail: a range that is missed, an interval that is too narrow, wrong rows of the table."""

import pytest
import torch

from symnoise.core import Estimate, generator
from tests.trust import coverage, table
from tests.trust.figures import Figure


def made(measured: float, low: float = 0.93, high: float = 0.97) -> Figure:
    return Figure("what", measured, low, high, 400, "0 to 399")


def test_a_promise_is_kept_inside_its_range_alone() -> None:
    assert made(0.93).kept and made(0.97).kept and not made(0.9299).kept and not made(0.9701).kept


@pytest.mark.parametrize(("wrong", "kept"), [(1.0, True), (0.8, False), (1.4, False)])
def test_an_error_that_is_too_small_or_too_large_is_seen(wrong: float, kept: bool) -> None:
    draws = Estimate.from_draws(torch.randn((16, coverage.SEEDS), generator=generator(0, "draws"), dtype=torch.float64))
    held = coverage.holds(draws.noting(stderr=wrong * draws.stderr), 0.0)
    assert coverage.figure("an interval", held.double()).kept is kept


def test_a_case_is_measured_as_make_trust_does() -> None:
    name = "bench, ratio of variances"
    found = coverage.figure(name, coverage.cases()[name]().flatten().double())
    assert found.kept and found.tries == coverage.FEW


def test_every_exception_is_of_a_case() -> None:
    assert set(coverage.EXCEPTIONS) <= set(coverage.cases())


def test_a_part_replaces_its_own_rows_and_the_page_says_what_is_missed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(table, "DOCS", tmp_path)
    monkeypatch.setattr(table, "commit", lambda: "71e5584")  # which could be read as a number
    table.save("coverage", [made(0.95), made(0.5)])
    table.save("inputs", [Figure("how many", 3, 3, 3, 3, "1")])
    table.save("coverage", [made(0.96), made(0.99)])
    frame = table.read(tmp_path / "trust.csv")
    assert frame.part.tolist() == ["inputs", "coverage", "coverage"]
    assert frame.measured.tolist() == [3, 0.96, 0.99] and frame.kept.tolist() == [True, True, False]
    page = (tmp_path / "trust.md").read_text(encoding="utf-8")
    assert "| what | 0.99 | 0.93 to 0.97 | 400 | **no** | 0 to 399 |" in page and page.count("| yes |") == 2
    assert page.count("commit 71e5584,") == 2


def test_the_published_page_is_that_of_the_published_table() -> None:
    frame = table.read(table.DOCS / "trust.csv")
    assert (table.DOCS / "trust.md").read_text(encoding="utf-8") == table.page(frame)
