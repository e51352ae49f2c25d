"""Options that all traces share, with their checks."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from symnoise.core import InputError, unknown
from symnoise.curvature.estimators.columns import LEAST
from symnoise.curvature.estimators.sampler import ESTIMATORS, Sampler

DIRECTIONS = ("rademacher", "gaussian", "orthogonal")


@dataclass(frozen=True)
class Options:
    """How a trace is estimated; the fields are the arguments of `symnoise.trace`."""

    method: str
    probes: int
    seed: int
    directions: str
    rtol: float | None
    max_probes: int
    coefficients: torch.dtype | None

    @property
    def sampler(self) -> Sampler:
        """What draws the probes and measures with them."""
        return Sampler(self.probes, self.seed, self.directions, self.coefficients)

    def require_valid(self, methods: Collection[str]) -> None:
        """`InputError` for a wrong option, or one that does not apply to the method, which is one of `methods`."""
        if self.method not in methods:
            raise unknown("method", self.method, methods)
        if self.directions not in DIRECTIONS:
            raise unknown("directions", self.directions, DIRECTIONS)
        if self.probes < 1:
            raise InputError(f"probes must be 1 or more; got {self.probes}")
        if self.rtol is not None and not self.rtol > 0:
            raise InputError(f"rtol must be above 0; got {self.rtol}")
        if self.rtol is not None and self.method == "exact":
            raise InputError("rtol is for methods with probes; method='exact' has none")
        if self.method in ESTIMATORS:
            self._require_estimator()
        if self.coefficients is not None:
            self._require_coefficients(self.coefficients)

    def _require_estimator(self) -> None:
        if self.probes < LEAST:
            raise InputError(f"method={self.method!r} needs {LEAST} probes or more; got {self.probes}")
        if self.directions == "orthogonal":
            raise InputError(
                f"method={self.method!r} needs independent probes; choose directions='rademacher' or 'gaussian'"
            )

    def _require_coefficients(self, given: torch.dtype) -> None:
        if self.method not in ("auto", "taylor"):
            raise InputError(f"coefficients={given} is for method='taylor'; method={self.method!r} has none")
        if not isinstance(given, torch.dtype) or not given.is_floating_point:
            raise InputError(f"coefficients must be a floating-point dtype such as torch.bfloat16; got {given}")
