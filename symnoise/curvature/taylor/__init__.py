"""Collapsed Taylor mode: quadratic forms of the Hessian from one forward pass, no graph."""

from symnoise.curvature.taylor import rules  # noqa: F401  (the rules register themselves)
from symnoise.curvature.taylor.engine import TaylorQuadratics, taylor_quadratics
from symnoise.curvature.taylor.memory import memory_estimate
from symnoise.curvature.taylor.tensor import UnsupportedOperation

__all__ = ["TaylorQuadratics", "UnsupportedOperation", "memory_estimate", "taylor_quadratics"]
