"""Products with either curvature matrix by its name."""

from symnoise.core import unknown
from symnoise.curvature.loss import Loss, require_loss
from symnoise.curvature.operators.gauss_newton import GaussNewtonProducts
from symnoise.curvature.operators.hessian import HessianProducts, require_repeatable
from symnoise.models import EmbeddingLoss

MATRICES = ("hessian", "gauss_newton")


def require_matrix(loss: Loss, matrix: str) -> None:
    """`InputError` for another word, or for the Gauss-Newton matrix of a loss without logits."""
    if matrix not in MATRICES:
        raise unknown("matrix", matrix, MATRICES)
    require_loss(loss, EmbeddingLoss if matrix == "gauss_newton" else Loss)


def products(loss: Loss, matrix: str = "hessian") -> HessianProducts | GaussNewtonProducts:
    """v ↦ Hv or Gv, one of `MATRICES`, of a loss that is finite and deterministic; raises `InputError` otherwise."""
    if matrix == "gauss_newton":
        assert isinstance(loss, EmbeddingLoss)
        require_repeatable(loss, loss.mean_over_tokens(loss.token_losses()))
        return GaussNewtonProducts(loss)
    return hessian_products(loss)


def hessian_products(loss: Loss) -> HessianProducts:
    """v ↦ Hv of a loss that is finite and deterministic, with ℓ(X) and ∇ℓ(X); raises `InputError` otherwise."""
    product = HessianProducts(loss)
    require_repeatable(loss, product.values)
    return product
