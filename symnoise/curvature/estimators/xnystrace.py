"""XNysTrace: the trace of a positive semidefinite matrix from its Nyström approximation, leaving out every vector.

symbol   here           shape, of one example (n = L·d)
Ω        `omega`        (n, m) test vectors
Y = GΩ   `Y`            (n, m) = QR
M = ΩᵀY  `M`            (m, m), K = M⁻¹ = `root` `root`ᵀ
ŝ_i      `s`            (r, m) RKe_i/√K_ii: removing vector i takes Q ŝ_i ŝ_iᵀ Qᵀ from the approximation
"""

from statistics import median

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Estimate
from symnoise.curvature.estimators.columns import (
    Draw,
    Product,
    apply,
    columns,
    leave_one_out_dof,
    leave_one_out_error,
)
from symnoise.curvature.loss import Loss


def xnystrace(loss: Loss, product: Product, draw: Draw, count: int, first: int = 0) -> Estimate:
    """Trace of G ⪰ 0 as the mean of m = `count` exchangeable estimates with one test vector left out of the sketch each

        t_i = tr Ĝ_(i) + ω_iᵀ(G − Ĝ_(i))ω_i,   Ĝ = GΩ(ΩᵀGΩ)⁻¹(GΩ)ᵀ, Ĝ_(i) = Ĝ without column i of Ω,

    each unbiased (Epperly, Tropp and Webber 2024, SIAM J. Matrix Anal. Appl. 45(1), arXiv 2301.07825, section 2.3,
    without their rescaling). All products serve as sketch, twice as many as in `xtrace`, which needs the others for
    its basis. The standard error is that of `columns.leave_one_out_error`. It is mostly a covariance, whose degrees of
    freedom are not m − 1: about 20 on a flat spectrum and 4 on one that falls by 0.7 per step, for m = 16. The interval
    takes them from the vectors (`columns.leave_one_out_dof`), and for a batch their median over examples.

    It beats Hutchinson's estimate, whose error falls as 1/√m, when the eigenvalues of G decay fast within the first m:
    the error is that of the eigenvalues that are left. On a flat spectrum nothing is gained, and the t_i, which share
    their vectors, may even have a larger error.
    """
    omega = draw(first, count)
    Y = apply(product, omega, "Gauss-Newton products")
    precision = count * torch.finfo(Y.dtype).eps
    values, errors, dofs = [], [], []
    for b, real in enumerate(loss.mask != 0):
        terms, without = leave_one_out(columns(omega, b, real), columns(Y, b, real), precision)
        values.append(terms.mean())
        errors.append(leave_one_out_error(terms, without))
        dofs.append(leave_one_out_dof(terms, without))
    return Estimate(torch.stack(values), torch.stack(errors), count=count, dof=median(dofs))


def leave_one_out(
    omega: Float[Tensor, "n m"], Y: Float[Tensor, "n m"], precision: float
) -> tuple[Float[Tensor, " m"], Float[Tensor, "m m"]]:
    """t_i, and t_i(j) at row i and column j (t_i on the diagonal), of `xnystrace`.

    By block inversion, with K = M⁻¹: ω_iᵀ(G − Ĝ_(i))ω_i = 1/K_ii and tr Ĝ_(i) = tr Ĝ − ‖ŝ_i‖². Without j too, K_ii
    becomes K_ii(1 − c²) with c = K_ij/√(K_ii K_jj), and the part of ŝ_j along ŝ_i in the metric of K is removed once.

    precision: eigenvalues of M below this part of the largest are rounding, and are raised to it. G of low rank leaves
    M singular; then K_ii is large, and t_i = tr Ĝ to that precision.
    """
    M = omega.T @ Y
    values, vectors = torch.linalg.eigh((M + M.T) / 2)
    least = (precision * values[-1]).clamp(min=torch.finfo(M.dtype).tiny)
    root = vectors / values.clamp(min=least).sqrt()
    E = torch.linalg.qr(Y).R @ root  # Ĝ = QE EᵀQᵀ; with YᵀY in place of R small eigenvalues would drown in rounding
    size = root.square().sum(1).rsqrt()  # 1/√K_ii
    s = (E @ root.T) * size
    gram = s.T @ s
    terms = E.square().sum() - gram.diagonal() + size.square()

    c = root @ root.T * size * size[:, None]
    rest = (1 - c * c).clamp(min=0)
    # Where c is ±1 to rounding, K is of rank 1 to rounding: M has a null vector, and t_i is exact with or without j.
    scale = torch.where(rest > 1e-14, 1 / rest, 0.0)
    removed = (gram.diagonal() - 2 * c * gram + c * c * gram.diagonal()[:, None]) * scale
    grown = size.square()[:, None] * c * c * scale  # 1/(K_ii(1 − c²)) − 1/K_ii
    change = (removed - grown).fill_diagonal_(0)
    return terms, terms[:, None] - change
