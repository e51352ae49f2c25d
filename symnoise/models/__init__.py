"""Models and text: loading, chat formats, and the loss as a function of embeddings."""

from symnoise.models.borrowed import borrowed
from symnoise.models.chat import collate, encode, encode_row, usable
from symnoise.models.data import Data, Example, load_data
from symnoise.models.embedding_loss import EmbeddingLoss
from symnoise.models.loading import LoadedModel, load_model
from symnoise.models.loss import Loss
from symnoise.models.precision import float64_throughout

__all__ = [
    "Data",
    "EmbeddingLoss",
    "Example",
    "LoadedModel",
    "Loss",
    "borrowed",
    "collate",
    "encode",
    "encode_row",
    "float64_throughout",
    "load_data",
    "load_model",
    "usable",
]
