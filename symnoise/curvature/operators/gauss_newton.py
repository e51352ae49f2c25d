"""Gauss-Newton products from reverse mode alone."""

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.curvature.operators.hessian import differentiable, require_derivatives
from symnoise.models import EmbeddingLoss


class JacobianProducts:
    """v ↦ Jv with J = ∂logits/∂X at the scored positions, one graph kept for all products.

    u ↦ Jᵀu is linear, so its derivative along v is Jv: reverse over reverse, which needs no forward-mode rule
    of any operation.
    """

    def __init__(self, loss: EmbeddingLoss) -> None:
        X = loss.embeddings.detach().requires_grad_()
        with torch.enable_grad(), differentiable(loss):
            logits = loss.logits(X)
            require_derivatives(logits)
            self._u = torch.zeros_like(logits).requires_grad_()
            (self._pullback,) = torch.autograd.grad(logits, X, self._u, create_graph=True)
            require_derivatives(self._pullback)
        self._X, self._logits = X, logits
        self.logits = logits.detach()

    def __call__(self, v: Float[Tensor, "batch token dim"]) -> Float[Tensor, "scored vocabulary"]:
        """Jv at the scored positions."""
        return torch.autograd.grad(self._pullback, self._u, v.to(self._pullback), retain_graph=True)[0]

    def transposed(self, u: Float[Tensor, "scored vocabulary"]) -> Float[Tensor, "batch token dim"]:
        """Jᵀu."""
        return torch.autograd.grad(self._logits, self._X, u.to(self._logits), retain_graph=True)[0]


class GaussNewtonProducts:
    """v ↦ Gv with G = Jᵀ∇²ℓJ ⪰ 0, for every example of a batch at once (Schraudolph 2002).

    ∇²ℓ = (diag p − ppᵀ)/N at each of an example's N scored tokens. A product is Jv, then one backward pass.
    """

    def __init__(self, loss: EmbeddingLoss) -> None:
        self._jacobian = JacobianProducts(loss)
        self._p = self._jacobian.logits.double().softmax(-1)
        self._shares = loss.averages.sum(0)[:, None]  # 1/N of each scored token's example

    def __call__(self, v: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Gv, in the dtype of X."""
        u = self._jacobian(v).double()
        u = u - (self._p * u).sum(-1, keepdim=True)  # centred first, as in `softmax_curvature`
        return self._jacobian.transposed(self._shares * self._p * u)


def softmax_curvature(
    logits: Float[Tensor, "scored vocabulary"], directions: Float[Tensor, "scored vocabulary"]
) -> Float[Tensor, " scored"]:
    """uᵀ(diag p − ppᵀ)u at each scored token, p = softmax(logits): the variance of u under p. float64."""
    p = logits.double().softmax(-1)
    u = directions.double()
    mean = (p * u).sum(-1, keepdim=True)
    return (p * (u - mean).square()).sum(-1)
