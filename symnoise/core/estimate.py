"""`Estimate`: a stochastic answer that carries its error."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """Means of independent draws, one entry for each example (or whatever the shape holds).

    value:   the means, float64.
    stderr:  their standard errors, float64; 0 for an exact result, NaN where fewer than two draws allow none.
    count:   how many draws (for traces: probes) each mean is over.
    dof:     degrees of freedom behind `stderr`: draws − 1, or groups − 1 where draws are only known in groups.
    method:  how it was obtained.
    seconds: wall-clock time.
    """

    value: Float[Tensor, "*shape"]
    stderr: Float[Tensor, "*shape"]
    count: int
    dof: float
    method: str = ""
    seconds: float = float("nan")

    @staticmethod
    def from_draws(draws: Float[Tensor, "draws *shape"], **facts: Any) -> "Estimate":
        """Mean over the first dimension, with stderr = sample standard deviation / √draws (sums in float64).

        draws: (draws, …), each entry of the rest an independent sample.
        facts: any field of `Estimate`, in the place of what follows from the draws.
        """
        draws, count = draws.double(), draws.shape[0]
        mean = draws.mean(0)
        stderr = draws.std(0) / count**0.5 if count > 1 else torch.full_like(mean, torch.nan)
        return Estimate(mean, stderr, **{"count": count, "dof": count - 1.0, **facts})

    @staticmethod
    def exact(value: Float[Tensor, "*shape"], **facts: Any) -> "Estimate":
        """A value without sampling error: stderr 0, infinitely many degrees of freedom."""
        value = value.double()
        return Estimate(value, torch.zeros_like(value), **{"count": 0, "dof": float("inf"), **facts})

    @property
    def probes(self) -> int:
        """The count, under the name that trace estimation uses."""
        return self.count

    def interval(self, level: float = 0.95) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
        """Student-t interval with coverage `level`: (low, high) = value ± t(dof)·stderr, each shaped like `value`."""
        half = float(stats.t.ppf(0.5 + level / 2, self.dof)) * self.stderr
        return self.value - half, self.value + half

    def mean(self) -> "Estimate":
        """The mean over all entries (for traces: over examples), whose draws must be independent of each other.

        stderr = √(Σ stderr²)/m for m entries; it speaks of these m entries, not of others like them. The degrees
        of freedom are Satterthwaite's, (Σ s²)²/Σ(s⁴/dof).
        """
        s2, m = self.stderr.square().flatten(), self.value.numel()
        total = s2.sum()
        dof = float(total**2 / (s2**2 / self.dof).sum()) if total > 0 else float("inf")
        return replace(self, value=self.value.mean(), stderr=total.sqrt() / m, dof=dof)
