"""Hutch++: the trace of a low-rank part exactly, that of the rest by Hutchinson."""

import torch

from symnoise.core import Estimate, track
from symnoise.curvature.estimators.columns import Draw, Product, apply, orthonormal
from symnoise.curvature.loss import Loss
from symnoise.curvature.operators.hessian import inner


def hutch_plus_plus(loss: Loss, product: Product, draw: Draw, count: int, first: int = 0) -> Estimate:
    """tr H = tr QᵀHQ + tr (I − QQᵀ)H(I − QQᵀ), the first part exactly, the second by Hutchinson's estimate.

    Q is an orthonormal basis of HS for ⌊count/3⌋ directions S; as many products give HQ, and the rest of `count` go to
    the deflated directions g = (I − QQᵀ)z. Given Q the g are independent, so the standard error from the spread of
    gᵀHg is as reliable as Hutchinson's own, with (their number − 1) degrees of freedom. It is 0 if Q spans all of an
    example's coordinates. (Meyer, Musco, Musco and Woodruff 2021, arXiv 2010.09649, algorithm 1.)
    """
    low = count // 3
    sketch = apply(product, draw(first, low), "Hessian products: sketch")
    basis, _ = orthonormal(loss, sketch)
    del sketch
    exact = torch.zeros(len(loss.embeddings), dtype=torch.float64, device=loss.embeddings.device)
    for q in track(list(basis), "Hessian products: low rank"):
        exact += inner(q, product(q))
    forms = []
    for k in track(range(low, count - low), "Hessian products: remainder"):
        (z,) = draw(first + k, 1)
        shares = torch.stack([inner(q, z) for q in basis]).to(z)  # Qᵀz, (low, batch)
        g = z - torch.einsum("qb,qbtd->btd", shares, basis)
        forms.append(inner(g, product(g)))
    return Estimate.from_draws(exact + torch.stack(forms), count=count)
