"""How many probes a wanted accuracy takes, without letting the answer decide when to stop."""

import math
import warnings
from collections.abc import Callable
from typing import TypeVar

from scipy import stats

from symnoise.core import Estimate, InputError

Result = TypeVar("Result")

# How often the number of probes shall suffice: a pilot's standard error is itself uncertain.
ASSURANCE = 0.8


def two_stages(
    measure: Callable[[int, int], Result],
    probes: int,
    rtol: float,
    max_probes: int,
    of: Callable[[Result], Estimate],
) -> Result:
    """A pilot of `probes` probes says how many more are needed, and the answer is made of these fresh ones alone.

    measure(first, count): the result from probes number first … first + count − 1, any count that is a multiple of
    `probes`. of: its estimate that shall become accurate (see `needed`).

    Going on until the standard error looks small enough stops where it happens to be underestimated, and intervals
    then cover less than they say. Here the number is settled before the first fresh probe is drawn: given the pilot the
    answer is an estimate of fixed size, with the mean, the standard error and the coverage of one (the two stages of
    Stein 1945, with the pilot left out of the mean since under a relative target it too decides the number). The price
    is the pilot. Its standard error may still come out above the target, by chance.

    Warns where `max_probes`, pilot included, do not suffice. Raises `InputError` where these are not at least
    2·probes, for rtol ≤ 0, and where the pilot has too few probes for a standard error.
    """
    if not rtol > 0:
        raise InputError(f"rtol must be above 0; got {rtol}")
    if max_probes < 2 * probes:
        raise InputError(
            f"max_probes={max_probes} leaves nothing after a pilot of {probes} probes; give at least {2 * probes}"
        )
    pilot = of(measure(0, probes))
    if bool(pilot.stderr.isnan().any()):
        raise InputError(f"rtol needs a standard error, and {probes} probes allow none; take more probes")
    wanted = needed(pilot, rtol)
    chunks = max(1, math.ceil(min(wanted, max_probes) / probes))
    allowed = max_probes // probes - 1
    result = measure(probes, min(chunks, allowed) * probes)
    if chunks > allowed:
        reached = of(result).mean()
        value, error = float(reached.value), float(reached.stderr)
        would = f"would take about {wanted:.2g} probes and a pilot of {probes}"
        if math.isinf(wanted):
            would = f"cannot be aimed at, since the pilot of {probes} probes found 0"
        warnings.warn(
            f"rtol={rtol:g} {would}; stopped at max_probes={max_probes}, where the mean is {value:.2g} with a standard "
            f"error of {error:.2g}",
            RuntimeWarning,
            stacklevel=5,  # where trace was called
        )
    return result


def needed(pilot: Estimate, rtol: float) -> float:
    """How many probes make the standard error of the mean over examples, or that of every example, rtol·|value|.

    Whichever takes fewer. Standard errors are taken to fall as 1/√probes (Hutch++ and XTrace do no worse); the
    variance as its upper bound at level `ASSURANCE`, ν s²/χ²_ν(1 − ASSURANCE) with ν degrees of freedom.
    """
    mean = pilot.mean()
    each = (pilot.stderr / pilot.value.abs()).nan_to_num(nan=0.0, posinf=math.inf)  # 0/0: known exactly
    every = float(each.max()) ** 2 * _inflation(pilot.dof)
    together = float((mean.stderr / mean.value.abs()).nan_to_num(nan=0.0, posinf=math.inf)) ** 2 * _inflation(mean.dof)
    return pilot.count * min(every, together) / rtol**2


def _inflation(dof: float) -> float:
    return dof / float(stats.chi2.ppf(1 - ASSURANCE, dof)) if math.isfinite(dof) else 1.0
