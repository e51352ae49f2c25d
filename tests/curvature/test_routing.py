"""Where the routing of a mixture of experts changes between points that are compared, it is said."""

import re
import warnings

import pytest
import torch
from torch import Tensor

from symnoise.core import generator
from symnoise.curvature import hvp_difference, random_probes, smoothed_curvature
from symnoise.curvature.routing import told_of_rerouting
from symnoise.models import EmbeddingLoss, float64_throughout
from tests.tiny import tiny


def loss_of(name: str) -> EmbeddingLoss:
    """Two rows, one of them padded."""
    ids = torch.randint(3, 97, (2, 8), generator=generator(0, "routing"))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    return EmbeddingLoss(tiny(name, torch.float64), {"input_ids": ids, "attention_mask": mask, "labels": labels})


def shares(run) -> list[float]:
    """Those that `run` warns of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        run()
    messages = [str(warning.message) for warning in said]
    return [float(re.match(r"[\d.e-]+", message)[0]) for message in messages if "choices of experts" in message]


def chosen(loss: EmbeddingLoss, X: Tensor) -> Tensor:
    """(layer, token, expert) as bool, of the real tokens, from the routers' own logits."""
    logits = loss._run(X, output_router_logits=True).router_logits
    top = [torch.zeros_like(one).scatter(1, one.topk(2).indices, 1.0) for one in logits]
    return torch.stack(top)[:, loss.mask.flatten() != 0].bool()


@pytest.mark.parametrize("method", ["hvp", "taylor"])
def test_the_share_is_that_of_the_choices_that_differ(method):
    loss, sigma = loss_of("mixtral"), 0.1
    X, Z = loss.embeddings, random_probes(loss, 3, seed=0)
    differ = [(chosen(loss, X + s * z) != chosen(loss, X)).any(-1) for z in Z for s in (sigma, -sigma)]
    expected = float(torch.stack(differ).any(0).double().mean())
    assert 0 < expected < 0.9
    assert shares(lambda: smoothed_curvature(loss, sigma, draws=3, method=method)) == [float(f"{expected:.2g}")]


def test_nothing_is_said_where_routing_stays():
    loss = loss_of("mixtral")
    assert shares(lambda: smoothed_curvature(loss, 1e-9, draws=2)) == []
    assert shares(lambda: hvp_difference(loss, loss.embeddings)) == []
    assert shares(lambda: smoothed_curvature(loss_of("llama"), 0.3, draws=2)) == []
    assert not loss.model._forward_pre_hooks


def test_a_difference_across_a_border_is_told():
    loss = loss_of("mixtral")
    (z,) = random_probes(loss, 1, seed=0)
    here, low, high = loss.embeddings, 0.0, 0.3
    before = chosen(loss, here)
    with float64_throughout():
        for _ in range(40):
            middle = (low + high) / 2
            moved = bool((chosen(loss, here + middle * z) != before).any())
            low, high = (low, middle) if moved else (middle, high)
        loss.embeddings = here + low * z
        (share,) = shares(lambda: hvp_difference(loss, z))
    assert 0 < share < 0.1


CHOICES = {
    "topk": lambda scores: scores.topk(1).indices,
    "torch.topk": lambda scores: torch.topk(scores, 1).indices,
    "max": lambda scores: scores.max(-1).indices,
    "torch.max": lambda scores: torch.max(scores, -1, keepdim=True).indices,
    "argmax": lambda scores: scores.argmax(-1),
    "torch.argmax": lambda scores: torch.argmax(scores, -1, keepdim=True),
}


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_every_way_of_choosing_an_expert_is_watched(choose):
    """Three experts, four tokens, the last of which is padding: of three real ones the first changes its expert."""

    class Router(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = torch.nn.Module()
            self.experts.num_experts = 3

        def forward(self, scores):
            return choose(scores)

    class Routed:
        model, mask = Router(), torch.tensor([[1, 1, 1, 0]])
        embeddings, ids = torch.zeros(1, 4, 3), (0,)

        def __call__(self, X):
            raise AssertionError("only its model is called")

    scores = torch.eye(4, 3)

    def run():
        with told_of_rerouting(Routed()):
            Routed.model(scores)
            Routed.model(scores[[1, 1, 2, 0]])

    assert shares(run) == [0.33]
