"""Finished sections of a report: one JSON record each, with the settings that made it."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from symnoise.core import InputError, write_json
from symnoise.core.batch_records import with_nan


class Records:
    """FOLDER/records/NAME.json, written whole or not at all; an unreadable one counts as missing.

    settings: what was asked for, in JSON's types. Raises `InputError` where a record was made with other settings, or
    from another model or rows of the same name.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._asked = {"settings": json.loads(json.dumps(settings))}

    def require_same(self, names: Iterable[str]) -> None:
        """Refuse the folder of another report: before any work, and again once model and rows are known."""
        for record in filter(None, map(self._record, names)):
            for facts, asked in self._asked.items():
                before = record.get(facts, {})
                changed = [f"{key} ({_said(before.get(key))})" for key in asked if before.get(key) != asked[key]]
                if changed:
                    what = "other settings" if facts == "settings" else "another model or other rows"
                    raise InputError(
                        f"{self.folder} holds a report with {what}: {', '.join(changed)}; choose another --output"
                    )

    def identify(self, source: Mapping[str, Any], names: Iterable[str]) -> None:
        """From now on records also say what was measured."""
        self._asked["source"] = json.loads(json.dumps(source))
        self.require_same(names)

    def read(self, name: str) -> dict[str, Any] | None:
        record = self._record(name)
        return None if record is None else dict(with_nan(record["result"]))

    def write(self, name: str, result: Mapping[str, Any]) -> None:
        write_json(self._path(name), self._asked | {"result": result})

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            record = json.loads(self._path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and {"settings", "source", "result"} <= record.keys() else None

    def _path(self, name: str) -> Path:
        return self.folder / "records" / f"{name}.json"


def _said(value: Any) -> str:
    """A setting of the earlier run, in few words."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:39]}…"
