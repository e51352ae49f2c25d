"""What is on the axes is what was measured: read from the artists, and compared with the results' own numbers."""

import math

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import symnoise as sn
from symnoise.core import Estimate
from symnoise.curvature import TokenTraces
from symnoise.noise.sampled import sampled_moments
from symnoise.plot import results
from symnoise.training.budget import VarianceBudget
from tests.quadratic import Quadratic
from tests.tiny import tiny


@pytest.fixture(scope="module")
def loss() -> sn.EmbeddingLoss:
    ids = torch.arange(1, 19).view(3, 6)
    return sn.EmbeddingLoss(tiny("llama"), {"input_ids": ids, "labels": ids})


def bars(ax: Axes) -> np.ndarray:
    """(y, low, high) of every point with its bar, in the order drawn."""
    found = []
    for container in ax.containers:
        line, _, drawn = container
        ends = [sorted(segment[:, 1]) for segment in drawn[0].get_segments()] if drawn else [(math.nan, math.nan)]
        found += [(y, *end) for y, end in zip(line.get_ydata(), ends, strict=True)]
    return np.array(found)


def columns(data: pd.DataFrame) -> np.ndarray:
    return data[["value", "low", "high"]].to_numpy(float)


def test_trace_shows_every_part_with_its_interval(loss) -> None:
    parts = sn.trace_parts(loss, probes=16)
    ax = sn.plot.trace(parts)
    low, high = (torch.cat([p.interval()[i] for p in (parts.hessian, parts.gauss_newton, parts.rest)]) for i in (0, 1))
    value = torch.cat([p.value for p in (parts.hessian, parts.gauss_newton, parts.rest)])
    expected = torch.stack([value, low, high], 1).numpy()
    assert bars(ax) == pytest.approx(np.clip(expected, *ax.get_ylim()), rel=1e-9)
    assert np.mean(expected == np.clip(expected, *ax.get_ylim())) > 0.9  # bars that are cut are few
    assert "nats per squared embedding unit" in ax.get_ylabel()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["tr H", "tr G", "tr R"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2"]  # as in tables and JSON


def test_a_bar_of_few_probes_is_cut_and_marked() -> None:
    found = Estimate(torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.1, 0.1, 50.0]).double(), 8, 7.0)
    ax = sn.plot.trace(found)
    assert ax.get_ylim()[1] < 10  # the third bar alone would reach 121
    assert {line.get_marker() for line in ax.lines if len(line.get_xdata()) == 1} >= {"^", "v"}


def test_token_traces_are_lines_with_bands_over_probes(loss) -> None:
    """A line for each example, or one for their mean; drawn again from its table it is the same."""
    found = sn.token_traces(loss, probes=4)
    low, high = found.trace.interval()
    for result, expected in ((found, 3), (found.by_position("scored"), 1), (results.token_traces_frame(found), 3)):
        ax = sn.plot.token_traces(result)
        assert len(ax.get_legend().get_texts()) == len(ax.collections) == expected
        assert "nats per squared embedding unit" in ax.get_ylabel()
        first = ax.lines[0]
        if expected == 3:
            assert first.get_ydata() == pytest.approx(found.trace.value[0].numpy())
            edge = ax.collections[0].get_paths()[0].vertices[:, 1]
            assert (edge.min(), edge.max()) == pytest.approx((float(low[0].min()), float(high[0].max())))
        else:
            assert list(first.get_xdata()) == [*range(6)]  # token 0 predicts the first
            assert first.get_ydata() == pytest.approx(found.trace.value.mean(0).numpy())
        assert ax.figure.get_size_inches()[1] == 2.5


def test_the_table_of_token_traces_leaves_padding_out() -> None:
    forms = torch.tensor([[[1.0, 2, 0], [3, 4, 5]], [[1.0, 4, 0], [3, 4, 7]]])
    table = results.token_traces_frame(TokenTraces(forms, torch.tensor([[0, 1, -1], [0, 1, 2]])))
    expected = [[0, 0, 1], [0, 1, 3], [1, 0, 3], [1, 1, 4], [1, 2, 6]]
    assert table[["example", "position", "value"]].to_numpy().tolist() == expected
    assert (table.high - table.low > 0).to_list() == [False, True, False, False, True]


@pytest.mark.parametrize("alphas", [None, [1.0, 5.0]])
def test_smoothed_curvature_shows_both_pooled_numbers(loss, alphas) -> None:
    found = sn.smoothed_curvature(loss, [0.01, 0.05], draws=4)
    ax = results.smoothed_curvature(found, alphas=alphas)
    expected = columns(
        results.smoothed_curvature_frame(found).sort_values(["quantity", "sigma"], ascending=[False, True])
    )
    expected = np.where(np.isfinite(expected).all(1)[:, None] | [True, False, False], expected, math.nan)
    bottom, top = ax.get_ylim()
    shown = expected[(expected[:, 0] >= bottom) & (expected[:, 0] <= top)]  # the others are arrowheads
    assert len(shown) >= 2 and bars(ax) == pytest.approx(np.clip(shown, bottom, top), abs=1e-9, nan_ok=True)
    assert ax.get_xlabel() == ("σ (embedding units)" if alphas is None else "α")


def test_smoothed_curvature_of_a_quadratic_lies_at_one() -> None:
    ax = sn.plot.smoothed_curvature(sn.smoothed_curvature(Quadratic(copies=4), [0.1, 1.0], draws=4))
    assert bars(ax)[:, 0] == pytest.approx(np.ones(4))


def test_spectrum_shows_eigenvalues_and_residuals(loss) -> None:
    found = sn.spectrum(loss, k=3)
    drawn = bars(sn.plot.spectrum(found))
    assert drawn[:, 0] == pytest.approx(found.values.flatten().numpy())
    assert (drawn[:, 2] - drawn[:, 1]) / 2 == pytest.approx(found.residuals.flatten().numpy(), abs=1e-9)


def test_spectral_density_integrates_to_one_and_is_what_is_drawn(loss) -> None:
    found = sn.spectral_density(loss, steps=8, probes=2)
    data = results.spectral_density_frame(found)
    for b, line in data.groupby("example"):
        assert np.trapezoid(line.value, line.eigenvalue) == pytest.approx(1, rel=1e-2)
        assert results.spectral_density(found).lines[int(b)].get_ydata() == pytest.approx(line.value.to_numpy())


def test_moments_are_ratios_to_their_closed_forms() -> None:
    noise = sn.Noise.neftune(5.0)
    expected, found = noise.moments(16, 8), sampled_moments(noise, 16, 8, 200)
    low, high = found.mean_square_norm.interval()
    first = np.array([float(found.mean_square_norm), float(low), float(high)]) / expected.mean_square_norm
    assert bars(sn.plot.moments(expected, found))[0] == pytest.approx(first)


def test_a_moment_that_is_zero_has_no_ratio() -> None:
    noise = sn.Noise.symnoise(5.0)
    ax = sn.plot.moments(noise.moments(16, 8), sampled_moments(noise, 16, 8, 20))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["E‖ε‖²", "E‖ε‖"]


def test_layer_growth_in_percent(loss) -> None:
    found = sn.layer_growth(loss, sn.Noise.symnoise(5.0), draws=4)
    ax = sn.plot.layer_growth(found)
    for line, quantity in zip(ax.lines, (found.growth, found.displacement), strict=False):
        assert line.get_ydata() == pytest.approx(100 * quantity.value.mean(1).numpy())
    assert "%" in ax.get_ylabel() and len(ax.collections) == 2  # a band each


def test_variance_budget_shows_three_variances() -> None:
    def budget(alpha: float) -> VarianceBudget:
        one = Estimate(torch.tensor(alpha).double(), torch.tensor(0.1).double(), 8, 7.0)
        return VarianceBudget(alpha, *[one] * 9)

    found = [budget(5.0), budget(10.0)]
    ax = sn.plot.variance_budget(found)
    low, high = (float(end) for end in found[0].batch.interval())
    assert bars(ax)[0] == pytest.approx([5.0, low, high])
    assert "nats²" in ax.get_ylabel() and len(ax.containers) == 6


def test_a_table_draws_the_same_picture(loss, tmp_path) -> None:
    found = sn.smoothed_curvature(loss, [0.01, 0.05], draws=4)
    data = results.smoothed_curvature_frame(found, [1.0, 5.0])
    data.to_csv(tmp_path / "data.csv", index=False)
    again = sn.plot.smoothed_curvature(pd.read_csv(tmp_path / "data.csv"))
    assert bars(again) == pytest.approx(bars(results.smoothed_curvature(data)), nan_ok=True)


def test_axes_of_ones_own_keep_their_style(loss) -> None:
    parts = sn.trace_parts(loss, probes=4)
    with matplotlib.rc_context({"axes.labelsize": 20}):
        ax = Figure().subplots()
        assert sn.plot.trace(parts, ax=ax) is ax
    assert ax.yaxis.label.get_fontsize() != sn.plot.trace(parts).yaxis.label.get_fontsize()
    assert math.isclose(ax.yaxis.label.get_fontsize(), 20)


def test_signal_to_noise_shows_what_a_pair_cancels_and_keeps(loss) -> None:
    found = sn.smoothed_curvature(loss, [0.01, 0.05], draws=4)
    ax = sn.plot.signal_to_noise(found, alphas=[1.0, 5.0])
    sizes = [part[i].square().mean().sqrt() for part in (found.odd, found.pair) for i in (0, 1)]
    shown = bars(ax)
    plain = torch.stack(sizes).numpy()  # without the jackknife's correction
    assert (shown[:, 1] < plain).all() and (plain < shown[:, 2]).all()
    assert (shown[:, 1] < shown[:, 0]).all() and (shown[:, 0] < shown[:, 2]).all()
    data = results.signal_to_noise_frame(found).set_index("quantity").value
    small, large = data["first order"]
    assert large == pytest.approx(5 * small) and data["cancelled"].iloc[0] == pytest.approx(small, rel=0.5)
    assert "nats" in ax.get_ylabel() and ax.get_xlabel() == "α"


def test_signal_to_noise_of_a_quadratic_is_its_two_orders() -> None:
    """A quadratic's odd part is σg·z and its even part ½σ²zᵀHz, exactly."""
    found = sn.smoothed_curvature(Quadratic(copies=4), [0.1, 1.0], draws=4)
    data = results.signal_to_noise_frame(found).pivot_table(index="sigma", columns="quantity", values="value")
    assert data["kept"].to_numpy() == pytest.approx(data["second order"].to_numpy())
    assert data.ratio.to_numpy() == pytest.approx((data.cancelled / data["kept"]).to_numpy(), rel=1e-6)
    assert data.ratio[0.1] == pytest.approx(10 * data.ratio[1.0])
