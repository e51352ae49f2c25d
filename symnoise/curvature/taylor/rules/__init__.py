"""Taylor rules by kind of operation; importing a module registers its rules."""

from symnoise.curvature.taylor.rules import (
    attention,
    choosing,
    convolution,
    elementwise,
    linear,
    normal,
    scan,
    shape,
    writing,
)

__all__ = ["attention", "choosing", "convolution", "elementwise", "linear", "normal", "scan", "shape", "writing"]
