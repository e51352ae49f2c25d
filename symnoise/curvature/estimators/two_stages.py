"""Number of probes for a target accuracy, by two-stage sampling."""

import math
import warnings
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from scipy.special import chdtri

from symnoise.core import Estimate, InputError
from symnoise.curvature.estimators.targets import ASSURANCE, ErrorTargets


@runtime_checkable
class _Noting(Protocol):
    def noting(self, **facts: Any) -> Any: ...


Result = TypeVar("Result", bound=_Noting)


def two_stages(
    measure: Callable[[int, int], Any],
    probes: int,
    targets: ErrorTargets,
    max_probes: int,
    of: Callable[[Result], Estimate],
    plan: Callable[[Any], tuple[Estimate, Callable[[int, int], Result]]] | None = None,
) -> Result:
    """Two-stage estimate: a pilot of `probes` probes determines how many more are needed; only these are used.

    measure(first, count): the result from probes number first … first + count − 1, for any count that is a multiple of
    `probes`. of: selects the estimate that is to become accurate (see `needed`). plan: what the pilot found ↦ the
    estimate whose error tells the number, and the measurement of the fresh probes; by default `of` it and `measure`.

    Sampling until the standard error looks small enough stops when it happens to be underestimated, and intervals then
    cover less than stated. Here the number is fixed before the first fresh probe is drawn. Given the pilot, the result
    is an estimate of fixed size, with its mean, standard error and coverage (the two stages of Stein 1945; the pilot is
    not in the mean, since under a relative target its mean also decides the number). The price is the pilot. The
    standard error may still exceed the target by chance.

    The result notes which target it `stopped` at. Warns if `max_probes`, pilot included, do not suffice. Raises
    `InputError` if `max_probes` is below 2·probes, and if the pilot has too few probes for a standard error.
    """
    if max_probes < 2 * probes:
        raise InputError(
            f"max_probes={max_probes} leaves nothing after a pilot of {probes} probes; give at least {2 * probes}"
        )
    found = measure(0, probes)
    pilot, again = (of(found), measure) if plan is None else plan(found)
    if bool(pilot.stderr.isnan().any()):
        raise InputError(f"{targets} needs a standard error, and {probes} probes allow none; take more probes")
    wanted, why = needed(pilot, targets)
    chunks = max(1, math.ceil(min(wanted, max_probes) / probes))
    allowed = max_probes // probes - 1
    result = again(probes, min(chunks, allowed) * probes)
    if chunks > allowed:
        why = "max_probes"
        would = f"would take about {wanted:.2g} probes and a pilot of {probes}"
        if math.isinf(wanted):
            would = f"cannot be aimed at, since the pilot of {probes} probes found 0"
        _warn(f"{targets} {would}; stopped at max_probes={max_probes}", of(result).mean())
    noted: Result = result.noting(stopped=why)
    return noted


def _warn(what: str, reached: Estimate) -> None:
    value, error = float(reached.value), float(reached.stderr)
    warnings.warn(
        f"{what}, where the mean is {value:.2g} with a standard error of {error:.2g}",
        RuntimeWarning,
        stacklevel=6,  # where trace was called
    )


def needed(pilot: Estimate, targets: ErrorTargets) -> tuple[float, str]:
    """Number of probes that meet a target for the mean over examples or for every example, and which target that is.

    Whichever takes fewer; examples may differ in the target that they meet. Standard errors are assumed to fall as
    1/√probes (Hutch++ and XTrace do no worse). The variance is its upper bound at level `ASSURANCE`,
    ν s²/χ²_ν(1 − ASSURANCE) with ν degrees of freedom.
    """
    mean = pilot.mean()
    every, each_why = _excess(pilot, targets)
    together, mean_why = _excess(mean, targets)
    every, together = every**2 * _inflation(pilot.dof), together**2 * _inflation(mean.dof)
    return pilot.count * min(every, together), mean_why if together <= every else each_why


def _excess(pilot: Estimate, targets: ErrorTargets) -> tuple[float, str]:
    """The largest standard error in units of its target, the loosest of those given; and the targets that are used."""
    errors = targets.errors(pilot.value)
    allowed, loosest = torch.stack(list(errors.values())).max(0)
    ratio = (pilot.stderr / allowed).nan_to_num(nan=0.0, posinf=math.inf)  # 0/0: known exactly
    names = list(errors)
    return float(ratio.max()), ", ".join(sorted({names[i] for i in loosest.flatten().tolist()}))


def _inflation(dof: float) -> float:
    return dof / float(chdtri(dof, ASSURANCE)) if math.isfinite(dof) else 1.0
