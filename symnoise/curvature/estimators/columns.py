"""What Hutch++ and XTrace share: products of many vectors, and one example's vectors as the columns of a matrix.

Both beat Hutchinson where a few eigenvalues dominate ‖H‖_F, and hold for any symmetric H. A product covers the whole
batch; the linear algebra is per example, over its real coordinates, in float64.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import track

Product = Callable[[Tensor], Tensor]
# draw(first, count): directions number first … first + count − 1, independent, (count, batch, token, dim).
Draw = Callable[[int, int], Tensor]

# Probes that both need: one column, and two draws for an error.
LEAST = 4


def apply(product: Product, V: Float[Tensor, "probe batch token dim"], what: str) -> Tensor:
    """The product with every vector of V, with a progress bar."""
    return torch.stack([product(v) for v in track(list(V), what)])


def columns(V: Float[Tensor, "probe batch token dim"], b: int, real: Tensor) -> Float[Tensor, "n probe"]:
    """The vectors of example b as columns over its real coordinates, float64."""
    return V[:, b, real].flatten(1).double().T


def as_probes(Q: Float[Tensor, "n r"], like: Tensor) -> Float[Tensor, "r length dim"]:
    """Inverse of `columns`."""
    return Q.T.reshape(Q.shape[1], -1, like.shape[-1]).to(like)
