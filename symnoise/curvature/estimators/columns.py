"""What Hutch++ and the leave-one-out estimators share: products of many vectors, and one example's as matrix columns.

All beat Hutchinson where a few eigenvalues dominate ‖H‖_F. They hold for any symmetric H, XNysTrace for H ⪰ 0. A
product covers the whole batch; the linear algebra is per example, over its real coordinates, in float64.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import track
from symnoise.curvature.loss import Loss

Product = Callable[[Tensor], Tensor]
# draw(first, count): directions number first … first + count − 1, independent, (count, batch, token, dim).
Draw = Callable[[int, int], Tensor]

# Probes that each needs: one column, and two draws for an error.
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


def orthonormal(
    loss: Loss, Y: Float[Tensor, "m batch token dim"]
) -> tuple[Float[Tensor, "m batch token dim"], Float[Tensor, "batch m m"]]:
    """The QR decomposition Y = QR of each example's vectors: Q as probes, and R in float64.

    An example of n < m coordinates has n vectors in Q; the others, and their rows of R, are 0.
    """
    basis = torch.zeros_like(Y)
    R = torch.zeros((len(loss.embeddings), len(Y), len(Y)), dtype=torch.float64, device=Y.device)
    for b, real in enumerate(loss.mask != 0):
        Q, R_b = torch.linalg.qr(columns(Y, b, real))
        basis[: Q.shape[1], b, real] = as_probes(Q, Y)
        R[b, : len(R_b)] = R_b
    return basis, R


def left_out(R: Float[Tensor, "r m"]) -> Float[Tensor, "r m"]:
    """s_i, the unit vector orthogonal to all columns of R but the i-th; 0 with more columns than rows.

    For Y = QR, QQᵀ without column i of Y is Q(I − s_i s_iᵀ)Qᵀ. From a QR decomposition without column i, O(m⁴) in all,
    where Epperly, Tropp and Webber take the i-th column of R⁻ᵀ: a low-rank H leaves R singular.
    """
    r, m = R.shape
    if m > r:
        return torch.zeros_like(R)
    others = torch.stack([torch.cat([R[:, :i], R[:, i + 1 :]], 1) for i in range(m)])
    return torch.linalg.qr(others, mode="complete").Q[:, :, -1].T


def leave_one_out_error(terms: Float[Tensor, " m"], without: Float[Tensor, "m m"]) -> Float[Tensor, ""]:
    """Standard error of the mean of t_i, which share their test vectors; t_i(j), row i, is t_i without vector j.

    The spread of the t_i alone is too small (`xtrace.xtrace`). E[t_i | all but vector i] is the trace, hence
    cov(t_i, t_j) = E (t_i − t_i(j))(t_j − t_j(i)). Here √(s²/m + max(0, mean over i ≠ j of these products)), s² the
    sample variance of the t_i.
    """
    m = len(terms)
    change = terms[:, None] - without
    covariance = (change * change.T).sum() / (m * (m - 1))  # 0 on the diagonal
    return (terms.var() / m + covariance.clamp(min=0)).sqrt()


def leave_one_out_dof(terms: Float[Tensor, " m"], without: Float[Tensor, "m m"]) -> float:
    """Degrees of freedom of `leave_one_out_error`: Satterthwaite's 2σ⁴/var σ̂², at least 1.

    σ̂² is a mean over the vectors i and over their pairs. Its variance is that of the mean of
    ψ_i = (t_i − t̄)²/(m − 1) + 2 · mean over j ≠ i of (t_i − t_i(j))(t_j − t_j(i)), the part that each vector has in it
    (Hájek's projection). m − 1 if the error is 0.
    """
    m = len(terms)
    change = terms[:, None] - without
    psi = (terms - terms.mean()).square() / (m - 1) + 2 * (change * change.T).sum(1) / (m - 1)
    dof = 2 * m * leave_one_out_error(terms, without) ** 4 / psi.var()
    return max(1.0, float(dof.nan_to_num(m - 1.0)))
