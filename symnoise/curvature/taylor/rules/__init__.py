"""Taylor rules by kind of operation; importing a module registers its rules."""

from symnoise.curvature.taylor.rules import attention, elementwise, linear, normal, shape

__all__ = ["attention", "elementwise", "linear", "normal", "shape"]
