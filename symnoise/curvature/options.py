"""Options that all traces share, with their checks."""

from collections.abc import Collection
from dataclasses import dataclass

import torch

from symnoise.core import InputError, unknown
from symnoise.curvature.estimators.columns import LEAST
from symnoise.curvature.estimators.sampler import ESTIMATORS, Sampler
from symnoise.curvature.estimators.targets import ErrorTargets
from symnoise.curvature.estimators.two_levels import COARSE, TWO_LEVELS

DIRECTIONS = ("rademacher", "gaussian", "orthogonal")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Options:
    """How a trace is estimated; the fields are the arguments of `symnoise.trace`."""

    method: str
    probes: int
    seed: int
    directions: str
    rtol: float | None
    atol: float | None
    sign: bool
    max_probes: int
    precision: str
    coefficients: torch.dtype | None

    @property
    def sampler(self) -> Sampler:
        """What draws the probes and measures with them."""
        return Sampler(self.probes, self.seed, self.directions, self.derivatives)

    @property
    def targets(self) -> ErrorTargets:
        """The standard errors aimed at."""
        return ErrorTargets(self.rtol, self.atol, self.sign)

    @property
    def derivatives(self) -> torch.dtype | None:
        """dtype of Taylor mode's coefficients; None: the model's."""
        return COARSE if self.precision == "bfloat16" else self.coefficients

    def require_valid(self, methods: Collection[str]) -> None:
        """`InputError` for a wrong option, or one that does not apply to the method, which is one of `methods`."""
        if self.method not in methods:
            raise unknown("method", self.method, methods)
        if self.directions not in DIRECTIONS:
            raise unknown("directions", self.directions, DIRECTIONS)
        if self.probes < 1:
            raise InputError(f"probes must be 1 or more; got {self.probes}")
        if self.targets and self.method == "exact":
            raise InputError(f"{self.targets} is for methods with probes; method='exact' has none")
        if self.method in (*ESTIMATORS, TWO_LEVELS) and self.probes < LEAST:
            raise InputError(f"method={self.method!r} needs {LEAST} probes or more; got {self.probes}")
        if self.method in ESTIMATORS and self.directions == "orthogonal":
            raise InputError(
                f"method={self.method!r} needs independent probes; choose directions='rademacher' or 'gaussian'"
            )
        self._require_precision()

    def _require_precision(self) -> None:
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.precision != "auto" and self.coefficients is not None:
            raise InputError(f"give precision={self.precision!r} or coefficients={self.coefficients}, not both")
        if self.method == TWO_LEVELS and self.precision == "float32":
            raise InputError("method='two-level' takes most derivatives in bfloat16; precision='float32' forbids that")
        if self.derivatives is not None:
            self._require_coefficients(self.derivatives)

    def _require_coefficients(self, given: torch.dtype) -> None:
        if self.method not in ("auto", "taylor"):
            named = f"coefficients={given}" if self.coefficients else f"precision={self.precision!r}"
            raise InputError(f"{named} is for method='taylor'; method={self.method!r} has none")
        if not isinstance(given, torch.dtype) or not given.is_floating_point:
            raise InputError(f"coefficients must be a floating-point dtype such as torch.bfloat16; got {given}")
