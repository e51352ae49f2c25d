"""Dense Hessians and exact traces, for small problems: the reference for faster methods."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from symnoise.core import InputError, track
from symnoise.curvature.loss import Loss
from symnoise.curvature.operators.hessian import HessianProducts
from symnoise.models import EmbeddingLoss

# n products are needed, and a dense Hessian of this size takes 512 MiB in float64.
LARGEST = 8_192
_TOGETHER = 8_192  # coordinates in one product, whose graph stays small: of a few it takes as long as of that many


def dense_hessian(loss: Loss) -> Float[Tensor, "batch n n"]:
    """H of every example, n = token·dim with coordinates in the order of X.flatten(1); zero rows at padding.

    Takes n Hessian products, of which short examples share passes. Raises `InputError` where n exceeds `LARGEST`.
    """
    X = loss.embeddings
    found = torch.zeros(len(X), X[0].numel(), X[0].numel(), dtype=X.dtype, device=X.device)
    for first, columns in _columns(loss):
        found[:, :, first : first + len(columns)] = columns.permute(1, 2, 0)
    return found


def exact_trace(loss: Loss) -> Float[Tensor, " batch"]:
    """tr H of every example from its n diagonal entries, summed in float64."""
    total = torch.zeros(len(loss.embeddings), dtype=torch.float64, device=loss.embeddings.device)
    for first, columns in _columns(loss):
        total += columns[:, :, first : first + len(columns)].diagonal(dim1=0, dim2=2).double().sum(-1)
    return total


def _columns(loss: Loss) -> Iterator[tuple[int, Float[Tensor, "column batch n"]]]:
    """Columns of H and the number of the first of them; those of padding on the right, which are 0, may be left out.

    Examples do not interact, so copies of an example take one column each.
    """
    batch, tokens, dim = loss.embeddings.shape
    if tokens * dim > LARGEST:
        raise InputError(
            f"exact needs {tokens * dim:,} Hessian products per batch (token × dim), more than the limit of "
            f"{LARGEST:,}; use method='taylor' or 'hvp', or a shorter example"
        )
    copies, many = 1, loss
    if isinstance(loss, EmbeddingLoss):
        copies = max(1, min(tokens * dim, _TOGETHER // loss.embeddings.numel()))
        many = loss.rows([*range(batch)] * copies)
    kept = many.embeddings.shape[1]
    product = HessianProducts(many)
    for first in track(range(0, kept * dim, copies), "Hessian columns"):
        count = min(copies, kept * dim - first)
        v = many.embeddings.new_zeros(copies, batch, kept * dim)
        v[range(count), :, range(first, first + count)] = 1
        columns = product(v.reshape(many.embeddings.shape)).reshape(copies, batch, kept, dim)[:count]
        yield first, F.pad(columns, (0, 0, 0, tokens - kept)).flatten(2)
