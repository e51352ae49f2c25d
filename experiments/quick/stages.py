"""Resumable work: each stage writes one record, and a stage with a record is not run again."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

import symnoise
from result_schema.files import read_json
from symnoise.core import peak_rss_mib, provenance, write_json
from symnoise.theory import Findings


class Stages:
    """The stages of one run, as JSON records in `folder`/stages.

    A record is reused where it was made by this version of symnoise from the same settings, of those the stage uses;
    otherwise the stage runs again. Records are written whole or not at all, so a run can be interrupted anywhere and
    started again.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], console: Console) -> None:
        self.folder, self.settings, self.console = folder / "stages", settings, console
        self.records: dict[str, dict[str, Any]] = {}

    def run(
        self, name: str, work: Callable[[], Findings | dict[str, Any]], what: str, uses: tuple[str, ...]
    ) -> dict[str, Any]:
        """The result of stage `name`, from `work()` unless its record is there already.

        what: the stage in words, for a reader.  uses: the settings it depends on.
        """
        path = self.folder / f"{name}.json"
        settings = {key: self.settings[key] for key in ("seed", *uses)}
        record = self._read(path, settings)
        if record is None:
            self.console.print(f"[bold]{name}[/]: {what}")
            started = time.perf_counter()
            result = work()
            record = {
                "stage": name,
                "what": what,
                "settings": settings,
                "seconds": time.perf_counter() - started,
                "peak_rss_mib": peak_rss_mib(),
                **provenance(),
                "result": asdict(result) if isinstance(result, Findings) else result,
            }
            write_json(path, record)
            record = self._read(path, settings)  # as a later run would see it: the same run gives the same bytes
            assert record is not None
            self.console.print(f"[dim]{name} done in {record['seconds']:.0f} s[/]")
        else:
            self.console.print(f"[dim]{name}: done before, kept[/]")
        self.records[name] = record
        return record["result"]

    def _read(self, path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
        if not path.is_file():
            return None
        record = read_json(path, "run again")
        same = record["settings"] == settings and record["versions"]["symnoise"] == symnoise.__version__
        return record if same else None
