"""Growth of embedding noise through the layers of a model."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import Estimate, InputError, generator, lengths, track
from symnoise.curvature.loss import require_loss
from symnoise.models import EmbeddingLoss
from symnoise.noise import Noise
from symnoise.norms.closed_forms import square_norm

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class LayerGrowth:
    """Growth and displacement of the hidden states under noise, per layer and example; norms are over real tokens.

    Layer 0 is the input of the first block (with positions, if the model adds them), layer l the output of block l, the
    last one after the final norm. A draw has both sides if the noise is paired, one side otherwise.

    Attributes:
        clean: (layer, batch) ‖h(X)‖²/L, mean square norm of a token without noise.
        growth: (layer, batch) E‖h(X+ε)‖²/‖h(X)‖² − 1, mean relative growth of the squared norm.
        displacement: (layer, batch) E‖h(X+ε) − h(X)‖²/‖h(X)‖², how far the states move.
        per_token: (layer, batch, token) E‖h_t(X+ε)‖² − ‖h_t(X)‖², 0 at padding.
        square_norm: (batch,) E‖X+ε‖² of the embeddings themselves, from the same draws (claim N1).
    """

    clean: Float[Tensor, "layer batch"] = field(repr=False)
    growth: Estimate
    displacement: Estimate
    per_token: Estimate
    square_norm: Estimate

    def to_frame(self) -> "pd.DataFrame":
        """A data frame with one row per layer and example: clean, and growth and displacement with standard errors.

        Returns:
            The frame; `attrs` holds units and the number of draws.
        """
        import pandas as pd

        layers, batch = self.clean.shape
        columns = {
            "layer": [layer for layer in range(layers) for _ in range(batch)],
            "example": [*range(batch)] * layers,
        }
        columns["clean"] = self.clean.flatten().tolist()
        for name, part in (("growth", self.growth), ("displacement", self.displacement)):
            columns |= {name: part.value.flatten().tolist(), f"{name}_stderr": part.stderr.flatten().tolist()}
        frame = pd.DataFrame(columns)
        units = {"clean": "embedding units²", "growth": "1", "displacement": "1"}
        frame.attrs = {"units": units, "draws": self.growth.count}
        return frame

    def __repr__(self) -> str:
        layers, batch = self.clean.shape
        ends = ", ".join(
            f"layer {layer}: growth {self.growth[layer].mean()}, displacement {self.displacement[layer].mean()}"
            for layer in (0, layers - 1)
        )
        return f"LayerGrowth({batch} examples, {self.growth.count} draws; {ends}; relative to ‖h(X)‖²)"


def layer_growth(loss: EmbeddingLoss, noise: Noise, draws: int = 8, seed: int = 0) -> LayerGrowth:
    """Norm growth and displacement of the hidden states under noise, for each layer and example.

    Args:
        loss: The model and batch.
        noise: The noise on the embeddings.
        draws: Number of draws; standard errors need two.
        seed: Random seed; draws are keyed by (seed, draw).

    Returns:
        Means over draws, with standard errors.

    Raises:
        InputError: For draws < 1, and for something that is not a loss.
    """
    require_loss(loss, EmbeddingLoss)
    if draws < 1:
        raise InputError(f"draws must be 1 or more; got {draws}")
    X, mask = loss.embeddings, loss.mask
    clean = loss.hidden_states(X).double()
    clean_norm = torch.stack([square_norm(h, mask) for h in clean])
    real = (mask != 0).double()
    growth, displacement, per_token, embedded = [], [], [], []
    for k in track(range(draws), "noise through the layers"):
        owner = generator(seed, "layer growth", k)
        sides = (
            noise.sample_pair(X, mask, generator=owner) if noise.paired else (noise.sample(X, mask, generator=owner),)
        )
        noisy = [loss.hidden_states(X + epsilon).double() for epsilon in sides]
        token = torch.stack([h.square().sum(-1) - clean.square().sum(-1) for h in noisy]).mean(0) * real
        moved = (torch.stack([(h - clean).square().sum(-1) for h in noisy]).mean(0) * real).sum(-1)
        growth.append(token.sum(-1) / clean_norm)
        displacement.append(moved / clean_norm)
        per_token.append(token)
        embedded.append(torch.stack([square_norm(X.double() + epsilon, mask) for epsilon in sides]).mean(0))
    return LayerGrowth(
        clean=clean_norm / lengths(mask),
        growth=Estimate.from_draws(torch.stack(growth)),
        displacement=Estimate.from_draws(torch.stack(displacement)),
        per_token=Estimate.from_draws(torch.stack(per_token)),
        square_norm=Estimate.from_draws(torch.stack(embedded)),
    )
