"""Variance budget of a training step: how much of the gradient's variance comes from batches, how much from noise.

symbol   here            quantity, gradients over all trained weights
g₀       clean           gradient of the batch's mean token loss without noise
E        even            ½(g₊+g₋) − g₀, g± the gradients under ±ε
O        odd             ½(g₊−g₋)
J, K     batches, draws  independent batches; draws ε in each
"""

import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from symnoise.core import Estimate, InputError, jackknife, track
from symnoise.noise import Noise
from symnoise.training.attach import attach
from symnoise.training.coupled import without_dropout
from symnoise.training.dials import Dials, objective
from symnoise.training.target import find_target

if TYPE_CHECKING:
    import pandas as pd

UNIT = "nats² per squared weight unit"  # of squared gradients
_RATIOS = ("rho", "cosine", "shrinkage", "ratio")
Record = dict[str, Any]  # what is kept of a batch: numbers alone, as JSON


@dataclass(frozen=True)
class VarianceBudget:
    """Variance of a noisy gradient, split by source, at one α (claim G1); standard errors are over batches.

    A single draw's gradient g₀ + E ± O has variance tr Cov(g₀ + E[E | batch]) + V_even + V_odd; a pair's lacks V_odd.
    The first term is V_batch up to the effect of noise on the smoothed gradient, of relative order 2·shrinkage.

    Attributes:
        alpha: α.
        signal: ‖E g₀‖², the squared norm of the mean gradient.
        batch: V_batch = E‖g₀ − E g₀‖², the trace of the covariance of g₀ over batches.
        odd: V_odd = E‖O‖², what a mirrored pair removes from a single draw (its conditional mean is 0).
        even: V_even = E‖E − E[E | batch]‖², the variance of the even part over draws.
        even_square: E‖E‖², of which `even` is the part that averages out over draws.
        rho: ρ = V_odd/V_batch: a pair reduces the variance like a batch at most 1 + ρ times as large
            (by 1 + V_odd/(V_batch + V_even)).
        cosine: E⟨E, g₀⟩/√(E‖E‖²·E‖g₀‖²).
        shrinkage: E⟨E, g₀⟩/E‖g₀‖², over batches; −0.1 means a step of gradient descent that is smaller by a tenth along
            the batch's gradient. Optimizers that divide by the gradient's size, such as AdamW, undo such a factor.
        ratio: r, the mean over tokens of ‖ε_t‖/‖x_t‖ (claim R1).
    """

    alpha: float
    signal: Estimate
    batch: Estimate
    odd: Estimate
    even: Estimate
    even_square: Estimate
    rho: Estimate
    cosine: Estimate
    shrinkage: Estimate
    ratio: Estimate

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per quantity: value, stderr and the 95 % interval.

        Returns:
            The frame; `attrs` holds α and the number of batches.
        """
        import pandas as pd

        rows = []
        for name, estimate in self._estimates().items():
            low, high = estimate.interval()
            row = {"value": estimate.value, "stderr": estimate.stderr, "low": low, "high": high}
            rows.append({"quantity": name, **{key: float(number) for key, number in row.items()}})
        frame = pd.DataFrame(rows)
        units = {name: "1" if name in _RATIOS else UNIT for name in frame.quantity}
        frame.attrs = {"alpha": self.alpha, "batches": self.signal.count, "units": units}
        return frame

    def __repr__(self) -> str:
        said = ", ".join(f"{name} {estimate}" for name, estimate in self._estimates().items())
        return f"VarianceBudget(α = {self.alpha:g}, {self.signal.count} batches: {said}; {UNIT})"

    def _estimates(self) -> dict[str, Estimate]:
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "alpha"}


def variance_budget(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    alphas: Sequence[float],
    noise: Noise | None = None,
    draws: int = 3,
    seed: int = 0,
    kept: MutableMapping[int, Record] | None = None,
) -> list[VarianceBudget]:
    """Variance budget of a training step at each α: how much gradient variance is due to batches and to noise.

    From J batches, with the same K draws at every α. Each batch's loss is the mean over its scored tokens, as in a
    Trainer without gradient accumulation; dropout is off. Gradients are in the precision of the model, their inner
    products in float64. It takes J(1 + 2·K·alphas) forward and backward passes, and (J + 3) times the memory of the
    trained weights.

    Batches are independent, draws within a batch are not. So this is a nested design, and the batch is the unit of
    error:

    - With the Gram matrix G_jl = ⟨g_j, g_l⟩ of the batches' g₀, E G_jl = ‖E g₀‖² for j ≠ l and E‖g₀‖² for j = l. So
      signal = Σ_{j≠l} G_jl/(J(J−1)) is unbiased, where ‖mean g_j‖² would be too large by V_batch/J; and
      batch = Σ_j G_jj/J − signal.
    - odd, even_square and ⟨E, g₀⟩ are means over batches of means over draws.
    - even is the within-batch variance, the mean over batches of (Σ_k‖E_k‖² − ‖Σ_k E_k‖²/K)/(K − 1).
    - Ratios are of such means. All errors are by the jackknife, which also removes the ratios' bias of order 1/J: they
      are the means and standard errors of pseudo-values Jθ − (J−1)θ₍₋ⱼ₎, with J − 1 degrees of freedom. For a
      statistic that is a mean over batches, the pseudo-values are the batches' own.

    Args:
        model: The model, with the weights that are trained.
        batches: J ≥ 3 batches, drawn independently from the data; they are moved to the model's device.
        alphas: Noise strengths α.
        noise: The law, single or mirrored; its own α is ignored. Default calibrated Rademacher noise.
        draws: K ≥ 2 draws per batch.
        seed: Random seed of the draws.
        kept: Batch number → record, from an earlier call with the same arguments, to resume from; new records are added
            as they are ready.

    Returns:
        One budget per α.

    Raises:
        InputError: For too few batches or draws, independent pairs of draws, no trained weights, or a loss that is not
            finite.

    Examples:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from symnoise import variance_budget
        >>> sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))
        >>> rows = [torch.arange(j, j + 8)[None] for j in range(4)]
        >>> batches = [{"input_ids": ids, "labels": ids} for ids in rows]
        >>> weak, strong = variance_budget(model, batches, alphas=[0.01, 0.02], draws=2)
        >>> round(float(strong.odd.value / weak.odd.value))  # V_odd is quadratic in weak noise
        4
    """
    noise = noise or Noise.symnoise(0.0)
    _require_budget(noise, len(batches), draws)
    parameters = _trained(model)
    records: MutableMapping[int, Record] = {} if kept is None else kept
    last = max((j for j in range(len(batches)) if j not in records), default=-1)
    clean: list[Vector] = []
    noises = [replace(noise, alpha=alpha) for alpha in alphas]
    with without_dropout(find_target(model).model):
        for j in track(range(last + 1), "batches"):
            batch = {key: value.to(parameters[0].device) for key, value in batches[j].items()}
            clean.append(_gradient(model, parameters, batch))
            if j not in records:
                noisy = [_noised(model, parameters, batch, clean[j], one, draws, seed, j) for one in noises]
                records[j] = {"gram": [dot(clean[j], other) for other in clean], "alphas": noisy}
    return budgets(alphas, [records[j] for j in range(len(batches))])


def _require_budget(noise: Noise, batches: int, draws: int) -> None:
    """`InputError` for noise that dials refuse, and for too few batches or draws."""
    objective(noise, Dials())
    if batches < 3 or draws < 2:
        raise InputError(f"a variance budget needs 3 batches and 2 draws or more; got {batches} and {draws}")


def _trained(model: nn.Module) -> list[nn.Parameter]:
    """The weights that are trained; `InputError` where none is."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("the model has no weight that requires a gradient; a variance budget is one of training")
    return parameters


Vector = Sequence[Tensor]  # a gradient: one tensor per weight


def _noised(
    model: nn.Module,
    parameters: list[nn.Parameter],
    batch: Any,
    clean: Vector,
    noise: Noise,
    draws: int,
    seed: int,
    j: int,
) -> Record:
    """One batch at one α: the statistics of `nested`, and the mean ratio r."""
    ratios: list[float] = []

    def note(epsilon: Tensor, embeddings: Tensor, lengths: Tensor) -> None:
        sizes = embeddings[lengths != 0].double().norm(dim=-1)
        ratios.append(float((epsilon[lengths != 0].double().norm(dim=-1) / sizes)[sizes > 0].mean()))

    def sides() -> Iterator[tuple[Vector, Vector]]:
        for k in range(draws):
            first, second = (
                _gradient_of(handle, model, parameters, batch, (j, k), side) for side in ("first", "second")
            )
            yield first, second

    with attach(model, noise, seed, rank=0) as handle:
        handle.on_draw = note
        return nested(clean, sides()) | {"ratio": math.fsum(ratios) / len(ratios)}


def nested(clean: Vector, sides: Iterator[tuple[Vector, Vector]]) -> Record:
    """One batch: means over draws of ‖O‖², ‖E‖² and ⟨E, g₀⟩, and the variance of E over draws."""
    odd, square, along, total, count = 0.0, 0.0, 0.0, None, 0
    for first, second in sides:
        o = [(p - m) / 2 for p, m in zip(first, second, strict=True)]
        odd += dot(o, o)
        del o
        even = [(p + m) / 2 - c for p, m, c in zip(first, second, clean, strict=True)]
        square, along, count = square + dot(even, even), along + dot(even, clean), count + 1
        total = even if total is None else [t.add_(e) for t, e in zip(total, even, strict=True)]
    assert total is not None
    within = (square - dot(total, total) / count) / (count - 1)
    return {"odd": odd / count, "even_square": square / count, "along": along / count, "even": within}


def dot(one: Vector, other: Vector) -> float:
    """⟨one, other⟩, summed in float64."""
    return math.fsum(float(a.double().flatten() @ b.double().flatten()) for a, b in zip(one, other, strict=True))


def budgets(alphas: Sequence[float], records: Sequence[Record]) -> list[VarianceBudget]:
    """The estimates from the batches' records; see `variance_budget`."""
    size = len(records)
    gram = torch.zeros(size, size, dtype=torch.float64)
    for j, record in enumerate(records):
        gram[j, : j + 1] = gram[: j + 1, j] = torch.tensor(record["gram"], dtype=torch.float64)
    return [
        _budget(alpha, gram, {key: _column(records, a, key) for key in records[0]["alphas"][a]})
        for a, alpha in enumerate(alphas)
    ]


def _column(records: Sequence[Record], a: int, key: str) -> Float[Tensor, " batch"]:
    return torch.tensor([record["alphas"][a][key] for record in records], dtype=torch.float64)


def _budget(alpha: float, gram: Float[Tensor, "batch batch"], of: dict[str, Float[Tensor, " batch"]]) -> VarianceBudget:
    def signal(some: Tensor) -> Tensor:
        part = gram[some][:, some]
        return (part.sum() - part.trace()) / (len(some) * (len(some) - 1))

    def mean(key: str) -> Callable[[Tensor], Tensor]:
        return lambda some: of[key][some].mean()

    def square(some: Tensor) -> Tensor:
        return gram.diagonal()[some].mean()

    def batch(some: Tensor) -> Tensor:
        return square(some) - signal(some)

    estimated = {key: jackknife(mean(key), len(gram)) for key in ("odd", "even", "even_square", "ratio")}
    return VarianceBudget(
        alpha=alpha,
        signal=jackknife(signal, len(gram)),
        batch=jackknife(batch, len(gram)),
        rho=jackknife(lambda some: mean("odd")(some) / batch(some), len(gram)),
        cosine=jackknife(
            lambda some: mean("along")(some) / (mean("even_square")(some) * square(some)).sqrt(), len(gram)
        ),
        shrinkage=jackknife(lambda some: mean("along")(some) / square(some), len(gram)),
        **estimated,
    )


def _gradient_of(
    handle: Any, model: nn.Module, parameters: list[nn.Parameter], batch: Any, key: tuple[int, int], side: str
) -> Vector:
    with handle.using(handle.plan(batch, key, side)):
        return _gradient(model, parameters, batch)


def _gradient(model: nn.Module, parameters: list[nn.Parameter], batch: Mapping[str, Tensor]) -> Vector:
    loss = model(**batch).loss
    if not bool(torch.isfinite(loss)):
        raise InputError(f"loss is {loss.item()}; a variance budget needs a model whose losses are finite")
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, found, strict=True)]
