"""Convolutions with weights: linear, so all coefficients are one larger batch."""

from typing import Any

import torch
from torch import Tensor

from symnoise.curvature.taylor.rules.linear import through_matrix
from symnoise.curvature.taylor.tensor import Taylor, require, rule

aten = torch.ops.aten


@rule(aten.convolution)
def _convolution(func: Any, x: Any, weight: Any, bias: Any, *shape: Any) -> Taylor:
    """shape: stride, padding, dilation, transposed, output padding and groups."""
    require(
        isinstance(x, Taylor) and not isinstance(weight, Taylor) and not isinstance(bias, Taylor), f"{func} weights"
    )
    value = func(x.value, weight, bias, *shape)
    dtype = x.frame.dtype_beside(value)

    def convolved(c: Tensor) -> Tensor:
        many = c.to(dtype).flatten(0, 1)
        return func(many, x.frame.weight(weight, dtype), None, *shape).unflatten(0, c.shape[:2])

    return through_matrix(x, value, convolved)
