"""Intervals from standard errors, at the ledger's level."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from symnoise.core import student_t
from symnoise.theory import LEVEL

PERCENT = f"{100 * LEVEL:g} %"


def bounds(value: pd.Series, stderr: pd.Series, dof: Any, level: float = LEVEL) -> tuple[pd.Series, pd.Series]:
    """Student-t interval of coverage `level`; NaN if the standard error or its degrees of freedom are missing."""
    freedom = pd.to_numeric(pd.Series(dof, index=value.index)).astype(float)
    # Null in a record: infinitely many for an exact value (stderr 0), none for a single draw.
    freedom = freedom.where(freedom > 0, np.nan).where(stderr != 0, np.inf)
    half = freedom.map(partial(student_t, level)) * stderr.astype(float)
    return value - half, value + half


def without(frame: pd.DataFrame) -> int:
    """How many rows of `frame` have no interval."""
    return int((frame["low"].isna() | frame["high"].isna()).sum())
