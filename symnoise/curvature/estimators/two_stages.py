"""Number of probes for a target accuracy, by two-stage sampling."""

import math
import warnings
from collections.abc import Callable
from typing import TypeVar

from scipy import stats

from symnoise.core import Estimate, InputError

Result = TypeVar("Result")

# Probability that the probes suffice: a pilot's standard error is itself uncertain.
ASSURANCE = 0.8


def two_stages(
    measure: Callable[[int, int], Result],
    probes: int,
    rtol: float,
    max_probes: int,
    of: Callable[[Result], Estimate],
) -> Result:
    """Two-stage estimate: a pilot of `probes` probes determines how many more are needed; only these are used.

    measure(first, count): the result from probes number first … first + count − 1, for any count that is a multiple of
    `probes`. of: selects the estimate that is to become accurate (see `needed`).

    Sampling until the standard error looks small enough stops when it happens to be underestimated, and intervals then
    cover less than stated. Here the number is fixed before the first fresh probe is drawn. Given the pilot, the result
    is an estimate of fixed size, with its mean, standard error and coverage (the two stages of Stein 1945; the pilot is
    not in the mean, since under a relative target its mean also decides the number). The price is the pilot. The
    standard error may still exceed the target by chance.

    Warns if `max_probes`, pilot included, do not suffice. Raises `InputError` if `max_probes` is below 2·probes, for
    rtol ≤ 0, and if the pilot has too few probes for a standard error.
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
    """Number of probes for a standard error of rtol·|value|, of the mean over examples or of every example.

    Whichever takes fewer. Standard errors are assumed to fall as 1/√probes (Hutch++ and XTrace do no worse). The
    variance is its upper bound at level `ASSURANCE`, ν s²/χ²_ν(1 − ASSURANCE) with ν degrees of freedom.
    """
    mean = pilot.mean()
    each = (pilot.stderr / pilot.value.abs()).nan_to_num(nan=0.0, posinf=math.inf)  # 0/0: known exactly
    every = float(each.max()) ** 2 * _inflation(pilot.dof)
    together = float((mean.stderr / mean.value.abs()).nan_to_num(nan=0.0, posinf=math.inf)) ** 2 * _inflation(mean.dof)
    return pilot.count * min(every, together) / rtol**2


def _inflation(dof: float) -> float:
    return dof / float(stats.chi2.ppf(1 - ASSURANCE, dof)) if math.isfinite(dof) else 1.0
