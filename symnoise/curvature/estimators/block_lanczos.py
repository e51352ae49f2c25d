"""Block Lanczos: extreme eigenpairs of a symmetric operator from products, with clusters and multiplicities.

Lanczos from one vector sees one vector of each eigenspace, and equal eigenvalues appear by rounding or not at all. A
block of random vectors has as many independent components in every eigenspace as its multiplicity or the block's size
allows.

symbol   here           shape
Q        `Q`            (n, m) orthonormal basis: the block Krylov space, thinned out where it grows too wide
HQ       `HQ`           (n, m)
Y, θ     `Y`, `theta`   (m, m), (m,): eigenpairs of QᵀHQ, best first
R        `R`            (n, k) HQY − QYθ of the best k: spans what the next multiplication by H would add
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.curvature.density import lanczos

# Which eigenvalues come first.
ORDERS: dict[str, Callable[[Tensor], Tensor]] = {
    "algebraic": lambda values: values,
    "magnitude": lambda values: values.abs(),
    "smallest": lambda values: -values,
}
_STEPS = 300  # products of a block; spectra of some outliers take 10 to 20, evenly spread ones 50
_ROUNDING = 30  # residuals below so many units in the last place of the largest eigenvalue are rounding


@dataclass(frozen=True)
class Eigenpairs:
    """values (k,), best first; vectors (n, k), orthonormal; residuals (k,) = ‖Hv − λv‖; steps: products of a block."""

    values: Float[Tensor, " k"]
    vectors: Float[Tensor, "n k"]
    residuals: Float[Tensor, " k"]
    steps: int


def eigenpairs(H: Any, k: int, which: str, random: torch.Generator, tolerance: float) -> Eigenpairs:
    """The k eigenpairs of H that come first in the order `which`, k < n, each as often as its multiplicity.

    H has `shape`, `dtype` and `@`, products being symmetric. Computed in the dtype of H, float32 at least, until
    ‖Hv − λv‖ ≤ tolerance·|λ|, or tolerance² of the largest |λ| for eigenvalues near 0, or until that is rounding; warns
    where it is not reached.
    A block has a third of k vectors: it sees multiplicities up to its size, and costs less than a larger one.
    What is found is held against Lanczos from a fresh random vector in the orthogonal complement, as many steps as it
    took: an eigenvalue there that should have come before the last one found starts the search again with twice the
    block.
    """
    n, block = H.shape[0], 1 + k // 3
    while True:
        found = _search(H, k, block, which, random, tolerance)
        if block >= n or not _missed(H, found, which, random, tolerance):
            return found
        block = min(2 * block, n)


def _search(H: Any, k: int, block: int, which: str, random: torch.Generator, tolerance: float) -> Eigenpairs:
    n, dtype, order = H.shape[0], torch.promote_types(H.dtype, torch.float32), ORDERS[which]
    widest, kept = 3 * k + 2 * block + 20, k + block + 5
    start = _random(n, block, random).to(H.device, dtype)
    new = _independent(start, start[:, :0])
    Q = HQ = start[:, :0]
    for step in range(1, _STEPS + 1):
        Q, HQ = torch.cat([Q, new], 1), torch.cat([HQ, (H @ new.to(H.dtype)).to(dtype)], 1)
        T = (Q.T @ HQ).double()
        theta, Y = torch.linalg.eigh((T + T.T) / 2)
        best = order(theta).argsort(descending=True)
        theta, Y = theta[best], Y[:, best].to(dtype)
        V, HV = Q @ Y[:, :k], HQ @ Y[:, :k]
        R = HV - V * theta[:k].to(dtype)
        residuals = R.double().norm(dim=0)
        least = max(tolerance**2, _ROUNDING * torch.finfo(H.dtype).eps) * theta.abs().max()
        left = residuals > (tolerance * theta[:k].abs()).clamp(min=least)
        new = _independent(R[:, left], Q)
        if Q.shape[1] >= k and not new.shape[1]:  # converged, or no more than rounding is left to add
            return Eigenpairs(theta[:k], V, residuals, step)
        if not new.shape[1]:  # an invariant space of less than k dimensions
            new = _independent(_random(n, block, random).to(Q), Q)
        if Q.shape[1] + new.shape[1] > min(widest, n):
            Q, HQ = Q @ Y[:, :kept], HQ @ Y[:, :kept]
            new = _independent(new, Q)
    warnings.warn(
        f"{int(left.sum())} of {k} eigenvalues have residuals up to {float(residuals.max()):.1g} after {step} products "
        f"of {block}: they lie close to others; raise the tolerance or ask for fewer",
        stacklevel=5,
    )
    return Eigenpairs(theta[:k], V, residuals, step)


def _random(n: int, columns: int, random: torch.Generator) -> Float[Tensor, "n columns"]:
    return torch.randn((n, columns), generator=random, dtype=torch.float64)


def _independent(W: Float[Tensor, "n b"], Q: Float[Tensor, "n m"]) -> Float[Tensor, "n c"]:
    """An orthonormal basis of what W adds to the span of Q, without directions that are rounding."""
    room = W.shape[0] - Q.shape[1]
    for _ in range(2):  # once leaves rounding of W's size
        W = W / W.norm(dim=0).clamp(min=torch.finfo(W.dtype).tiny)
        W = W - Q @ (Q.T @ W)
        W, triangle = torch.linalg.qr(W)
        W = W[:, triangle.diagonal().abs() > torch.finfo(W.dtype).eps ** 0.5][:, :room]
    return W


class _Deflated:
    """(I − VVᵀ)H(I − VVᵀ)."""

    def __init__(self, H: Any, V: Float[Tensor, "n k"]) -> None:
        self.H, self.V, self.dtype = H, V.double(), H.dtype

    def __matmul__(self, v: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self._rest((self.H @ self._rest(v.double()).to(self.dtype)).double())

    def _rest(self, v: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return v - self.V @ (self.V.T @ v)


def _missed(H: Any, found: Eigenpairs, which: str, random: torch.Generator, tolerance: float) -> bool:
    """Whether something that comes before the last of `found` is orthogonal to all of them."""
    deflated = _Deflated(H, found.vectors)
    start = deflated._rest(_random(H.shape[0], 1, random)[:, 0].to(found.vectors.device))
    values = torch.linalg.eigvalsh(lanczos(deflated, start, min(found.steps + 2, H.shape[0] - len(found.values))))
    order = ORDERS[which]
    allowed = max(tolerance, 30 * torch.finfo(H.dtype).eps) * found.values.abs().max() + found.residuals.max()
    return bool(order(values).max() > order(found.values).min() + allowed)
