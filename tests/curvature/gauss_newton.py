"""The dense Gauss-Newton matrix by its definition."""

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.models import EmbeddingLoss


def dense_gauss_newton(loss: EmbeddingLoss) -> Float[Tensor, "n n"]:
    """Jᵀ(diag p − ppᵀ)J, averaged over the scored tokens of a loss of one example."""
    J = torch.autograd.functional.jacobian(loss.logits, loss.embeddings).flatten(2)  # (scored, vocabulary, n)
    p = loss.logits(loss.embeddings).softmax(-1)
    return torch.einsum("svn,svw,swm->nm", J, torch.diag_embed(p) - p[:, :, None] * p[:, None], J) / len(p)
