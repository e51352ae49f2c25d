"""AlpacaEval of one run at its end: replies in its format, and win rates where the study has a judge.

    python -m experiments.study.win_rates STUDY.yaml symnoise_a10_s3

The replies are in the run's folder alpaca_eval, for use with any other judge.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.alpaca_eval.files import read_rows
from experiments.alpaca_eval.judge import Judge, load_judge, write_annotations
from experiments.alpaca_eval.replies import write_replies
from experiments.alpaca_eval.winrate import read_annotations, win_rate
from experiments.study.command import run_command
from experiments.study.generate import decoding
from experiments.study.results import records, weights
from experiments.study.spec import Run, Study
from result_schema.measures import CONTROLLED, WIN_RATE
from symnoise.core import InputError, provenance, sha256, write_json


def preferences(study: Study, run: Run, folder: Path) -> None:
    """Write preferences.json: {when, measure, decoding, value, stderr}, in percent; no outcomes without a judge."""
    options = study.alpaca_eval
    if options is None:
        raise InputError(f"{study.name} has no section alpaca_eval")
    judge = load_judge(Path(options.judge)) if options.judge else None
    rows, place = read_rows(options.instructions, "output"), folder / run.name
    found: list[dict[str, Any]] = []
    if records(place / "train.json")["status"] == "done":
        source = weights(place, "end")
        for penalty in study.generating.repetition_penalties:
            replies = place / "alpaca_eval" / f"replies-{penalty:g}.json"
            replies.unlink(missing_ok=True)  # from other settings, or from weights trained again
            facts = {"generator": run.name, "penalty": penalty, "new_tokens": options.max_new_tokens}
            write_replies(source, rows, replies, **facts)  # type: ignore[arg-type]
            if judge:
                annotations = replies.with_name(f"annotations-{penalty:g}.json")
                write_annotations(judge, read_rows(replies, "output"), rows, annotations)
                made = win_rate(read_annotations(annotations))
                key = {"when": "end", "decoding": decoding(penalty)}
                controlled = {"value": made.length_controlled, "stderr": made.length_controlled_stderr}
                found.append(key | {"measure": WIN_RATE, "value": made.win_rate, "stderr": made.stderr})
                found.append(key | {"measure": CONTROLLED} | controlled)
    file = Path(options.instructions).expanduser()
    settings = {
        "instructions": _name(options.instructions),
        "sha256": sha256(file) if file.is_file() else None,
        "rows": len(rows),
        "max_new_tokens": options.max_new_tokens,
        "judge": _name(judge.model) if judge else None,
        "judged_by": _digest(judge) if judge else None,
        "repetition_penalties": list(study.generating.repetition_penalties),
    }
    write_json(place / "preferences.json", {"run": run.name, "settings": settings, "outcomes": found, **provenance()})


def _digest(judge: Judge) -> str:
    """SHA-256 of all settings of a judge but the name of its key's variable."""
    asked = {name: value for name, value in asdict(judge).items() if name != "api_key_env"}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _name(source: str) -> str:
    """Of a file or folder, its own name alone; a hub id or an endpoint's model as it is."""
    path = Path(source).expanduser()
    return path.name if path.exists() else source


if __name__ == "__main__":
    run_command(preferences)()
