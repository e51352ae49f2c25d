"""What results say of themselves: a line as `repr`, and a tidy table with its unit."""

import pytest
import torch

from symnoise.core import Estimate, generator
from symnoise.curvature import CurvatureSize, SmoothedCurvature, Spectrum, TraceParts
from symnoise.training.budget import budgets


def estimate(*shape: int) -> Estimate:
    return Estimate.from_draws(torch.randn((8, *shape), generator=generator(0, *shape), dtype=torch.float64))


def smoothed(sigmas: int, batch: int) -> SmoothedCurvature:
    draws = torch.ones((sigmas, 8, batch), dtype=torch.float64)
    sizes = torch.full((sigmas, batch), 0.1, dtype=torch.float64)
    one = torch.ones(batch, dtype=torch.float64)
    return SmoothedCurvature(sizes, estimate(sigmas, batch), estimate(sigmas, batch), draws, draws, draws[0], one, one)


def budget(batches: int = 4):
    values = torch.rand((batches, 6), generator=generator(0, "budget"), dtype=torch.float64).tolist()
    names = ("odd", "even", "even_square", "along", "ratio")
    records = [
        {"gram": [1.0 + (i == j) for i in range(j + 1)], "alphas": [dict(zip(names, row, strict=False))]}
        for j, row in enumerate(values)
    ]
    return budgets([5.0], records)[0]


MANY = 500
SPECTRUM = Spectrum(torch.ones(MANY, 10), torch.zeros(MANY, 10), tuple(torch.ones(10, 2, 3) for _ in range(MANY)))
RESULTS = {
    "Estimate": estimate(MANY),
    "TraceParts": TraceParts(*(estimate(MANY) for _ in range(3))),
    "Spectrum": SPECTRUM,
    "SmoothedCurvature": smoothed(20, MANY),
    "CurvatureSize": CurvatureSize(estimate(MANY), estimate(MANY), torch.zeros(MANY, 4, 3)),
    "VarianceBudget": budget(),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_says_itself_in_a_few_words(name) -> None:
    said = repr(RESULTS[name])
    assert said.startswith(f"{name}(") and "\n" not in said and "tensor" not in said
    assert 20 < len(said) < 450
    assert "±" in said or name == "Spectrum"


def test_tables_are_tidy_and_have_their_units() -> None:
    unit = "nats per squared embedding unit"
    parts = TraceParts(*(estimate(2) for _ in range(3))).noting(method="taylor").to_frame()
    assert parts.columns.to_list() == ["example", "quantity", "value", "stderr"] and len(parts) == 6
    assert parts.query("example == 1 and quantity == 'tr G'").value.item() == float(estimate(2)[1])
    assert (parts.attrs["unit"], parts.attrs["method"]) == (unit, "taylor")
    values = torch.tensor([[3.0, 1.0], [4.0, 2.0]])
    eigenvalues = Spectrum(values, values / 100, ()).to_frame()
    assert eigenvalues.query("example == 1 and `rank` == 0").value.item() == 4 and eigenvalues.attrs["unit"] == unit
    bend = smoothed(2, 3)
    curves = bend.to_frame()
    assert len(curves) == 6 and curves.attrs["units"]["C"] == unit
    assert curves.query("example == 2").C.to_list() == bend.C.value[:, 2].tolist()
    table = budget().to_frame().set_index("quantity")
    assert table.loc["odd", "value"] == float(budget().odd) and table.attrs["alpha"] == 5
    assert (table.low <= table.value).all() and (table.value <= table.high).all()


def test_an_estimate_of_any_shape_is_a_table() -> None:
    found = estimate(2, 3)
    assert found.to_frame().loc[(1, 2), "value"] == float(found[1, 2]) and found.to_frame().attrs["count"] == 8
    assert found[0, 0].to_frame().value.to_list() == [float(found[0, 0])]
