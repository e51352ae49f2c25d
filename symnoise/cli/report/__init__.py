"""`symnoise report`: a model and its text on one page, measured section by section."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from symnoise import __version__
from symnoise.cli.report.figures import drawings, rows_of, summary
from symnoise.cli.report.records import Records
from symnoise.cli.report.sections import FULL, QUICK, SECTIONS, Size
from symnoise.cli.shared import PLAIN, Text, load, long_work
from symnoise.core.batch_records import key_of
from symnoise.plot.page import write_page

_TITLES = {"curvature": "Curvature", "validity": "Range of validity", "noise": "Noise size", "layers": "Norm growth"}


def report(*, output: Path, quick: bool, seed: int, **source: Any) -> None:
    """Measure what is not in `output` yet, and write report.html and figures/ there."""
    size = QUICK if quick else FULL
    settings: dict[str, Any] = {key: str(value) if isinstance(value, Path) else value for key, value in source.items()}
    settings |= asdict(size) | {"seed": seed, "symnoise": __version__}
    records = Records(output, settings)
    records.require_same(SECTIONS)
    page = output / "report.html"
    with long_work(None, page=page) as console:
        text = load(examples=size.examples, max_length=size.max_length, **source)
        records.identify({"model": text.model.provenance(), "rows": key_of(text.rows)}, SECTIONS)
        found = _measured(text, size, seed, records, console)
    _write(page, text, found, settings)
    Console().print(f"{summary(found, text.model.name, text.data.name)}\n{page}", **PLAIN)


def _measured(text: Text, size: Size, seed: int, records: Records, console: Console) -> dict[str, Any]:
    """The record of every section: an earlier run's, or made now."""
    for name, measure in SECTIONS.items():
        if records.read(name) is None:
            console.print(f"symnoise: measuring {_TITLES[name].lower()}", **PLAIN)
            records.write(name, measure(text, size, seed))
    return {name: records.read(name) for name in SECTIONS}  # as read, so that a rerun draws the same


def _write(page: Path, text: Text, found: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    write_page(
        page,
        Path(__file__).parent / "templates",
        "own.html",
        {},
        summary=summary(found, _short(text.model.name), _short(text.data.name)),
        title=_short(text.model.name),
        drawings=drawings(found, page.parent / "figures"),
        rows=rows_of(text, found),
        costs=[{"what": _TITLES[name], **record["cost"]} for name, record in found.items()],
        model=text.model.provenance(),
        data=text.data.name,
        left_out=text.data.left_out,
        examples=len(text),
        settings=settings,
    )


def _short(name: str) -> str:
    """A file's or folder's own name; the page has its place under what was run."""
    return Path(name).name if Path(name).is_absolute() else name
