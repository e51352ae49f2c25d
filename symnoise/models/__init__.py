"""Models: loading, and the loss as a function of embeddings."""

from symnoise.models.borrowed import borrowed
from symnoise.models.embedding_loss import EmbeddingLoss
from symnoise.models.loading import LoadedModel, load_model
from symnoise.models.loss import Loss
from symnoise.models.precision import float64_throughout

__all__ = [
    "EmbeddingLoss",
    "LoadedModel",
    "Loss",
    "borrowed",
    "float64_throughout",
    "load_model",
]
