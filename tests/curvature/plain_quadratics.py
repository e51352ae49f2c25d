"""The same numbers slowly and plainly: what the one pass must agree with."""

import torch
from torch import Tensor

from symnoise.curvature.taylor.engine import TaylorQuadratics
from symnoise.models import EmbeddingLoss


def plain_quadratics(loss: EmbeddingLoss, V: Tensor, *, groups: int, at: Tensor | None = None) -> TaylorQuadratics:
    """`taylor_quadratics` by reverse mode over reverse mode, probe by probe; G from Jv and the logits' softmax."""
    X = (loss.embeddings if at is None else at).detach().requires_grad_()
    value = loss(X)
    (gradient,) = torch.autograd.grad(value.sum(), X, create_graph=True)
    logits = loss.logits(X)
    p = logits.softmax(-1)
    # Jv is the derivative with respect to w of v'J'w, and that is linear in w.
    w = torch.zeros_like(logits, requires_grad=True)
    (pulled_back,) = torch.autograd.grad(logits, X, w, create_graph=True)
    curvatures, gauss_newton = [], []
    for v in V:
        (product,) = torch.autograd.grad((gradient * v).sum(), X, retain_graph=True)
        curvatures.append((product * v).sum((1, 2)).double())
        (Jv,) = torch.autograd.grad((pulled_back * v).sum(), w, retain_graph=True)
        variance = (p * Jv.square()).sum(-1) - (p * Jv).sum(-1).square()
        gauss_newton.append(loss.averages @ variance.double())
    hessian = torch.stack(curvatures).unflatten(0, (groups, -1)).mean(1)
    return TaylorQuadratics(value.detach(), hessian, torch.stack(gauss_newton).detach())
