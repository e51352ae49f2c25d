"""`symnoise compare`: runs of `symnoise train` side by side, and their differences paired by seed."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symnoise.cli.shared import show, value_and_interval, writable, write
from symnoise.core import Estimate, InputError
from symnoise.finetune.compare import MEASURES, Arm, Comparison, compare
from symnoise.plot.numbers import measurement, number
from symnoise.plot.page import write_page

_BEFORE = "eval_loss_before"  # equal by design, so its difference says nothing
_NAMES = {"noise_alpha": "α", "even": "μ", "odd": "λ"}


@dataclass(frozen=True)
class _Sheet:
    """A table of the terminal and of the page.  words: how many columns come before those of numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str
    words: int


def compare_runs(*, runs: Sequence[Path], any_settings: bool, json: Path | None, html: Path | None) -> None:
    """Print, and write, the runs and the differences of their arms."""
    found = compare(runs, any_settings=any_settings)
    sheets = [_runs(found)] + ([_differences(found)] if found.differences else [])
    if html is not None and html.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"cannot write {html}: --html takes a file whose name ends in .html")
    with writable(json, html):
        write(json, _result(found))
    if html is not None:
        write_page(html, Path(__file__).parent / "templates", "compare.html", {}, tables=sheets)
    if not found.differences:
        print("symnoise: all runs are of one arm: add some with --noise none to see what it changed", file=sys.stderr)
    for sheet in sheets:
        show(sheet.title, sheet.columns, sheet.rows, sheet.note)


def _runs(found: Comparison) -> _Sheet:
    """A row for each run: the settings that differ, and what was recorded."""
    shown = [key for key in found.differing if key != "seed"]
    common = [key for key in ("model", "data", "noise", "noise_alpha") if key not in found.differing]
    return _Sheet(
        ", ".join(f"{_NAMES.get(key, key)} = {_text(found.runs[0].settings[key])}" for key in common) or "Runs",
        ("run", *(_NAMES.get(key, key) for key in shown), "seed", *(MEASURES[key] for key in found.measures)),
        [
            (
                run.folder.name,
                *(_text(run.settings[key]) for key in shown),
                str(run.seed),
                *(_number(run.measured.get(key)) for key in found.measures),
            )
            for run in found.runs
        ],
        "losses in nats per token; held-out loss is without noise; training loss with noise is what "
        "each arm minimized, of a dial its objective, and so does not say which arm is better",
        words=1 + len(shown),
    )


def _differences(found: Comparison) -> _Sheet:
    """A row for each arm but the reference."""
    known = {key for one in found.differences for key in one.measured}
    measures = [key for key in found.measures if key != _BEFORE and key in known]
    rows = []
    for one in found.differences:
        cells = [_difference(one.measured[key]) if key in one.measured else "" for key in measures]
        rows.append((name(one.arm), ", ".join(map(str, one.seeds)) or "none in common", *cells))
    apart = [MEASURES[key] for key in found.measures if any(key in one.apart for one in found.differences)]
    return _Sheet(
        f"Minus {name(found.reference)}, paired by seed",
        ("arm", "seeds", *(f"Δ {MEASURES[key]}" for key in measures)),
        rows,
        "95 % t intervals over the seeds, with degrees of freedom (dof); one that contains 0 is no significant "
        "difference, and a single seed has none"
        + (f"; left out where the runs measured it at different steps: {', '.join(apart)}" if apart else ""),
        words=2,
    )


def name(arm: Arm) -> str:
    """An arm as its settings: `symnoise, α = 5`; runs that differ in their seed alone are one arm."""
    known = [(key, value) for key, value in arm if value is not None]  # an arm without noise has no α
    parts = [str(value) if key == "noise" else f"{_NAMES.get(key, key)} = {_text(value)}" for key, value in known]
    return ", ".join(parts) or "the same settings"


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "" if value is None else number(value, 5)


def _difference(found: Estimate) -> str:
    low, high = (float(end) for end in found.interval())
    if math.isnan(low):
        return number(float(found), 2)
    value, interval = measurement(float(found), low, high)
    return f"{value}\n{interval}\ndof {found.dof:g}"


def _result(found: Comparison) -> dict[str, Any]:
    return {
        "differing": found.differing,
        "runs": [{"run": str(run.folder), "settings": run.settings, "measured": run.measured} for run in found.runs],
        "reference": dict(found.reference),
        "differences": [
            {
                "arm": dict(one.arm),
                "seeds": one.seeds,
                "measured_at_different_steps": one.apart,
                "measured": {
                    key: value_and_interval(each) | {"dof": each.dof, "pairs": each.count}
                    for key, each in one.measured.items()
                },
            }
            for one in found.differences
        ],
    }
