"""Dense Hessians and exact traces, for small problems: the reference for faster methods."""

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import InputError, track
from symnoise.curvature.loss import Loss
from symnoise.curvature.operators.hessian import HessianProducts

# n products are needed, and a dense Hessian of this size takes 512 MiB in float64.
LARGEST = 8_192


def dense_hessian(loss: Loss) -> Float[Tensor, "batch n n"]:
    """H of every example, n = token·dim with coordinates in the order of X.flatten(1); zero rows at padding.

    Takes n Hessian products. Raises `InputError` where n exceeds `LARGEST`.
    """
    columns = [product.flatten(1) for _, product in _columns(loss)]
    return torch.stack(columns, dim=-1)


def exact_trace(loss: Loss) -> Float[Tensor, " batch"]:
    """tr H of every example from its n diagonal entries, summed in float64."""
    total = torch.zeros(len(loss.embeddings), dtype=torch.float64, device=loss.embeddings.device)
    for i, product in _columns(loss):
        total += product.flatten(1)[:, i].double()
    return total


def _columns(loss: Loss):  # type: ignore[no-untyped-def]  # a generator of (index, H e_index)
    n = loss.embeddings[0].numel()
    if n > LARGEST:
        raise InputError(
            f"exact needs {n:,} Hessian products per batch (token × dim), more than the limit of {LARGEST:,}; "
            "use method='taylor' or 'hvp', or a shorter example"
        )
    product = HessianProducts(loss)
    v = torch.zeros_like(loss.embeddings)
    for i in track(range(n), "Hessian columns"):
        v.flatten(1)[:, i] = 1
        yield i, product(v)
        v.flatten(1)[:, i] = 0
