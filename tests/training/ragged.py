"""Ragged data, a collator, and gradients worked out by hand: what the tests of training compare with."""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import TrainerCallback

from symnoise.core import generator
from symnoise.noise import Noise

LENGTHS = (5, 9, 3, 12, 7, 4, 10, 6)


def rows(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[dict[str, list[int]]]:
    """Random token ids; about the first third of each row is prompt."""
    random = generator(seed, "rows")
    made = []
    for length in lengths:
        ids = torch.randint(3, 97, (length,), generator=random).tolist()
        prompt = max(1, length // 3)
        made.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return made


def collate(examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Right-padded batch."""
    width = max(len(example["input_ids"]) for example in examples)

    def pad(key: str, value: int) -> torch.Tensor:
        return torch.tensor([list(e[key]) + [value] * (width - len(e[key])) for e in examples])

    mask = torch.tensor([[1] * len(e["input_ids"]) + [0] * (width - len(e["input_ids"])) for e in examples])
    return {"input_ids": pad("input_ids", 0), "attention_mask": mask, "labels": pad("labels", -100)}


def expected(model: Any, micro_batches: list[tuple[dict, tuple[int, int, int]]], noise: Noise, seed: int) -> Any:
    """Loss and gradient of one optimizer step over `micro_batches`, each (batch, (rank, step, micro-step)).

    The noise is drawn here by `Noise` itself and given to the model as inputs_embeds, so neither hooks nor doubling
    nor the Trainer's loss scaling take part.
    """
    dim, parts = model.get_input_embeddings().embedding_dim, []
    for batch, key in micro_batches:
        random, like = generator(seed, "noise", *key), torch.empty(*batch["input_ids"].shape, dim)
        if noise.paired:
            sides = noise.sample_pair(like, batch["attention_mask"], generator=random)
        else:
            sides = (noise.sample(like, batch["attention_mask"], generator=random),)
        parts.append((batch, sides))
    return mean_of_sides(model, parts)


def mean_of_sides(model: Any, parts: list[tuple[dict, tuple[torch.Tensor, ...]]]) -> Any:
    """Σ over parts, sides and scored tokens of −log p / (sides · tokens), and its gradient."""
    model.zero_grad()
    scored = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch, _ in parts)
    total = 0.0
    for batch, sides in parts:
        for epsilon in sides:
            embeddings = model.get_input_embeddings()(batch["input_ids"]) + epsilon
            logits = model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"]).logits
            targets = batch["labels"][:, 1:].flatten()
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="sum", ignore_index=-100)
            (loss / (len(sides) * scored)).backward()
            total += loss.item() / (len(sides) * scored)
    gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return total, gradient


def by_dials(
    model: Any, micro_batches: list[tuple[dict, tuple[int, int, int]]], noise: Noise, dials: Any, seed: int
) -> Any:
    """Loss, clean loss and gradient g₀ + Σ (μE + λsO) of one step, from the gradients at X, X + ε and X − ε alone."""
    scored = [int((batch["labels"][:, 1:] != -100).sum()) for batch, _ in micro_batches]
    total, clean, gradient = 0.0, 0.0, {}
    for (batch, key), share in zip(micro_batches, (count / sum(scored) for count in scored), strict=True):
        like = torch.empty(*batch["input_ids"].shape, model.get_input_embeddings().embedding_dim)
        epsilon = noise.sample(like, batch["attention_mask"], generator=generator(seed, "noise", *key))
        sign = 1 - 2 * int(torch.randint(2, (), generator=generator(seed, "dial", *key)))
        (l0, g0), (lp, gp), (lm, gm) = (mean_of_sides(model, [(batch, (t * epsilon,))]) for t in (0, 1, -1))
        clean += share * l0
        total += share * (l0 + dials.even * ((lp + lm) / 2 - l0) + dials.odd * sign * (lp - lm) / 2)
        for name, value in g0.items():
            even, odd = (gp[name] + gm[name]) / 2 - value, (gp[name] - gm[name]) / 2
            part = share * (value + dials.even * even + dials.odd * sign * odd)
            gradient[name] = gradient.get(name, 0) + part
    return total, clean, gradient


class Gradients(TrainerCallback):
    """Keeps the gradient of every optimizer step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest entry of |one − other| over the largest entry of |other|."""
    assert one.keys() == other.keys()
    assert one
    scale = max(float(value.abs().max()) for value in other.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / scale


def in_order(trainer: Any) -> Any:
    """The trainer, made to take its data as they lie."""
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(trainer.train_dataset)
    return trainer


def flattened(documents: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """One row of all documents, told apart by position_ids; first labels masked, as TRL's collator does."""
    parts = {
        "input_ids": [d["input_ids"] for d in documents],
        "labels": [[-100, *d["labels"][1:]] for d in documents],
        "position_ids": [list(range(len(d["input_ids"]))) for d in documents],
    }
    return {key: torch.tensor([[x for part in value for x in part]]) for key, value in parts.items()}


PLAIN_SGD = {
    "learning_rate": 0.1,
    "optim": "sgd",
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
