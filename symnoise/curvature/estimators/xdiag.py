"""XDiag: the diagonal of a symmetric matrix, the part in a sketch exactly, leaving out every test vector in turn.

symbol   here           shape, of one example (n = L·d)
Ω        `omega`        (n, m) test vectors of ±1
Q, R     `Q`, `R`       (n, r), (r, m): the QR decomposition of HΩ, r = min(n, m)
Z = HQ   `Z`            (n, r)
s_i      `left_out(R)`  (r, m) QQᵀ without column i of HΩ is Q(I − s_i s_iᵀ)Qᵀ
"""

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Estimate
from symnoise.curvature.estimators.columns import Draw, Product, apply, as_probes, columns, left_out, orthonormal
from symnoise.curvature.loss import Loss


def xdiag(loss: Loss, product: Product, draw: Draw, count: int) -> Estimate:
    """Diagonal of H, (batch, token, dim), as the mean of m = ⌊count/2⌋ exchangeable estimates

        d_i = diag(Q_(i)Q_(i)ᵀH) + ω_i ∘ (I − Q_(i)Q_(i)ᵀ)Hω_i,   Q_(i) = orth(HΩ without column i),

    each unbiased for vectors ω of signs. (Epperly, Tropp and Webber 2024, arXiv 2301.07825, section 2.4.) The d_i share
    their vectors, so their spread alone is too small, as in `columns.leave_one_out_error`: the standard error of each
    entry is √(s²/m + max(0, mean over i ≠ j of (d_i − d_i(j))(d_j − d_j(i)))), d_i(j) being without vector j, with
    m − 1 degrees of freedom.
    """
    m = count // 2
    omega = draw(0, m)
    basis, R = orthonormal(loss, apply(product, omega, "products: sketch"))
    image = apply(product, basis, "products: basis")
    value = torch.zeros(loss.embeddings.shape, dtype=torch.float64, device=basis.device)
    stderr = torch.zeros_like(value)
    for b, real in enumerate(loss.mask != 0):
        r = min(m, int(real.sum()) * value.shape[-1])
        Q, Z = columns(basis[:r], b, real), columns(image[:r], b, real)
        found = leave_one_out(Q, Z, R[b, :r], columns(omega, b, real))
        value[b, real], stderr[b, real] = (as_probes(one[:, None], value)[0] for one in found)
    return Estimate(value, stderr, count=2 * m, dof=m - 1.0)


def leave_one_out(
    Q: Float[Tensor, "n r"], Z: Float[Tensor, "n r"], R: Float[Tensor, "r m"], omega: Float[Tensor, "n m"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Mean of the d_i of `xdiag`, and its standard error.

    With q_i = Qs_i, z_i = Zs_i and a_i = s_iᵀRe_i:   d_i = diag(QQᵀH) − q_i∘z_i + a_i ω_i∘q_i.
    Without j too, (q_j − c q_i)/√(1 − c²), c = s_iᵀs_j, leaves the basis as well:
    d_i − d_i(j) = (q_j − c q_i) ∘ (z_j − c z_i + a_i c ω_i)/(1 − c²).
    """
    m = omega.shape[1]
    s = left_out(R)
    q, z, a = Q @ s, Z @ s, (s * R).sum(0)
    terms = (Q * Z).sum(1, keepdim=True) - q * z + a * omega * q
    c = s.T @ s
    rest = (1 - c * c).clamp(min=0)
    scale = torch.where(rest > 1e-14, 1 / rest, 0.0)  # s_j is s_i to rounding: d_i is exact with or without j
    covariance = torch.zeros_like(terms[:, 0])
    for i in range(m - 1):
        k, others = c[i, i + 1 :], slice(i + 1, m)
        without_other = (q[:, others] - k * q[:, [i]]) * (z[:, others] - k * (z[:, [i]] - a[i] * omega[:, [i]]))
        without_this = (q[:, [i]] - k * q[:, others]) * (z[:, [i]] - k * (z[:, others] - (a * omega)[:, others]))
        covariance += (without_other * without_this * scale[i, others].square()).sum(1) * 2 / (m * (m - 1))
    return terms.mean(1), (terms.var(1) / m + covariance.clamp(min=0)).sqrt()
