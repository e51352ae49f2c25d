"""Scaled dot-product attention as one rule: probe by probe and in blocks of query rows, so that scores stay in cache.

s = q kᵀ · scale (+ mask),  p = softmax(s),  o = p v.  With e_k = s1_k − ⟨s1_k⟩ and p1_k = p e_k:
s1_k = q1_k k0ᵀ + q0 k1_kᵀ          s2 = q2 k0ᵀ + q0 k2ᵀ + 2 Σ q1_k k1_kᵀ
o1_k = p1_k v0 + p0 v1_k            o2 = p2 v0 + p0 v2 + 2 Σ p1_k v1_k,   p2 = p (u − ⟨u⟩),  u = s2 + Σ e_k²
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from symnoise.curvature.taylor.tensor import FUNCTIONS, Taylor, frame_of, require

# Entries of one block of scores (all heads and examples, some query rows): 2 MiB in float32, a core's cache.
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
    frame, probes = q.frame, q.frame.probes
    dtype = frame.dtype_beside(value)
    leading = q.shape[:-2]
    heads, rows, keys = leading.numel(), q.shape[-2], k.shape[-2]
    additive, last_key = _mask(mask, is_causal, leading, rows, keys, q.value)

    queries, shared_k, shared_v = _flat(q, leading, dtype, scale), _flat(k, leading, dtype), _flat(v, leading, dtype)
    q0, k0, v0 = queries(None), shared_k(None), shared_v(None)
    full_q0, full_k0 = _flat(q, leading, q.dtype, scale)(None), _flat(k, leading, k.dtype)(None)

    # Stored as (..., token, heads, dim): the model brings heads together next, which then copies nothing.
    width = value.shape[-1]
    out = torch.empty(
        q.coefficients.shape[0], *leading[:-1], rows, leading[-1], width, dtype=dtype, device=value.device
    )
    out = out.transpose(-3, -2)
    step = max(16, _BLOCK // max(1, heads * keys))
    for start in range(0, rows, step):
        here = slice(start, min(start + step, rows))
        seen = last_key(here)
        scores = torch.bmm(full_q0[:, here], full_k0[:, :seen].mT)
        if additive is not None:
            scores += additive(here, seen)
        p = torch.ops.aten._safe_softmax(scores, -1).to(dtype)  # 0 where a row sees no key at all
        q_here, k_seen, v_seen = q0[:, here], k0[:, :seen], v0[:, :seen]

        u, o2 = [], []
        for g in range(probes, probes + frame.groups):
            s2 = torch.bmm(queries(g)[:, here], k_seen.mT)
            u.append(s2.baddbmm_(q_here, shared_k(g)[:, :seen].mT))
            o2.append(torch.bmm(p, shared_v(g)[:, :seen]))
        for g, i in frame.members():
            q1, k1, v1 = queries(i)[:, here], shared_k(i)[:, :seen], shared_v(i)[:, :seen]
            e = torch.bmm(q1, k_seen.mT).baddbmm_(q_here, k1.mT)
            u[g - probes].baddbmm_(q1, k1.mT, alpha=2)
            p1 = p * e
            mean = p1.sum(-1, keepdim=True)
            p1.addcmul_(p, mean, value=-1)
            e -= mean
            u[g - probes].addcmul_(e, e)
            o1 = torch.bmm(p, v1).baddbmm_(p1, v_seen)
            out[i, ..., here, :] = o1.view(*leading, -1, width)
            o2[g - probes].baddbmm_(p1, v1, alpha=2)
        for g in range(frame.groups):
            u[g].sub_((p * u[g]).sum(-1, keepdim=True)).mul_(p)
            out[probes + g, ..., here, :] = o2[g].baddbmm_(u[g], v_seen).view(*leading, -1, width)
    return out


def _flat(x: Taylor, leading: torch.Size, dtype: torch.dtype, scale: float = 1.0) -> Callable[[int | None], Tensor]:
    """Index of a coefficient (None: the value) -> (batch · query heads, token, dim), times scale."""
    repeats = leading[-1] // x.shape[-3]

    def at(index: int | None) -> Tensor:
        one = (x.value if index is None else x.coefficients[index]).to(dtype)
        one = one * scale if scale != 1 else one
        if repeats > 1:
            one = one.repeat_interleave(repeats, -3)
        return one.expand(*leading, *one.shape[-2:]).reshape(-1, *one.shape[-2:])

    return at


def _mask(
    mask: Tensor | None, is_causal: bool, leading: torch.Size, rows: int, keys: int, like: Tensor
) -> tuple[Callable[[slice, int], Tensor] | None, Callable[[slice], int]]:
    """What is added to the scores of a block of rows, and the number of keys that the block sees."""
    if is_causal:
        mask = torch.ones(rows, keys, dtype=torch.bool, device=like.device).tril()
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
        lambda here, end: wide[..., here, :end].reshape(-1, here.stop - here.start, end),
        lambda here: int(last[here].max()),
    )
