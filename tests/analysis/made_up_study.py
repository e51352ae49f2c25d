"""Studies with known effects, as their result files: nothing here was measured."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.study.data import StudyTables, read_study
from result_schema.study import ARMS, PLAIN

ALPHAS = (5.0, 10.0)
PRIMARY: dict[str, Any] = {
    "contrasts": [["symnoise", "uniform"], ["uniform", "none"]],
    "outcomes": {"held-out loss": 0.005},
}
COMMON = tuple(ARMS)[: list(ARMS).index("penalty") + 1]
STEPS = (0, 20, 40, 60, 80)


def write_study(
    folder: Path,
    *,
    seeds: int = 10,
    arms: tuple[str, ...] = COMMON,
    loss: dict[str, float] | None = None,
    curvature: dict[str, float] | None = None,
    diverged: tuple[tuple[str, int], ...] = (),
    sd: float = 0.004,
    alphas: tuple[float, ...] = ALPHAS,
    schema: int = 1,
    setting: tuple[str, str] = ("micro", "alpaca"),
    ending: dict[str, float] | None = None,
) -> Path:
    """loss, curvature: shift of an arm's held-out loss and of its curvature; scores follow the loss.  ending: of its
    log p(end) elsewhere, which the study then names among its outcomes, and has only then.  sd: of a pair's
    spread.  diverged: arm and seed of runs (at every α) that diverged half-way."""
    loss, curvature = loss or {}, curvature or {}
    draws = np.random.default_rng(7)
    runs, curves, curved, outcomes = [], [], [], []
    for seed in range(seeds):
        base = draws.normal(0, 0.05)
        for arm in arms:
            for alpha in (float("nan"),) if arm in PLAIN else alphas:
                run = f"{setting[0]}-{setting[1]}-{arm}-{alpha:g}-s{seed}"
                lost = (arm, seed) in diverged
                end = 1.9 + base + loss.get(arm, 0) + draws.normal(0, sd / 2**0.5)
                bend = 40 + 100 * base + curvature.get(arm, 0) + draws.normal(0, 1)
                facts = {"arm": arm, "alpha": alpha, "seed": seed, "model": setting[0], "data": setting[1], "batch": 8}
                pair = 2.0 if arm == "symnoise" else 1.0
                costs = {"train_loss": end - 0.2, "seconds": (60.0 + seed) * pair, "peak_rss_mib": 900.0}
                costs |= {"measure_seconds": 12.0, "trace_seconds": 3.0, "tokens_per_second": 500.0}
                state = {"steps": 80, "status": "diverged" if lost else "done"}
                runs.append({"run": run, **facts, **state, **costs, "schema": schema})
                for step in STEPS[:3] if lost else STEPS:
                    share = step / 80
                    held = 1.8 - 1.2 * share + 1.3 * share**2 + share * (end - 1.9)
                    grown = 3 * (1 + 1e-3 * share + draws.normal(0, 1e-5))
                    for quantity, value in (
                        ("held-out loss", held),
                        ("used-row norm", grown),
                        ("all-row norm", 3 + 1e-4 * share),
                    ):
                        curves.append({"run": run, "step": step, "quantity": quantity, "value": value})
                for step in (0, 40) if lost else (0, 40, 80):
                    for example in range(3):
                        for quantity, size in (("tr H", 1.0), ("tr G", 1.4), ("tr R", -0.4), ("E|zᵀHz|", 2.0)):
                            value = size * ((bend - 40) * step / 80 + 40 + 5 * example)
                            fact = {"run": run, "step": step, "example": example, "quantity": quantity}
                            curved.append(fact | {"value": value, "stderr": 1.0})
                if lost:
                    continue
                for when, shift in (("best", -0.3), ("end", 0.0)):
                    for measure, decoding, value in (
                        ("held-out loss", "", end + shift),
                        ("ROUGE-L", "greedy", 0.3 - 0.5 * (end + shift - 1.9)),
                        ("length", "greedy", 60 + draws.normal()),
                        *(
                            [("log p(end) elsewhere", "", -20 + ending.get(arm, 0) + draws.normal(0, 0.02))]
                            if ending is not None
                            else []
                        ),
                    ):
                        outcomes.append(
                            {"run": run, "when": when, "measure": measure, "decoding": decoding, "value": value}
                        )
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"runs": runs, "curves": curves, "curvature": curved, "outcomes": outcomes}
    for name, records in tables.items():
        pd.DataFrame(records).to_parquet(folder / f"{name}.parquet", index=False)
    facts = {"schema": 1, "name": folder.name, "settings": {"steps": 80}, "arms": list(arms), "reference": "none"}
    facts |= {"made_with": {"commit": ["made up"]}}
    named = {"log p(end) elsewhere": 0.1} if ending is not None else {}
    facts |= {
        "primary": PRIMARY | {"outcomes": PRIMARY["outcomes"] | named},
        "seeds": list(range(seeds)),
        "alpha": alphas[-1],
    }
    (folder / "study.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def study(folder: Path, **facts) -> StudyTables:
    """The same, read."""
    return read_study(write_study(folder, **facts))
