"""Embedding-norm growth: in closed form, through the layers of a model, and the radial identity."""

from symnoise.norms.closed_forms import SquareNorm, expected_square_norm, square_norm
from symnoise.norms.layers import LayerGrowth, layer_growth
from symnoise.norms.radial import RadialIdentity, radial_identity

__all__ = [
    "LayerGrowth",
    "RadialIdentity",
    "SquareNorm",
    "expected_square_norm",
    "layer_growth",
    "radial_identity",
    "square_norm",
]
