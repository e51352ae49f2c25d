"""The result files of a study: results/STUDY/{runs,curves,curvature,outcomes}.parquet and study.json."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from symnoise.core import InputError, unknown

SCHEMA = 1  # stored in study.json and in the name of the folder of raw runs
LOCAL = 10  # at ε/10 the loss is quadratic; the dial of 100 turns a gradient's rounding error of 1e-7 into 1e-5


PAIRS = ("symnoise", "independent-pair", "uniform-pair", "gaussian-pair")  # noises that take each row twice


@dataclass(frozen=True)
class Arm:
    """How an arm trains, given the study's own settings.

    noise: a name of `Noise.named`, at the study's α times `share`.
    batch: rows of an optimizer step, as a multiple of the study's.
    dials: the even and the odd weight of the noise, (μ, λ) of `Dials`; None leaves the noise as it is.
    rate:  the learning rate as a multiple of the study's; steps are divided by it, so that their product is unchanged.
    method: "r3f" or "weight-pair", see `experiments.study.neighbours`; "draw-at-pair-size" or "pair-at-draw-size", see
            `experiments.study.divisor`; "" for the loss under the noise.
    """

    noise: str
    batch: float = 1
    dials: tuple[float, float] | None = None
    share: float = 1
    rate: float = 1
    method: str = ""

    @property
    def cost(self) -> float:
        """Forward and backward passes of a run, as a multiple of plain training's."""
        passes = 3 if self.dials else 2 if self.method or self.noise in PAIRS else 1
        return passes * self.batch / self.rate


def _at_rates(names: tuple[str, ...], rates: tuple[float, ...]) -> dict[str, Arm]:
    """The arms `names` at other learning rates, as in symnoise-rate-2."""
    return {f"{name}-rate-{rate:g}": Arm(name, rate=rate) for name in names for rate in rates}


def _dialled(cells: tuple[tuple[float, float], ...]) -> dict[str, Arm]:
    """Cells (μ, λ) of the plane of dials, as in dials-1-0.5."""
    return {f"dials-{even:g}-{odd:g}": Arm("symnoise", dials=(even, odd)) for even, odd in cells}


# Arms with two passes per row cost as much as a doubled batch.
ARMS: dict[str, Arm] = {
    "none": Arm("none"),
    "none-double-batch": Arm("none", batch=2),
    "uniform": Arm("uniform"),
    "gaussian": Arm("gaussian"),
    "gaussian-raw": Arm("gaussian-raw"),
    "uniform-at-raw-size": Arm("uniform", share=math.sqrt(3)),  # of gaussian-raw's variance (claim X1)
    "rademacher": Arm("rademacher"),
    "independent-pair": Arm("independent-pair"),
    "symnoise": Arm("symnoise"),
    "uniform-pair": Arm("uniform-pair"),
    "gaussian-pair": Arm("gaussian-pair"),
    "symnoise-half-batch": Arm("symnoise", batch=0.5),
    "penalty": Arm("symnoise", dials=(LOCAL**2, 0), share=1 / LOCAL),
    "none-batch-1.25": Arm("none", batch=1.25),
    "rademacher-batch-1.125": Arm("rademacher", batch=1.125),
    "rademacher-batch-1.25": Arm("rademacher", batch=1.25),
    "rademacher-batch-1.5": Arm("rademacher", batch=1.5),
    "r3f": Arm("rademacher", method="r3f"),
    "weight-pair": Arm("none", method="weight-pair"),
    "draw-at-pair-size": Arm("symnoise", method="draw-at-pair-size"),
    "pair-at-draw-size": Arm("symnoise", method="pair-at-draw-size"),
    **_dialled(((0, 1), (0, 3), (1, 1), (1, 3), (2, 0), (2, 1), (3, 0))),
    **_at_rates(("none", "rademacher", "symnoise"), (0.5, 2, 4)),
}
PLAIN = tuple(name for name, arm in ARMS.items() if arm.noise == "none")  # have no α: one run per seed serves every α


def dials_of(arm: str) -> tuple[float, float] | None:
    """(μ, λ) of an arm that is a cell of the plane of dials, at the study's own α; else None."""
    if arm in ("none", "symnoise"):
        return float(arm == "symnoise"), 0.0
    kind = ARMS[arm]
    return kind.dials if kind.share == 1 else None


STATUSES = ("done", "diverged")
PRECISION = "precision.csv"  # seed, step, the held-out loss in either precision, and their difference
WHEN = ("best", "end")  # of the run: at its lowest held-out loss, and after the last step


@dataclass(frozen=True)
class Table:
    """columns: required.  optional: allowed.  key: columns that together are unique."""

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
    """The endpoints of a study, named before its runs: all other contrasts and outcomes are exploratory.

    contrasts: pairs of arms, first − second, at the study's own alpha and at the end of training.
    outcomes:  measure -> the difference in it that is worth knowing, to plan the number of seeds.
    slopes:    instead of contrasts: how the outcomes change with the weights of arms with dials.
    """

    contrasts: tuple[tuple[str, str], ...]
    outcomes: dict[str, float] = field(hash=False)
    slopes: bool = False

    @property
    def endpoints(self) -> int:
        """How many there are; each outcome has a slope on either weight."""
        return len(self.outcomes) * (2 if self.slopes else len(self.contrasts))

    @staticmethod
    def of(stated: dict[str, Any] | None) -> "Primary":
        """From study.json; no endpoints where the study named none."""
        if not stated:
            return Primary((), {})
        return Primary(_pairs(stated["contrasts"]), dict(stated["outcomes"]), bool(stated.get("slopes")))


@dataclass(frozen=True)
class Equivalence:
    """When two laws count as equal (claim O3).

    margin:   a share, at most `LARGEST_MARGIN`, of |uniform − none| in the same outcome at the same alpha: a margin
              by which NEFTune also equals no noise says nothing.
    controls: pairs of arms that must differ before any two laws count as equal, at least one of them other than none
              and uniform.
    """

    margin: float
    controls: tuple[tuple[str, str], ...]

    @staticmethod
    def of(stated: dict[str, Any] | None) -> "Equivalence":
        """From study.json; the default rule if the study stated none."""
        if not stated:
            return Equivalence(LARGEST_MARGIN, (("none", "uniform"), ("gaussian-raw", "gaussian")))
        return Equivalence(float(stated["margin"]), _pairs(stated["controls"]))


@dataclass(frozen=True)
class Drawn:
    """Each seed's training rows, and the pool that they are drawn from."""

    rows: int
    pool: int


@dataclass(frozen=True)
class Settings:
    """What is read of a study's settings."""

    training: Drawn | None = None


@dataclass(frozen=True)
class Facts:
    """What is read of a study.json; `primary` and `equivalence` as the study file stated them."""

    schema: int
    name: str
    alpha: float
    reference: str | None = None
    primary: Primary | None = None
    equivalence: Equivalence | None = None
    settings: Settings | None = None
    unfinished: list[str] | None = None
    missing: dict[str, Any] | None = None
    made_with: dict[str, Any] | None = None


def _pairs(stated: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((str(first), str(second)) for first, second in stated)
