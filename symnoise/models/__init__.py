"""Models: loading, and the loss as a function of embeddings."""

from symnoise.models.embedding_loss import EmbeddingLoss
from symnoise.models.evaluation import evaluation_mode
from symnoise.models.loading import LoadedModel, load_model
from symnoise.models.loss import Loss
from symnoise.models.precision import float64_throughout

__all__ = [
    "EmbeddingLoss",
    "LoadedModel",
    "Loss",
    "evaluation_mode",
    "float64_throughout",
    "load_model",
]
