"""float64 that stays float64, whatever a model casts to."""

import pytest
import torch

from symnoise.models import EmbeddingLoss, evaluation_mode, float64_throughout
from tests.tiny import tiny


@pytest.mark.parametrize("product", [torch.matmul, torch.Tensor.matmul, lambda a, b: a @ b])
def test_a_product_of_both_precisions_is_one_of_float64(product) -> None:
    """As in older releases of Transformers, where rotary angles are float64 frequencies times float32 positions."""
    one, third = torch.ones(2, 2, dtype=torch.float64) / 3, torch.arange(4.0).reshape(2, 2)
    with float64_throughout():
        found = product(one, third)
    assert found.dtype is torch.float64
    assert torch.equal(found, one @ third.double())


def test_experts_run_in_float64() -> None:
    """Where Transformers' own choice, a grouped product, raises; an `EmbeddingLoss` runs them outside the block too."""
    model = tiny("mixtral", torch.float64)
    assert model.config._experts_implementation == "grouped_mm"
    ids = torch.arange(3, 11)[None]
    with pytest.raises(RuntimeError, match="Double"):
        model(ids)
    with float64_throughout(), torch.no_grad():
        inside = model(ids, labels=ids).loss
    with evaluation_mode(model), torch.no_grad():
        assert model.config._experts_implementation == "eager"
        outside = model(ids, labels=ids).loss
    assert inside.dtype is torch.float64
    torch.testing.assert_close(inside, outside.double(), rtol=1e-6, atol=0)
    assert inside != outside  # where norms round to float32
    loss = EmbeddingLoss(model, {"input_ids": ids, "labels": ids})
    with float64_throughout():
        torch.testing.assert_close(loss(loss.embeddings)[0], inside, rtol=1e-13, atol=0)
    assert model.config._experts_implementation == "grouped_mm"


def test_experts_are_twice_differentiable_in_evaluation_mode() -> None:
    """A grouped product is, other kernels are not."""
    model = tiny("mixtral")
    with evaluation_mode(model):
        assert model.config._experts_implementation == "grouped_mm"
    model.config._experts_implementation_internal = "sonicmoe"
    with evaluation_mode(model, twice=False):
        assert model.config._experts_implementation == "sonicmoe"
    with evaluation_mode(model):
        assert model.config._experts_implementation == "eager"
    assert model.config._experts_implementation == "sonicmoe"
