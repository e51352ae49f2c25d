"""The result files of a study: results/STUDY/{runs,curves,curvature,outcomes}.parquet and study.json."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from symnoise.core import InputError, unknown

SCHEMA = 1  # stands in study.json and in the name of the folder of raw runs


class Arm(NamedTuple):
    """The noise an arm trains with, and the factor on the study's batch: two passes a row cost a doubled batch."""

    noise: str
    batch: float = 1


ARMS = {
    "none": Arm("none"),
    "none-double-batch": Arm("none", 2),
    "uniform": Arm("uniform"),
    "gaussian": Arm("gaussian"),
    "gaussian-raw": Arm("gaussian-raw"),
    "rademacher": Arm("rademacher"),
    "independent-pair": Arm("independent-pair"),
    "symnoise": Arm("symnoise"),
    "uniform-pair": Arm("uniform-pair"),
    "gaussian-pair": Arm("gaussian-pair"),
    "symnoise-half-batch": Arm("symnoise", 0.5),
    "penalty": Arm("symnoise"),
}
PLAIN = tuple(name for name, arm in ARMS.items() if arm.noise == "none")  # have no α: one run a seed serves every α
STATUSES = ("done", "diverged")
PRECISION = "precision.csv"  # seed, step, the held-out loss in either precision, and their difference
WHEN = ("best", "end")  # of the run: at its least held-out loss, and after the last step


@dataclass(frozen=True)
class Table:
    """columns: always there.  optional: may be there.  key: what no two rows share."""

    columns: tuple[str, ...]
    key: tuple[str, ...]
    optional: tuple[str, ...] = ("schema",)  # the version, in each row


TABLES = {
    "runs": Table(
        ("run", "arm", "alpha", "seed", "model", "data", "batch", "steps", "status"),
        ("run",),
        ("schema", "train_loss", "gradient_norm")  # nats; means over the steps
        + ("seconds", "peak_rss_mib", "measure_seconds", "trace_seconds", "tokens_per_second"),
    ),
    "curves": Table(("run", "step", "quantity", "value"), ("run", "step", "quantity")),
    "curvature": Table(
        ("run", "step", "example", "quantity", "value", "stderr"), ("run", "step", "example", "quantity")
    ),
    "outcomes": Table(
        ("run", "when", "measure", "decoding", "value"), ("run", "when", "measure", "decoding"), ("schema", "stderr")
    ),
}


def check_table(name: str, table: pd.DataFrame, where: str, command: str) -> None:
    """`InputError` for a column that is missing or unknown, and for an unknown arm or status of a run."""
    kind = TABLES[name]
    absent = [column for column in kind.columns if column not in table]
    if absent:
        raise InputError(f"{where} lacks {', '.join(absent)}; run `{command}` again")
    for column in table:
        if column not in (known := (*kind.columns, *kind.optional)):
            raise InputError(f"{where}: {unknown('column', str(column), known)}")
    for column, what, values in (("arm", "arm", tuple(ARMS)), ("status", "status of a run", STATUSES)):
        for value in table[column].unique() if column in kind.columns else ():
            if value not in values:
                raise unknown(what, str(value), values)


LARGEST_MARGIN = 0.2


@dataclass(frozen=True)
class Primary:
    """What a study is about, written down before its runs: all other contrasts and outcomes are exploratory.

    contrasts: pairs of arms, first − second, at the study's own alpha and at the end of training.
    outcomes:  measure -> the difference in it that is worth knowing, for the plan of seeds.
    """

    contrasts: tuple[tuple[str, str], ...]
    outcomes: dict[str, float] = field(hash=False)

    @staticmethod
    def of(stated: dict[str, Any] | None) -> "Primary":
        """From study.json; no endpoints where the study named none."""
        return Primary(_pairs(stated["contrasts"]), dict(stated["outcomes"])) if stated else Primary((), {})


@dataclass(frozen=True)
class Equivalence:
    """When two laws count as equal (claim O3).

    margin:   a share, at most `LARGEST_MARGIN`, of |uniform − none| in the same outcome at the same alpha: a margin
              that would also call NEFTune equal to no noise says nothing.
    controls: pairs of arms that must turn out different for anything to be called equal, one of them besides none and
              uniform.
    """

    margin: float
    controls: tuple[tuple[str, str], ...]

    @staticmethod
    def of(stated: dict[str, Any] | None) -> "Equivalence":
        """From study.json; the rule that holds for every study where it stated none."""
        if not stated:
            return Equivalence(LARGEST_MARGIN, (("none", "uniform"), ("gaussian-raw", "gaussian")))
        return Equivalence(float(stated["margin"]), _pairs(stated["controls"]))


def _pairs(stated: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((str(first), str(second)) for first, second in stated)
