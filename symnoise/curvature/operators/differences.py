"""Hessian-vector products by central differences of the gradient, without second derivatives."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import InputError
from symnoise.curvature.loss import Loss, coordinates, require_loss
from symnoise.curvature.operators.hessian import differentiable, inner, require_derivatives, require_finite
from symnoise.curvature.routing import told_of_rerouting


@dataclass(frozen=True)
class Difference:
    """Hessian product by differences, with an error estimate.

    Attributes:
        product: (batch, token, dim) D(h) ≈ Hv.
        error: (batch,) estimate of ‖D(h) − Hv‖, float64.
    """

    product: Float[Tensor, "batch token dim"]
    error: Float[Tensor, " batch"]


def hvp_difference(loss: Loss, v: Float[Tensor, "batch token dim"]) -> Difference:
    """Hessian-vector product by finite differences, Hv ≈ D(h) = [∇ℓ(X + hv) − ∇ℓ(X − hv)] / 2h; four gradients.

    The step moves the embeddings by ε^(1/3) of their root mean square, ε the machine precision of their dtype. That
    balances the truncation error, of order h², against rounding, of order ε/h. The error estimate adds both:
    ‖D(2h) − D(h)‖/3, the leading truncation term by Richardson, and ε‖∇ℓ‖/h. A float32 network rounds more than its
    last operation does, so expect the error to be right in size, not to the digit. Warns where a mixture of experts
    routes tokens differently within these steps.

    Args:
        loss: The loss and the embeddings X.
        v: (batch, token, dim), one direction per example.

    Returns:
        The product and its error.

    Raises:
        InputError: If the loss is not finite or not differentiable, and for embeddings coarser than float32, whose
            step is so large that the error estimate says nothing.
    """
    require_loss(loss)
    X = loss.embeddings
    eps = torch.finfo(X.dtype).eps
    if eps > torch.finfo(torch.float32).eps:
        raise InputError(
            f"differences of gradients in {str(X.dtype).removeprefix('torch.')} are mostly rounding: load the model in "
            "float32, or use method='taylor' or 'hvp'"
        )
    n = coordinates(loss)
    typical = (inner(X * (loss.mask != 0)[:, :, None], X) / n).sqrt()
    h = eps ** (1 / 3) * typical / (inner(v, v) / n).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    step = h.to(X)[:, None, None]

    def quotient(times: int) -> tuple[Tensor, Tensor]:
        above, below = (gradient(loss, X + sign * times * step * v) for sign in (1, -1))
        return (above - below) / (2 * times * step), above

    with told_of_rerouting(loss):
        near, slope = quotient(1)
        far, _ = quotient(2)
    truncation = inner(far - near, far - near).sqrt() / 3
    rounding = eps * inner(slope, slope).sqrt() / h
    return Difference(near, truncation + rounding)


def gradient(loss: Loss, X: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
    """∇ℓ_b(X) of every example."""
    X = X.detach().requires_grad_()
    with torch.enable_grad(), differentiable(loss):
        values = loss(X)
        require_finite(loss, values.detach())
        require_derivatives(values)
        return torch.autograd.grad(values.sum(), X)[0]
