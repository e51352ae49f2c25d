"""The costs of a study's runs: training, measuring a checkpoint, decoding."""

import pandas as pd

from analysis.style import order

_KEYS = ["setting", "arm", "alpha"]


def costs(study_runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each setting, arm and α: medians over the runs that did not diverge.

    seconds: training.  ratio: to the run of `none` with the same seed.  trace_share: the Taylor engine's seconds
    on one checkpoint over training's.  tokens_per_second: of replies, including loading the model and data; see
    `experiments.bench.decoding` for decoding alone.  peak_rss_mib: the training process.
    """
    done = study_runs[study_runs.status == "done"]
    plain = done[done.arm == "none"][["setting", "seed", "seconds"]].rename(columns={"seconds": "plain"})
    found = done.merge(plain, on=["setting", "seed"], how="left")
    found = found.assign(ratio=found.seconds / found.plain, trace_share=found.trace_seconds / found.seconds)
    columns = ["seconds", "ratio", "trace_seconds", "trace_share", "tokens_per_second", "peak_rss_mib"]
    made = found.groupby(_KEYS, dropna=False)[columns].median().reset_index()
    return by_arm(made, "alpha")


def by_arm(table: pd.DataFrame, *then: str) -> pd.DataFrame:
    """`table` by setting, arm in the order of the figures, and `then`."""
    rank = {arm: k for k, arm in enumerate(order(table.arm))}
    ranked = table.assign(rank=table.arm.map(rank)).sort_values(["setting", "rank", *then], ignore_index=True)
    return ranked.drop(columns="rank")
