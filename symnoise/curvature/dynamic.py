"""tr H of the same examples along a sequence of weights, from the same probes: dynamic trace estimation.

With H_0 at the start and H_j later, K probes measured at every point, and A the mean of zᵀH_0z over these and M more,
measured at the start alone,

    tr H_j − tr H_0 ≈ mean of zᵀH_jz − zᵀH_0z over the K probes,
    tr H_j          ≈ cA + mean of zᵀH_jz − c zᵀH_0z over the K probes.

The variance of both is that of a difference, small while H_j stays close to H_0: DeltaShift (Dharangutte and Musco
2021, Dynamic trace estimation), whose 1 − γ is c. There fresh probes measure both matrices, so that the earlier weights
are needed again; here the probes stay, and one measurement a point is enough.

symbol   here
K, M     `probes`, `start_probes`
A        `known`
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Estimate, InputError
from symnoise.curvature.estimators.columns import LEAST
from symnoise.curvature.estimators.sampler import Sampler
from symnoise.curvature.loss import UNIT, Loss, require_loss
from symnoise.curvature.options import Options
from symnoise.curvature.trace import measured


@dataclass(frozen=True)
class TraceChange:
    """tr H of every example at one point of a sequence, in nats per squared embedding unit.

    Attributes:
        trace: tr H, with what the start tells of it.
        change: tr H − tr H at the start, from the same probes; exactly 0 at the start.
        latest: tr H − tr H at the point before, from the same probes; exactly 0 at the start. It is not independent of
            other points' changes.
    """

    trace: Estimate
    change: Estimate
    latest: Estimate

    def __repr__(self) -> str:
        return f"TraceChange(tr H {self.trace}; change {self.change} {UNIT}{self.change.facts('probes')})"


@dataclass(frozen=True)
class _Draws:
    """zᵀHz of every example: means over equal groups of `count` probes."""

    forms: Float[Tensor, "draw batch"]
    count: int
    method: str = ""
    seconds: float = float("nan")

    @staticmethod
    def joined(parts: Sequence["_Draws"]) -> "_Draws":
        return replace(parts[0], forms=torch.cat([part.forms for part in parts], -1))

    def noting(self, **facts: Any) -> "_Draws":
        return replace(self, **facts)


def _by_taylor(sampler: Sampler, loss: Any, first: int, count: int) -> _Draws:
    return _Draws(sampler.taylor_forms(loss, first, count)[0].double().cpu(), count)


def _by_products(sampler: Sampler, loss: Loss, first: int, count: int) -> _Draws:
    return _Draws(sampler.hessian_forms(loss, first, count).double().cpu(), count)


_DRAWS = {"taylor": _by_taylor, "hvp": _by_products}


class DynamicTrace:
    """Trace of the Hessian at successive weights of one model, on the same examples with the same probes.

    The change since the start has the error of a paired difference: of the change itself, not of two traces. The trace
    has a smaller error than `symnoise.trace` with as many probes, since the start's larger sample counts as far as the
    two are correlated: its weight c is the regression coefficient pooled over examples. That is unbiased for normal
    draws (Lavenberg and Welch 1981), and the error includes that of the coefficient.

    Args:
        probes: Probes per example at every point, 4 or more. In Taylor mode, and for orthogonal directions, they are
            measured in groups; a multiple of 4 makes 4.
        start_probes: More probes per example at the start.
        seed: Random seed of the probes.
        method: "taylor", "hvp" or "auto", as in `symnoise.trace`.
        directions: As in `symnoise.trace`.

    Raises:
        InputError: For fewer than 4 probes, or fewer than `probes` at the start.

    Examples:
        >>> import torch
        >>> from symnoise import DynamicTrace
        >>> class Square:  # ℓ(x) = ½s‖x‖², so H = sI
        ...     embeddings, mask, ids = torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.long), [0]
        ...     def __init__(self, s):
        ...         self.s = s
        ...     def __call__(self, X):
        ...         return self.s * X.square().sum((1, 2)) / 2
        >>> along = DynamicTrace(probes=4, start_probes=8)
        >>> start = along.measure(Square(1.0))
        >>> along.measure(Square(1.5)).change.value
        tensor([3.], dtype=torch.float64)
    """

    def __init__(
        self,
        probes: int = 16,
        start_probes: int = 64,
        seed: int = 0,
        *,
        method: str = "auto",
        directions: str = "rademacher",
    ) -> None:
        self._options = Options(
            method, probes, seed, directions, rtol=None, atol=None, sign=False, max_probes=probes, precision="float32",
            coefficients=None,
        )  # fmt: skip
        self._options.require_valid(("auto", *_DRAWS))
        if probes < LEAST:
            raise InputError(f"probes must be {LEAST} or more, for a standard error of the change; got {probes}")
        if start_probes < probes:
            raise InputError(f"start_probes must be at least probes={probes}; got {start_probes}")
        self._start_count = start_probes // probes * probes
        self._only: Tensor | None = None  # zᵀH_0z of the probes at the start alone
        self._same: Tensor | None = None  # and of those measured at every point
        self._last: Tensor | None = None  # the latter at the point before
        self._of: Tensor | None = None  # `_fingerprint` of what was measured at the start

    def measure(self, loss: Loss) -> TraceChange:
        """The trace at the loss's present weights. The first call is the start.

        Args:
            loss: The loss and the embeddings at which to measure; always of the same examples in the same order.

        Raises:
            InputError: As in `symnoise.trace`; and for other examples, probes or method than at the start.
        """
        require_loss(loss)
        self.require_start(loss)
        options = self._options
        now = measured(loss, options, _DRAWS)
        if self._same is None:  # the start
            self._only = measured(loss, options, _DRAWS, chosen=(options.probes, self._start_count)).forms
            self._same = self._last = now.forms
            self._of = self._fingerprint(loss)
        assert self._last is not None
        if now.forms.shape != self._same.shape:  # "auto" took another method
            raise InputError(
                f"the start had {_size(self._same)}, this point has {_size(now.forms)}: measure with the same method"
            )
        facts = {"count": options.probes, "method": now.method, "seconds": now.seconds}
        changes = (Estimate.from_draws(now.forms - since, **facts) for since in (self._same, self._last))
        self._last = now.forms
        return TraceChange(self._trace(now.forms).noting(**facts), *changes)

    def state_dict(self) -> dict[str, Tensor]:
        """What was measured at the start and last, for a checkpoint; empty before the first measurement."""
        state = {"only": self._only, "same": self._same, "last": self._last, "of": self._of}
        return {name: forms for name, forms in state.items() if forms is not None}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from the start of another run's `state_dict`, made with the same options on the same examples."""
        self._only, self._same, self._last, self._of = (state.get(name) for name in ("only", "same", "last", "of"))

    def require_start(self, loss: Loss) -> None:
        """`InputError` if the start was measured on other examples, at another layer, or with other probes; a change
        from there would not be the weights' doing."""
        if self._of is not None and not torch.equal(self._of, self._fingerprint(loss)):
            raise InputError(
                "the start was measured on other examples, ids or layer, or with other probes or seed: measure the "
                "same, or begin with a new DynamicTrace"
            )

    def _fingerprint(self, loss: Loss) -> Tensor:
        """A hash of what decides the probes and the examples, as a tensor of bytes."""
        options = self._options
        told = [options.probes, self._start_count, int(options.seed), options.directions, options.method]
        told += [getattr(loss, "layer", 0), *map(int, loss.ids)]
        digest = hashlib.blake2b(repr(told).encode(), digest_size=16)
        batch = {"mask": loss.mask} | getattr(loss, "batch", {})
        for name, tensor in sorted(batch.items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.long().cpu().numpy().tobytes())
        return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)

    def _trace(self, now: Float[Tensor, "draw batch"]) -> Estimate:
        """Regression of zᵀH_jz on zᵀH_0z over the K probes, evaluated at the start's mean over all M + K.

        In the variance of least squares, σ²(1/n + (x̄ − x₀)²/Σ(x − x̄)²) for n draws x = zᵀH_0z and residual variance σ²,
        the point x₀ = `known` is an estimate itself, whose own variance c²Var(x)/(M + K) is added.
        """
        assert self._only is not None and self._same is not None
        start = torch.cat([self._same, self._only])
        known = start.mean(0)
        x, y = self._same - self._same.mean(0), now - now.mean(0)
        square = float(x.square().sum())  # over examples too: they share c
        c = float((x * y).sum()) / square if square > 0 else 1.0
        gap = self._same.mean(0) - known
        draws, batch = now.shape
        dof = draws - 1 - 1 / batch  # c takes one degree of freedom of the batch·(draws − 1) of all examples
        residual = (y - c * x).square().sum(0) / dof
        leverage = gap.square() / square if square > 0 else 0 * gap
        fitted = Estimate(now.mean(0) - c * gap, (residual * (1 / draws + leverage)).sqrt(), count=draws, dof=dof)
        return fitted + Estimate.from_draws(c * (start - known))


def _size(forms: Tensor) -> str:
    draws, batch = forms.shape
    return f"{batch} example{'s' if batch > 1 else ''} in {draws} groups of probes"
