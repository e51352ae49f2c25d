"""How small a standard error has to be: relative to the value, absolutely, or so small that the sign is known."""

import math
from dataclasses import dataclass

from jaxtyping import Float
from scipy.special import ndtri
from torch import Tensor

from symnoise.core import InputError

# Probability that the probes suffice: a pilot's standard error, and its mean, are themselves uncertain.
ASSURANCE = 0.8
# With this standard error, of the true |value|, a 95 % interval excludes 0 with probability `ASSURANCE`: 0.357.
KNOWN_SIGN = 1 / float(ndtri(0.975) + ndtri(ASSURANCE))


@dataclass(frozen=True)
class ErrorTargets:
    """The standard errors aimed at; of several targets the loosest counts. False if there is none.

    rtol: stderr ≤ rtol·|value|, out of reach where the value is near 0.
    atol: stderr ≤ atol, in nats per squared embedding unit.
    sign: stderr ≤ 0.357·|value|: a 95 % interval excludes 0 with probability 0.8.

    Raises `InputError` unless rtol and atol are above 0, and for both rtol and sign: each is relative, so the
    looser one would always count.
    """

    rtol: float | None = None
    atol: float | None = None
    sign: bool = False

    def __post_init__(self) -> None:
        for name in ("rtol", "atol"):
            given = getattr(self, name)
            if given is not None and not 0 < given < math.inf:
                raise InputError(f"{name} must be above 0 and finite; got {given}")
        if self.sign and self.rtol is not None:
            raise InputError("rtol and sign are both relative to the value; give one of them, with or without atol")

    def __bool__(self) -> bool:
        return self.sign or self.rtol is not None or self.atol is not None

    def __str__(self) -> str:
        given = [f"{name}={getattr(self, name):g}" for name in ("rtol", "atol") if getattr(self, name) is not None]
        return " or ".join(given + ["a known sign"] * self.sign)

    def errors(self, value: Float[Tensor, "*shape"]) -> dict[str, Float[Tensor, "*shape"]]:
        """The largest standard error that meets each target, by the target's name."""
        found = {} if self.rtol is None else {"rtol": self.rtol * value.abs()}
        found |= {} if self.atol is None else {"atol": value.new_full(value.shape, self.atol)}
        return found | ({"sign": KNOWN_SIGN * value.abs()} if self.sign else {})
