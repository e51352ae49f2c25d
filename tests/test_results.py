"""What results say of themselves: a line as `repr`, and a tidy table with its unit."""

import pytest
import torch

from symnoise.core import Estimate, generator
from symnoise.curvature import (
    CurvatureSize,
    SmoothedCurvature,
    SpectralDensity,
    Spectrum,
    TokenTraces,
    TraceParts,
)
from symnoise.noise import Noise, realised_moments
from symnoise.noise.sampled import sampled_moments
from symnoise.norms import LayerGrowth, RadialIdentity, expected_square_norm
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


def density(batch: int) -> SpectralDensity:
    nodes = torch.linspace(-1, 3, 4, dtype=torch.float64) * torch.tensor([[1.0], [1.5]]).expand(batch, 2, 1)
    weights = torch.tensor([0.25, 0.25, 0.5, 0.0], dtype=torch.float64).expand(batch, 2, 4)
    return SpectralDensity(nodes, weights, torch.full((batch,), 12))


def growth(layers: int, batch: int) -> LayerGrowth:
    clean = torch.ones(layers, batch, dtype=torch.float64)
    return LayerGrowth(
        clean, estimate(layers, batch), estimate(layers, batch), estimate(layers, batch, 2), estimate(batch)
    )


MANY = 500
SPECTRUM = Spectrum(torch.ones(MANY, 10), torch.zeros(MANY, 10), tuple(torch.ones(10, 2, 3) for _ in range(MANY)))
TOKENS = TokenTraces(torch.arange(3.0)[:, None, None].expand(3, MANY, 4), torch.tensor([0, 1, 2, -1]).repeat(MANY, 1))
RESULTS = {
    "Estimate": estimate(MANY),
    "TraceParts": TraceParts(*(estimate(MANY) for _ in range(3))),
    "TokenTraces": TOKENS,
    "PositionTraces": TOKENS.by_position(),
    "Spectrum": SPECTRUM,
    "SmoothedCurvature": smoothed(20, MANY),
    "CurvatureSize": CurvatureSize(*(estimate(MANY) for _ in range(3)), torch.zeros(MANY, 4, 3)),
    "VarianceBudget": budget(),
    "SpectralDensity": density(MANY),
    "Moments": Noise.neftune(5.0).moments(16, 8),
    "SampledMoments": sampled_moments(Noise.neftune(5.0), 16, 8, 100),
    "RealisedMoments": realised_moments(torch.ones(MANY, 4, 3), torch.ones(MANY, 4, dtype=torch.long)),
    "LayerGrowth": growth(31, MANY),
    "RadialIdentity": RadialIdentity(*(estimate(MANY) for _ in range(3))),
    "SquareNorm": expected_square_norm(
        torch.ones(MANY, 4, 3), torch.ones(MANY, 4, dtype=torch.long), Noise.neftune(5.0)
    ),
}
WITHOUT_ERROR = ("Spectrum", "Moments", "RealisedMoments", "SquareNorm")  # closed forms, or errors of another kind


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_says_itself_in_a_few_words(name) -> None:
    said = repr(RESULTS[name])
    assert said.startswith(f"{name}(") and "\n" not in said and "tensor" not in said
    assert 20 < len(said) < 450
    assert "±" in said or name in WITHOUT_ERROR
    assert "unit" in said or "relative to" in said or name == "Estimate"  # an estimate may be of anything


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_is_a_table(name) -> None:
    frame = RESULTS[name].to_frame()
    assert len(frame) and not any(isinstance(value, torch.Tensor) for value in frame.iloc[0])
    assert {"unit", "units"} & set(frame.attrs) or name == "Estimate"


def test_a_repr_says_by_what_and_how_long() -> None:
    parts = TraceParts(*(estimate(2) for _ in range(3))).noting(method="taylor", seconds=2.345)
    assert repr(parts).endswith("nats per squared embedding unit; taylor; 8 probes; 2.3 s)")
    assert repr(estimate(2).noting(method="hvp", seconds=0.04)).endswith("; hvp; 8 draws; 0.0 s)")


def test_tables_of_other_results_have_their_numbers() -> None:
    nodes = density(3).to_frame()
    assert len(nodes) == 3 * 2 * 3 and nodes.groupby(["example", "probe"]).weight.sum().to_list() == [1.0] * 6
    found = growth(2, 3)
    layers = found.to_frame()
    assert layers.query("layer == 1 and example == 2").growth.item() == float(found.growth[1, 2])
    assert layers.query("layer == 1").displacement_stderr.to_list() == found.displacement.stderr[1].tolist()
    sampled = RESULTS["SampledMoments"]
    table = sampled.to_frame().set_index("quantity")
    assert table.loc["var_square_norm", "stderr"] == float(sampled.var_square_norm.stderr)
    assert table.attrs["units"]["mean_norm"] == "embedding units"
    assert RESULTS["Moments"].to_frame().set_index("quantity").value["kurtosis"] == RESULTS["Moments"].kurtosis
    radial = RadialIdentity(*(estimate(2) for _ in range(3))).to_frame()
    assert radial["quantity"].unique().tolist() == ["tr H", "⟨X, ∇ tr H⟩", "⟨X, ∇ tr H⟩ + 2 tr H"]
    assert budget().to_frame().attrs["units"] | {"rho": "1"} == budget().to_frame().attrs["units"]


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


def test_tables_of_tokens_leave_padding_out() -> None:
    """Two draws of two rows, the second padded on the left."""
    forms = torch.tensor([[[1.0, 2.0], [0.0, 4.0]], [[3.0, 2.0], [0.0, 8.0]]])
    found = TokenTraces(forms, torch.tensor([[0, 1], [-1, 0]]))
    table = found.to_frame()
    assert table.columns.to_list() == ["example", "position", "value", "stderr"]
    assert table.to_numpy().tolist() == [[0, 0, 2, 1], [0, 1, 2, 0], [1, 0, 6, 2]]
    by_position = found.by_position().to_frame()
    # At 0 the mean of two examples: draws 2.5 and 5.5.
    assert by_position.to_numpy() == pytest.approx(torch.tensor([[0, 4, 1.5, 2], [1, 2, 0, 1]]).numpy())
    assert by_position.columns.to_list() == ["position", "value", "stderr", "examples"]


def test_an_estimate_of_any_shape_is_a_table() -> None:
    found = estimate(2, 3)
    assert found.to_frame().loc[(1, 2), "value"] == float(found[1, 2]) and found.to_frame().attrs["count"] == 8
    assert found[0, 0].to_frame().value.to_list() == [float(found[0, 0])]
