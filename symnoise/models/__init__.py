"""Models and text: loading, chat formats, and the loss as a function of embeddings."""

from symnoise.models.borrowed import borrowed
from symnoise.models.embedding_loss import EmbeddingLoss
from symnoise.models.precision import float64_throughout

__all__ = ["EmbeddingLoss", "borrowed", "float64_throughout"]
