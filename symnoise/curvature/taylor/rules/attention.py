"""Scaled dot-product attention as one rule, probe by probe and in blocks of query rows, so that scores stay in cache.

s = q kᵀ · scale (+ mask),  p = softmax(s),  o = p v.  With e_k = s1_k − ⟨s1_k⟩ and p1_k = p e_k:
s1_k = q1_k k0ᵀ + q0 k1_kᵀ          s2 = q2 k0ᵀ + q0 k2ᵀ + 2 Σ q1_k k1_kᵀ
o1_k = p1_k v0 + p0 v1_k            o2 = p2 v0 + p0 v2 + 2 Σ p1_k v1_k,   p2 = p (u − ⟨u⟩),  u = s2 + Σ e_k²
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from symnoise.curvature.taylor.tensor import FUNCTIONS, Taylor, even_cuts, frame_of, require

# Entries of one block of scores (all heads and examples, some query rows): 2 MiB in float32, one core's cache.
_BLOCK = 2**19


def attention(
    q: Any,
    k: Any,
    v: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Taylor:
    """`F.scaled_dot_product_attention` of (batch, heads, token, dim) or (heads, token, dim) tensors."""
    name = "scaled_dot_product_attention"
    require(dropout_p == 0, f"{name} with dropout")
    require(not isinstance(attn_mask, Taylor), f"{name} with a mask that depends on the embeddings")
    frame = frame_of(q, k, v)
    q, k, v = (x if isinstance(x, Taylor) else frame.constant(x) for x in (q, k, v))
    value = F.scaled_dot_product_attention(
        q.value, k.value, v.value, attn_mask, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa
    )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return Taylor(value, _attention(q, k, v, value, attn_mask, is_causal, scale), frame)


FUNCTIONS[F.scaled_dot_product_attention] = attention


def _attention(q: Taylor, k: Taylor, v: Taylor, value: Tensor, mask: Any, is_causal: bool, scale: float) -> Tensor:
    frame, probes, dtype = q.frame, q.frame.probes, q.frame.dtype_beside(value)
    leading, rows, keys = q.shape[:-2], q.shape[-2], k.shape[-2]
    additive, last_key = _mask(mask, is_causal, leading, rows, keys, q.value)
    queries, shared_k, shared_v = _Heads(q, k, dtype), _Heads(k, k, dtype), _Heads(v, k, dtype)

    # Stored as (..., token, heads, dim): the model brings heads together next, which then copies nothing.
    out = torch.empty(
        frame.total, *leading[:-1], rows, leading[-1], value.shape[-1], dtype=dtype, device=value.device
    ).transpose(-3, -2)
    for here in even_cuts(0, rows, max(16, _BLOCK // max(1, leading.numel() * keys))):
        end = last_key(here)
        seen = slice(0, end)
        scores = queries.value(here) @ (k0 := shared_k.value(seen)).mT * scale
        if additive is not None:
            scores += queries.fold(additive(here, end))
        blind = scores.isneginf().all(-1, keepdim=True)  # rows that see no key
        p = torch.softmax(scores, -1).masked_fill_(blind, 0).to(dtype)
        # s1 = q1 (scale k0)ᵀ + (scale q0) k1ᵀ: no coefficient needs to be scaled.
        q0, k0, v0 = (queries.value(here) * scale).to(dtype), (k0 * scale).to(dtype), shared_v.value(seen).to(dtype)

        u, o2 = [], []
        for g in range(probes, frame.total):
            u.append(torch.bmm(queries(g, here), k0.mT).baddbmm_(q0, shared_k(g, seen).mT))
            o2.append(torch.bmm(p, shared_v(g, seen)))
        for g, i in frame.members():
            q1, k1, v1 = queries(i, here), shared_k(i, seen), shared_v(i, seen)
            e = torch.bmm(q1, k0.mT).baddbmm_(q0, k1.mT)
            u[g - probes].baddbmm_(q1, k1.mT, alpha=2 * scale)
            p1 = p * e
            mean = p1.sum(-1, keepdim=True)
            p1.addcmul_(p, mean, value=-1)
            e -= mean
            u[g - probes].addcmul_(e, e)
            out[i, ..., here, :] = queries.unfold(torch.bmm(p, v1).baddbmm_(p1, v0))
            o2[g - probes].baddbmm_(p1, v1, alpha=2)
        for g in range(frame.groups):
            u[g].sub_((p * u[g]).sum(-1, keepdim=True)).mul_(p)
            out[probes + g, ..., here, :] = queries.unfold(o2[g].baddbmm_(u[g], v0))
    return out


class _Heads:
    """(..., heads, token, dim) as a batch of matrices, one per key head; queries of one key head are stacked."""

    def __init__(self, x: Taylor, keys: Taylor, dtype: torch.dtype) -> None:
        self.x, self.dtype = x, dtype
        self.leading = (*x.shape[:-3], keys.shape[-3], x.shape[-3] // keys.shape[-3])

    def value(self, tokens: slice) -> Tensor:
        return self.fold(self.x.value[..., tokens, :])

    def __call__(self, index: int, tokens: slice) -> Tensor:
        return self.fold(self.x.coefficients[index][..., tokens, :]).to(self.dtype)

    def fold(self, x: Tensor) -> Tensor:
        return x.reshape(-1, self.leading[-1] * x.shape[-2], x.shape[-1])

    def unfold(self, x: Tensor) -> Tensor:
        return x.view(*self.leading, -1, x.shape[-1]).flatten(-4, -3)


def _mask(
    mask: Tensor | None, is_causal: bool, leading: torch.Size, rows: int, keys: int, like: Tensor
) -> tuple[Callable[[slice, int], Tensor] | None, Callable[[slice], int]]:
    """What is added to the scores of a block of rows, and the number of keys that the block sees."""
    if is_causal:  # row i sees keys 0 … i: known without a look at the mask, for which a GPU would be waited for
        hidden = torch.ones(rows, keys, dtype=torch.bool, device=like.device).triu_(1)
        causal = torch.zeros(rows, keys, dtype=like.dtype, device=like.device).masked_fill_(hidden, -torch.inf)
        return lambda here, end: causal[here, :end].expand(*leading, -1, end), lambda here: min(here.stop, keys)
    if mask is None:
        return None, lambda here: keys
    if mask.dtype is torch.bool:
        allowed = mask
        mask = torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(~mask, -torch.inf)
    else:
        allowed = mask > torch.finfo(mask.dtype).min / 2
    # A row that sees nothing spreads over all keys when its mask is finite: such rows count every key.
    seen = allowed | ~allowed.any(-1, keepdim=True)
    last = torch.where(seen, torch.arange(1, keys + 1, device=like.device), 0).amax(-1)
    last = last.reshape(-1, last.shape[-1]).amax(0).expand(rows)
    wide = mask.expand(*leading, rows, keys)
    return (
        lambda here, end: wide[..., here, :end],
        lambda here: int(last[here].max()),
    )
