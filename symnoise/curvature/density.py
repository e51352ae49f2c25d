"""Spectral density of each example's Hessian by stochastic Lanczos quadrature."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from symnoise.core import Estimate, InputError, retained_heap, track
from symnoise.curvature.loss import UNIT, coordinates, random_probes, require_loss
from symnoise.curvature.operators.linear_operator import EmbeddingHessian
from symnoise.models import EmbeddingLoss

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SpectralDensity:
    """Spectral density (1/n) Σ_i δ(λ − λ_i) of every example's Hessian, as one Gauss quadrature per probe; float64.

    λ is in nats per squared embedding unit.

    Attributes:
        nodes: Ritz values θ_j, ascending.
        weights: τ_j ≥ 0 with sum 1. Σ_j τ_j f(θ_j) estimates tr f(H)/n, without bias if f is a polynomial of degree
            below 2·steps, and closely if f is smooth. A quadrature that ended early, because the probe's Krylov space
            was exhausted, is padded with nodes 0 of weight 0.
        coordinates: n = L·d of each example.
    """

    nodes: Float[Tensor, "batch probe step"] = field(repr=False)
    weights: Float[Tensor, "batch probe step"] = field(repr=False)
    coordinates: Int[Tensor, " batch"]

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per node of each example and probe: its weight; padding is left out.

        Returns:
            Columns example, probe, node and weight; `attrs` holds the unit of the nodes.
        """
        import pandas as pd

        batch, probes, steps = self.nodes.shape
        index = pd.MultiIndex.from_product([range(batch), range(probes), range(steps)], names=["example", "probe", "j"])
        columns = {"node": self.nodes.flatten().tolist(), "weight": self.weights.flatten().tolist()}
        frame = pd.DataFrame(columns, index=index).droplevel("j").reset_index()
        frame = frame[frame.weight > 0].reset_index(drop=True)
        frame.attrs = {"unit": UNIT}
        return frame

    def __repr__(self) -> str:
        batch, probes, steps = self.nodes.shape
        kept = self.nodes[self.weights > 0]
        reach = f"nodes {float(kept.min()):.4g} to {float(kept.max()):.4g}"
        mean = f"mean eigenvalue {self.moment(1).mean()}"
        return f"SpectralDensity({batch} examples, {probes} probes of {steps} steps; {reach}, {mean}; {UNIT})"

    def moment(self, power: int) -> Estimate:
        """Moment tr Hᵖ/n of every example, with its standard error over probes.

        Args:
            power: p.

        Returns:
            The moment, (batch,).

        Raises:
            InputError: For a power outside 0 … 2·steps − 1, for which the quadrature is not exact.
        """
        if not 0 <= power < 2 * self.nodes.shape[-1]:
            raise InputError(f"{self.nodes.shape[-1]} Lanczos steps give moments 0 … {2 * self.nodes.shape[-1] - 1}")
        return self._mean(self.nodes**power)

    def density(self, grid: Float[Tensor, " point"], width: float) -> Estimate:
        """Smoothed density (1/n) Σ_i N(λ; λ_i, width²) on a grid, per unit of λ.

        The quadrature cannot resolve anything narrower than the distance between nodes; choose no smaller width.

        Args:
            grid: Values of λ, (point,).
            width: Standard deviation of the Gaussian that replaces each eigenvalue.

        Returns:
            The density, (batch, point), with its standard error over probes.

        Raises:
            InputError: For width ≤ 0.
        """
        if width <= 0:
            raise InputError(f"width must be above 0; got {width}")
        at = grid.double()[:, None, None, None]
        bells = torch.exp(-0.5 * ((at - self.nodes) / width) ** 2) / (width * (2 * torch.pi) ** 0.5)
        found = self._mean(bells)
        return Estimate(found.value.T, found.stderr.T, found.count, found.dof)

    def _mean(self, f: Float[Tensor, "*shape batch probe step"]) -> Estimate:
        return Estimate.from_draws((self.weights * f).sum(-1).movedim(-1, 0))


def spectral_density(loss: EmbeddingLoss, steps: int = 64, probes: int = 4, seed: int = 0) -> SpectralDensity:
    """Spectral density of every example's Hessian by stochastic Lanczos quadrature.

    Lanczos from a Rademacher probe z gives a tridiagonal matrix. Its eigenvalues are the nodes, and its eigenvectors'
    squared first entries the weights, of a quadrature for zᵀf(H)z/n (Golub and Meurant 2010; Ubaru, Chen and Saad 2017;
    Ghorbani, Krishnan and Xiao 2019). Every vector is orthogonalised twice against all previous ones; the basis takes
    8·steps·n bytes. The probes are those of `trace` with the same seed, so n·moment(1) is its estimate.

    Args:
        loss: The model and batch.
        steps: Hessian products per probe.
        probes: Probes per example.
        seed: Random seed of the probes.

    Returns:
        One quadrature per example and probe.

    Raises:
        InputError: For steps or probes below 1.
    """
    require_loss(loss, EmbeddingLoss)
    if steps < 1 or probes < 1:
        raise InputError(f"steps and probes must be 1 or more; got {steps} and {probes}")
    shape = len(loss.ids), probes, steps
    nodes, weights = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    with retained_heap():
        for b in track(range(len(loss.ids)), "spectral densities"):
            alone = loss.example(b)
            H = EmbeddingHessian(alone)  # one graph for all probes
            for k in track(range(probes), "Lanczos runs"):
                z = random_probes(alone, 1, seed=seed, first=k)[0, 0, alone.mask[0] != 0].flatten()
                T = lanczos(H, z, min(steps, len(z)))
                values, vectors = torch.linalg.eigh(T)
                nodes[b, k, : len(values)], weights[b, k, : len(values)] = values, vectors[0] ** 2
    return SpectralDensity(nodes, weights, coordinates(loss))


def lanczos(H: Any, start: Float[Tensor, " n"], steps: int) -> Float[Tensor, "step step"]:
    """Lanczos: the tridiagonal QᵀHQ, Q an orthonormal basis of the Krylov space of `start`; may end early.

    H: an `EmbeddingHessian`, or any symmetric operator with `dtype` and `@`.
    It ends when what is left of Hq after orthogonalisation is rounding: below ε times the largest ‖Hq‖ so far, ε the
    precision of H. Products are computed in the dtype of H, everything else in float64.
    """
    Q = start.new_zeros(steps, len(start), dtype=torch.float64)
    Q[0] = start.double() / start.double().norm()
    diagonal, beside, largest = [], [], 0.0
    for j in range(steps):
        w = (H @ Q[j].to(H.dtype)).double()
        largest = max(largest, float(w.norm()))
        diagonal.append(float(w @ Q[j]))
        for _ in range(2):  # one pass leaves rounding errors of w's size, which may far exceed what is left of w
            w = w - Q[: j + 1].T @ (Q[: j + 1] @ w)
        left = float(w.norm())
        if j + 1 == steps or left <= torch.finfo(H.dtype).eps * largest:
            break
        beside.append(left)
        Q[j + 1] = w / left
    off = torch.tensor(beside, dtype=torch.float64)
    return torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
