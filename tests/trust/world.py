"""A folder with one valid file of every kind that symnoise reads, small enough that each command takes seconds."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from result_schema.files import ROOT
from tests.tiny import CHAT_TEMPLATE, tiny, tiny_tokenizer
from tests.tiny_gguf import write_gguf

STEPS = {"steps": 1, "batch": 2, "max_length": 64, "eval_rows": 2, "save_every": 1, "log_every": 1}


def make_world(folder: Path) -> None:
    """Write every file into `folder`."""
    tiny("llama").save_pretrained(folder / "model")
    tiny_tokenizer(chat=True).save_pretrained(folder / "model")
    write_gguf(folder / "model.gguf")
    rows = [{"instruction": f"say {i}", "input": "", "output": f"{i} and {i + 1}"} for i in range(6)]
    _rows(folder, rows)
    configs: dict[str, Any] = {
        "train.yaml": {"model": "model", "data": "rows.json", "output": "out", **STEPS},
        "quick.yaml": yaml.safe_load((ROOT / "experiments/configs/quick.yaml").read_text(encoding="utf-8")),
        "study.yaml": yaml.safe_load(
            (ROOT / "experiments/configs/studies/micro-smoke.yaml").read_text(encoding="utf-8")
        ),
        "plan.yaml": yaml.safe_load((ROOT / "experiments/configs/length/7b.yaml").read_text(encoding="utf-8")),
    }
    configs["quick.yaml"] |= {"model": "no-model", "data": "rows.json", "second_data": "rows.json"}
    for name, config in configs.items():
        (folder / name).write_text(yaml.safe_dump(config), encoding="utf-8")
    _preferences(folder / "annotations.json")
    (folder / "template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    replies = [{"instruction": f"say {i}", "output": f"{i}", "generator": "ours"} for i in range(6)]
    (folder / "replies.json").write_text(json.dumps(replies), encoding="utf-8")
    judge = {"model": "no/such-judge", "order": "both", "template": "{instruction} {output_1} {output_2}"}
    (folder / "judge.yaml").write_text(yaml.safe_dump(judge), encoding="utf-8")
    (folder / "results").mkdir()
    for file in (ROOT / "results/micro-one-pass").glob("*.*"):
        shutil.copy(file, folder / "results")
    for seed, noise in enumerate(("none", "symnoise")):
        _run(folder / f"run-{noise}", {"noise": noise, "seed": seed // 2, **STEPS})


def _rows(folder: Path, rows: list[dict[str, str]]) -> None:
    text = json.dumps(rows, indent=1)
    (folder / "rows.json").write_text(text, encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "rows.json.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "rows.txt").write_text("\n\n".join(row["output"] for row in rows), encoding="utf-8")
    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    pd.DataFrame(rows).to_parquet(folder / "rows.parquet")


def _preferences(path: Path) -> None:
    texts = {"output_1": "a" * 5, "output_2": "b" * 9, "generator_1": "davinci", "generator_2": "ours"}
    path.write_text(
        json.dumps([{"instruction": f"ask {i}", **texts, "preference": 1 + i % 2} for i in range(8)], indent=1),
        encoding="utf-8",
    )


def _run(folder: Path, settings: dict[str, Any]) -> None:
    """What a finished run leaves that `symnoise compare` reads."""
    folder.mkdir()
    (folder / "train.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    lines = [{"step": 0, "eval_loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "eval_loss": 2.5}]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "README.md").touch()
