"""The last step: from the hidden states at scored positions to cross-entropy, in blocks of tokens.

With logits z, target t, p = softmax(z) and ⟨·⟩ = Σ p · over the vocabulary, per token:
    loss1_k = ⟨z1_k⟩ − z1_k[t],   gauss_newton_k = ⟨z1_k²⟩ − ⟨z1_k⟩²,   loss2 = ⟨z2⟩ − z2[t] + Σ_k gauss_newton_k.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from symnoise.curvature.taylor.rules_linear import linear
from symnoise.curvature.taylor.tensor import Taylor
from symnoise.models import EmbeddingLoss

# Logit coefficients of one block: 64 MiB in float32. A block is one matrix product, so not much smaller.
_BLOCK = 2**24


@dataclass(frozen=True)
class TokenTerms:
    """Per scored token, float64: loss (scored,), slope and gauss_newton (K, scored), second (G, scored)."""

    loss: Tensor
    slope: Tensor
    gauss_newton: Tensor
    second: Tensor


def token_terms(loss: EmbeddingLoss, logits: Taylor) -> TokenTerms:
    """Terms of the cross-entropy of `logits` (scored, vocabulary)."""
    scored, vocabulary = logits.shape
    step = max(1, _BLOCK // (vocabulary * (logits.frame.probes + logits.frame.groups)))
    steps = _steps_from_head(logits)
    blocks = []
    for start in range(0, scored, step):
        here = slice(start, min(start + step, scored))
        block: Any = logits[here] if steps is None else _replay(*steps, here)
        blocks.append(_cross_entropy(block, loss.targets[here]))
    return TokenTerms(*(torch.cat(parts, -1) for parts in zip(*blocks, strict=True)))


def _steps_from_head(logits: Taylor) -> tuple[Taylor, list[Any]] | None:
    """The head's output (1, scored, vocabulary) and what was done to it since, if each step acts on rows alone.

    Then the coefficients of the logits are never there for all rows at once.
    """
    steps: list[Any] = []
    x = logits
    while x.made is not None:
        func, args, kwargs = x.made
        if func is linear:
            rows_second = x.ndim == 3 and x.shape[0] == 1
            return (x, steps[::-1]) if rows_second else None
        others = [a for a in (*args[1:], *kwargs.values()) if isinstance(a, Tensor) and a.ndim]
        if others or not isinstance(args[0], Taylor) or not _keeps_rows(func, args):
            return None
        steps.append((func, args[1:], kwargs))
        x = args[0]
    return None


_aten = torch.ops.aten
_ROWWISE = {_aten.mul, _aten.div, _aten.tanh, _aten._to_copy, _aten.add, _aten.neg, _aten.alias}


def _keeps_rows(func: Any, args: tuple[Any, ...]) -> bool:
    if func.overloadpacket is _aten.select:
        return args[0].ndim == 3 and tuple(args[1:]) == (0, 0)
    if func.overloadpacket is _aten.slice:
        return args[0].shape[args[1] if len(args) > 1 else 0] == len(range(*slice(*args[2:4]).indices(2**62))[: 2**31])
    return func.overloadpacket in _ROWWISE


def _replay(head: Taylor, steps: list[Any], here: slice) -> Taylor:
    _, (x, weight, _bias), _ = head.made  # type: ignore[misc]
    frame = head.frame
    value = head.value[:, here]

    def coefficients() -> Tensor:
        c = x.coefficients[:, :, here]
        return torch.nn.functional.linear(c, frame.weight(weight, c.dtype))

    block = Taylor(value, coefficients, frame)
    for func, args, kwargs in steps:
        block = func(block, *args, **kwargs)
    return block


def _cross_entropy(z: Taylor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    frame, c = z.frame, z.coefficients
    value = z.value.to(torch.promote_types(z.dtype, torch.float32))
    p = torch.softmax(value, -1)
    loss = torch.nn.functional.cross_entropy(value, targets, reduction="none")
    linear_part, bent = [], []
    for i, one in enumerate(c):
        weighted = p * one
        mean = weighted.sum(-1)
        linear_part.append(mean - one.gather(-1, targets[:, None])[:, 0])
        if i < frame.probes:
            bent.append(torch.einsum("tv,tv->t", weighted, one.to(p.dtype)) - mean * mean)
    slope, gauss_newton = torch.stack(linear_part[: frame.probes]).double(), torch.stack(bent).double()
    second = torch.stack(linear_part[frame.probes :]).double() + gauss_newton.unflatten(0, (frame.groups, -1)).sum(1)
    return loss.double(), slope, gauss_newton, second
