"""Curvature token by token: the trace of each token's own block, and its mean over examples at equal position."""

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from symnoise.core import Estimate, InputError, positions, retained_heap, track, unknown
from symnoise.curvature.estimators.sampler import require_finite_forms
from symnoise.curvature.halving import Halving, padded
from symnoise.curvature.loss import UNIT, Loss, random_probes
from symnoise.curvature.operators.products import products, require_matrix
from symnoise.models import EmbeddingLoss

if TYPE_CHECKING:
    import pandas as pd

ORIGINS = ("start", "scored")


@dataclass(frozen=True)
class PositionTraces:
    """Mean of the tokens' traces over examples at equal position, in nats per squared embedding unit.

    Attributes:
        position: (position,) Rising.
        trace: (position,) Mean over the examples that have a token there; its error is over probes.
        examples: (position,) Number of these examples.
    """

    position: Int[Tensor, " position"]
    trace: Estimate
    examples: Int[Tensor, " position"]

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per position: value, stderr and examples; `attrs` holds the unit."""
        frame = self.trace.to_frame().assign(position=self.position.tolist(), examples=self.examples.tolist())
        frame.attrs["unit"] = UNIT
        return frame[["position", "value", "stderr", "examples"]]

    def __repr__(self) -> str:
        ends = f"{int(self.position[0])} to {int(self.position[-1])}"
        return f"PositionTraces(positions {ends}; {self.trace} {UNIT}{self.trace.facts('probes')})"


@dataclass(frozen=True)
class TokenTraces:
    """Trace of every token's own d × d block, tr H_tt, of every example, in nats per squared embedding unit.

    Attributes:
        forms: (probe, batch, token) z_tᵀ(Hz)_t of each probe, 0 at padding.
        position: (batch, token) Number of real tokens before each, −1 at padding.
        first_scored: (batch,) Position of the first output that is scored: for causal models, of the token before the
            first scored one. None where outputs are not along these tokens (encoder-decoder models, sequence
            classifiers, functions without outputs).
        seconds: Wall-clock time.
    """

    forms: Float[Tensor, "probe batch token"] = field(repr=False)
    position: Int[Tensor, "batch token"] = field(repr=False)
    first_scored: Int[Tensor, " batch"] | None = field(default=None, repr=False)
    seconds: float = float("nan")

    @cached_property
    def trace(self) -> Estimate:
        """tr H_tt, (batch, token), with its standard error over probes; 0 without error at padding."""
        return Estimate.from_draws(self.forms, method="hvp", seconds=self.seconds)

    @cached_property
    def total(self) -> Estimate:
        """tr H = Σ_t tr H_tt, (batch,): that of `symnoise.trace` by "hvp" on the same probes.

        Errors of tokens are correlated, so they do not add in quadrature.
        """
        return Estimate.from_draws(self.forms.sum(-1), method="hvp", seconds=self.seconds)

    def by_position(self, origin: str = "start") -> PositionTraces:
        """Mean over examples of the traces at equal position, with the error over probes for these examples.

        Examples have independent probes. For each probe number the mean over examples is taken first, then mean and
        standard error over probes, with (probes − 1) degrees of freedom. Variation between examples is not included;
        `to_frame` has each example's own values.

        Args:
            origin: Where position 0 is: "start", the first real token; or "scored", the first one whose output is
                scored (for causal models, the last token of the prompt), so that the prompt has negative positions.

        Returns:
            One entry for each position that any example has.

        Raises:
            InputError: For another origin, and for "scored" where outputs are not along the tokens.
        """
        if origin not in ORIGINS:
            raise unknown("origin", origin, ORIGINS)
        position = self.position
        if origin == "scored":
            if self.first_scored is None:
                raise InputError("no output along these tokens is scored, so position 0 is not defined; use 'start'")
            position = position - self.first_scored[:, None]
        real = self.position >= 0
        places = position[real].unique()  # sorted
        members = [real & (position == place) for place in places]
        draws = torch.stack([self.forms[:, member].mean(1) for member in members], 1)
        count = torch.stack([member.sum() for member in members])
        return PositionTraces(places, Estimate.from_draws(draws, method="hvp", seconds=self.seconds), count)

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per example and real token: its position, value and stderr.

        Returns:
            Columns example, position, value and stderr; `attrs` holds unit, count, dof and method.
        """
        frame = self.trace.to_frame().rename_axis(["example", "token"]).reset_index()
        frame["position"] = self.position.flatten().tolist()
        frame = frame[frame.position >= 0].reset_index(drop=True)
        frame.attrs["unit"] = UNIT
        return frame[["example", "position", "value", "stderr"]]

    def __repr__(self) -> str:
        batch, tokens = len(self.position), int((self.position >= 0).sum())
        said = f"{batch} examples, {tokens} tokens; sums {self.total}"
        return f"TokenTraces({said} {UNIT}{self.total.facts('probes')})"


def token_traces(loss: Loss, probes: int = 16, seed: int = 0, *, matrix: str = "hessian") -> TokenTraces:
    """Curvature of every token: the trace of its own block of the Hessian, tr H_tt = Σ_i ∂²ℓ_b/∂X_ti².

    The mean of z_tᵀ(Hz)_t over random signs z of the whole example, unbiased since E[z_s z_tᵀ] = 0 for s ≠ t. One
    product serves all tokens; its variance includes the blocks between a token and the others, Σ_{s≠t} ‖H_ts‖_F² per
    probe. Taylor mode gives only sums over tokens: it would need probes that are 0 but at one token, L times as many.
    If memory runs out, the batch is halved and retried, with a warning.

    Args:
        loss: The loss and the embeddings at which to measure.
        probes: Products per example.
        seed: Random seed of the probes, those of `trace`: with the same seed, `total` is its estimate by "hvp".
        matrix: "hessian", or "gauss_newton" for G of `gauss_newton_trace` (needs an `EmbeddingLoss`).

    Returns:
        tr H_tt, (batch, token), its sum, and its mean over examples by position.

    Raises:
        InputError: For an unknown matrix and probes < 1; for a loss that is not finite, not deterministic or not
            differentiable; and for a problem too large for memory.

    Examples:
        >>> import torch
        >>> from symnoise import token_traces
        >>> class Square:  # ℓ(x) = ½‖x₀‖² + ‖x₁‖²: H is I at the first token, 2I at the second
        ...     embeddings, mask, ids = torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.long), [0]
        ...     def __call__(self, X):
        ...         return X.square().sum(-1) @ torch.tensor([0.5, 1.0])
        >>> token_traces(Square(), probes=4).trace.value
        tensor([[3., 6.]], dtype=torch.float64)
    """
    require_matrix(loss, matrix)
    if probes < 1:
        raise InputError(f"probes must be 1 or more; got {probes}")
    started = time.perf_counter()
    with retained_heap():
        parts = Halving(loss)(lambda part: _forms(part, probes, seed, matrix))
    forms = torch.cat([padded(part, loss.embeddings.shape[1]) for part in parts], 1)
    real = loss.mask != 0
    position = torch.where(real, positions(real), -1)
    return TokenTraces(forms, position, _first_scored(loss, position), time.perf_counter() - started)


def _forms(loss: Loss, probes: int, seed: int, matrix: str) -> Float[Tensor, "probe batch token"]:
    product, forms = products(loss, matrix), []
    for k in track(range(probes), "products"):
        (z,) = random_probes(loss, 1, seed=seed, first=k)
        forms.append((z.double() * product(z).double()).sum(-1))
    stacked = torch.stack(forms)
    require_finite_forms(stacked.sum(-1))
    return stacked


def _first_scored(loss: Loss, position: Int[Tensor, "batch token"]) -> Int[Tensor, " batch"] | None:
    if not isinstance(loss, EmbeddingLoss) or loss.task in ("seq2seq", "sequence"):
        return None
    scored = torch.zeros_like(position, dtype=torch.bool)
    scored[loss.targeted.rows, loss.targeted.positions] = True
    return position.gather(1, scored.int().argmax(1, keepdim=True))[:, 0]


__all__ = ["PositionTraces", "TokenTraces", "token_traces"]
