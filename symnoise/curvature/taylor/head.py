"""The last step: from the hidden states at scored positions to cross-entropy, in blocks of tokens.

With logits z, target t, p = softmax(z) and ⟨·⟩ = Σ p · over the vocabulary, per token:
    gauss_newton_k = ⟨z1_k²⟩ − ⟨z1_k⟩²,   loss2 = ⟨z2⟩ − z2[t] + Σ_k gauss_newton_k.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from symnoise.curvature.taylor.rules.linear import linear, stacked_linear
from symnoise.curvature.taylor.tensor import Frame, Taylor, even_cuts
from symnoise.models import EmbeddingLoss

# Logit coefficients of one block: 64 MiB in float32. A block is one matrix product, so not much smaller.
_BLOCK = 2**24


_Terms = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class TokenTerms:
    """Per scored token, float64: loss (scored,), gauss_newton (K, scored), second (G, scored)."""

    loss: Tensor
    gauss_newton: Tensor
    second: Tensor


def token_terms(loss: EmbeddingLoss, logits: Taylor) -> TokenTerms:
    """Terms of the cross-entropy of `logits` (scored, vocabulary)."""
    scored, vocabulary = logits.shape
    step = max(1, _BLOCK // (vocabulary * logits.frame.total))
    steps = _steps_from_head(logits)
    blocks = []
    for here in even_cuts(0, scored, step):
        targets = loss.targets[here]
        if steps is None:
            blocks.append(_cross_entropy(logits.value[here], logits.coefficients[:, here], targets, logits.frame))
        elif all(func.overloadpacket in _IDENTITIES for func, _, _ in steps[1]):
            blocks.append(_linear_cross_entropy(logits.value[here], steps[0], here, targets))
        else:
            block = _replay(*steps, here)
            blocks.append(_cross_entropy(block.value, block.coefficients, targets, logits.frame))
    return TokenTerms(*(torch.cat(parts, -1) for parts in zip(*blocks, strict=True)))


def _steps_from_head(logits: Taylor) -> tuple[Taylor, list[Any]] | None:
    """The head's output (1, scored, vocabulary) and the later steps, if each acts on rows independently.

    Then the coefficients of the logits are never held for all rows at once.
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
_IDENTITIES = {_aten._to_copy, _aten.alias, _aten.select, _aten.slice}  # the last two of the whole only, see below
_ROWWISE = {_aten.mul, _aten.div, _aten.tanh, _aten._to_copy, _aten.add, _aten.neg, _aten.alias}


def _keeps_rows(func: Any, args: tuple[Any, ...]) -> bool:
    if func.overloadpacket is _aten.select:
        return args[0].ndim == 3 and tuple(args[1:]) == (0, 0)
    if func.overloadpacket is _aten.slice:
        return args[0].shape[args[1] if len(args) > 1 else 0] == len(range(*slice(*args[2:4]).indices(2**62))[: 2**31])
    return func.overloadpacket in _ROWWISE


def _replay(head: Taylor, steps: list[Any], here: slice) -> Taylor:
    block = Taylor(head.value[:, here], lambda: _through_head(head, slice(None), here), head.frame)
    for func, args, kwargs in steps:
        block = func(block, *args, **kwargs)
    return block


def _through_head(head: Taylor, which: slice, here: slice) -> Tensor:
    """Coefficients `which` (…, 1, block, vocabulary) of the head's output at rows `here`."""
    _, (x, weight, _bias), _ = head.made  # type: ignore[misc]
    c = x.coefficients[which, :, here]
    return stacked_linear(c, head.frame.weight(weight, c.dtype))


def _linear_cross_entropy(value: Tensor, head: Taylor, here: slice, targets: Tensor) -> _Terms:
    """Logits that are the head's output itself: second-order coefficients need not become logits.

    They enter as Σ_v (p − e_t)_v (W h2)_v = ((p − e_t) W)·h2.
    """
    _, (x, weight, _bias), _ = head.made  # type: ignore[misc]
    frame = head.frame
    first = _through_head(head, slice(0, frame.probes), here)[:, 0]

    def second(gradient: Tensor) -> Tensor:
        h2 = x.coefficients[frame.probes :, 0, here]
        return ((gradient.to(weight.dtype) @ weight) * h2).sum(-1)

    return _terms(value, first, second, targets, frame)


def _cross_entropy(value: Tensor, c: Tensor, targets: Tensor, frame: Frame) -> _Terms:
    def second(gradient: Tensor) -> Tensor:
        return torch.stack([(gradient * one).sum(-1) for one in c[frame.probes :]])

    return _terms(value, c[: frame.probes], second, targets, frame)


def _terms(value: Tensor, first: Tensor, second: Callable[[Tensor], Tensor], targets: Tensor, frame: Frame) -> _Terms:
    """second: p − e_t (token, vocabulary) -> its inner products with z2, (G, token)."""
    value = value.to(torch.promote_types(value.dtype, torch.float32))
    p = torch.softmax(value, -1)
    loss = F.cross_entropy(value, targets, reduction="none")
    gauss_newton = []
    for one in first:
        one = one.to(p.dtype)
        weighted = p * one
        mean = weighted.sum(-1)
        # Centred first: ⟨z1²⟩ − ⟨z1⟩² cancels where a direction moves all logits alike.
        torch.sub(one, mean[:, None], out=weighted)
        gauss_newton.append(weighted.square_().mul_(p).sum(-1))
    variances = torch.stack(gauss_newton).double()
    gradient = p.scatter_add_(-1, targets[:, None], -torch.ones_like(p[:, :1]))
    bent = second(gradient).double() + variances.unflatten(0, (frame.groups, -1)).sum(1)
    return loss.double(), variances, bent
