"""float64 that stays float64, whatever a model casts to."""

import pytest
import torch

from symnoise.models import float64_throughout


@pytest.mark.parametrize("product", [torch.matmul, torch.Tensor.matmul, lambda a, b: a @ b])
def test_a_product_of_both_precisions_is_one_of_float64(product) -> None:
    """As in older releases of Transformers, where rotary angles are float64 frequencies times float32 positions."""
    one, third = torch.ones(2, 2, dtype=torch.float64) / 3, torch.arange(4.0).reshape(2, 2)
    with float64_throughout():
        found = product(one, third)
    assert found.dtype is torch.float64
    assert torch.equal(found, one @ third.double())
