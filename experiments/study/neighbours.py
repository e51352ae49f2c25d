"""Two published methods near to a mirrored pair, each at its cost of two forward and backward passes a step.

    python -m experiments.study.neighbours STUDY.yaml  # prints the DEVIATION that goes with the study's α

R3F (Aghajanyan et al., arXiv 2008.03156) adds the divergence between predictions with and without embedding noise to
the loss. NSO (Zhang et al., arXiv 2306.08553) mirrors noise in the weights instead of in the embeddings.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Trainer

from experiments.study.base import base_model
from experiments.study.command import study_command
from experiments.study.spec import Study
from experiments.study.texts import in_batches, training_rows
from symnoise.core import generator
from symnoise.finetune.held_out import held_out_loss
from symnoise.noise import Noise
from symnoise.training import SymNoiseTrainer, attach

DEVIATION = 0.0116  # of NSO's noise: `matching_deviation` of the study neighbours


class R3FTrainer(SymNoiseTrainer):
    """Trains on ℓ(X) + KL(p(X) ‖ p(X+ε)) + KL(p(X+ε) ‖ p(X)), ε one draw of `noise`, gradients through both sides.

    Means are over the scored tokens of the optimizer step, as in the cross-entropy ℓ.
    """

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The objective of a training step; in evaluation the plain loss."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        noise = self.attached(model)
        plan = noise.plan(inputs, self._micro)
        with noise.using(replace(plan, side="none")):
            loss, clean = Trainer.compute_loss(self, model, dict(inputs), True, num_items_in_batch)
        with noise.using(plan):
            noisy = model(input_ids=inputs["input_ids"].clone(), attention_mask=inputs["attention_mask"])
        scored = inputs["labels"][:, 1:] != -100
        apart = symmetric_divergence(clean.logits[:, :-1][scored], noisy.logits[:, :-1][scored])
        return loss + apart.sum() / (scored.sum() if num_items_in_batch is None else num_items_in_batch)


def symmetric_divergence(
    one: Float[Tensor, "token vocabulary"], other: Float[Tensor, "token vocabulary"]
) -> Float[Tensor, " token"]:
    """KL(p ‖ q) + KL(q ‖ p) = Σ (p − q)(log p − log q) in nats, of the predictions behind two sets of logits."""
    p, q = (logits.float().log_softmax(-1) for logits in (one, other))
    return ((p.exp() - q.exp()) * (p - q)).sum(-1)


class WeightPairTrainer(SymNoiseTrainer):
    """Trains on ½ℓ(W+U) + ½ℓ(W−U), all entries of U independently normal with standard deviation `DEVIATION`.

    U is drawn for each micro-batch from (seed, step, micro-step), so that a resumed run draws the same.
    """

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of both sides; returns the mean of their losses."""
        step = self.state.global_step
        passes = self._micro[1] + 1 if self._micro[0] == step else 0  # of this step so far; two a micro-step
        losses = []
        for sign in (1, -1):
            random = generator(self.noise_seed, "weights", step, passes)
            with weights_shifted(model, sign * DEVIATION, random):
                losses.append(super().training_step(model, inputs, num_items_in_batch))
        return torch.stack(losses).sum()

    def compute_loss(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Half the loss in training: its gradients add up over the two sides."""
        found = super().compute_loss(model, *args, **kwargs)
        return found / 2 if model.training else found


@contextmanager
def weights_shifted(model: nn.Module, deviation: float, random: torch.Generator) -> Iterator[None]:
    """`model` with normal noise on every weight that is trained; afterwards the weights are as before, to the bit."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    kept = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                weight.add_(torch.randn(weight.shape, generator=random).to(weight), alpha=deviation)
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)


DRAWS = 8


def matching_deviation(study: Study, folder: Path) -> float:
    """The deviation at which normal noise in the weights raises the loss before training as much as the study's α.

    Of `DRAWS` draws each, Rademacher noise in the embeddings and ±U in the weights, on the training rows of seed 0.
    """
    source = base_model(study, folder)
    model = source.model
    rows = training_rows(study, 0, source.tokenizer, model)
    batches = [batch for _, batch in in_batches(rows, source.tokenizer, study.training.batch)]
    wanted = _loss_in_noise(model, batches, Noise.named("rademacher", study.alpha))
    low, high = 0.0, 1.0
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _loss_of_weights(model, batches, middle) < wanted else (low, middle)
    print(f"{high:.3g}: loss {held_out_loss(model, batches):.4f}, with noise {wanted:.4f}")
    return high


def _loss_in_noise(model: nn.Module, batches: list[dict[str, Tensor]], noise: Noise | None) -> float:
    """Mean over draws of the loss in training mode."""
    total, count = 0.0, 0
    model.train()  # noise is drawn in training mode alone; the models of studies have no dropout
    with torch.no_grad():
        for draw in range(DRAWS):
            with attach(model, noise, draw):
                for batch in batches:
                    scored = int((batch["labels"][:, 1:] != -100).sum())
                    total, count = total + scored * float(model(**batch).loss), count + scored
    return total / count


def _loss_of_weights(model: nn.Module, batches: list[dict[str, Tensor]], deviation: float) -> float:
    """Mean over draws and signs."""
    total = 0.0
    for draw in range(DRAWS):
        for sign in (1, -1):
            with weights_shifted(model, sign * deviation, generator(draw, "deviation")):
                total += held_out_loss(model, batches)
    return total / (2 * DRAWS)


if __name__ == "__main__":
    study_command(matching_deviation)()
