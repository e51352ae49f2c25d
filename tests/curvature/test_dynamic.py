"""The trace along a sequence of weights: exact on average, with errors that are those of the change."""

import pytest
import torch

from symnoise.core import Estimate, InputError, generator
from symnoise.curvature import DynamicTrace, dynamic, trace
from symnoise.models import EmbeddingLoss
from tests.quadratic import Quadratic
from tests.text import batch, loss_of
from tests.tiny import tiny

COPIES = 400


def moved(copies: int, far: float) -> Quadratic:
    """Another Hessian, `far` of the way to an unrelated one."""
    loss = Quadratic(copies)
    other = torch.randn((12, 12), generator=generator(1, "B"), dtype=torch.float64)
    loss.A = (1 - far) * loss.A + far * (other + other.T)
    return loss


def coverage(estimate: Estimate, truth: float) -> float:
    low, high = estimate.interval()
    return float(((low <= truth) & (truth <= high)).double().mean())


def test_intervals_cover() -> None:
    """Every example of a batch has probes of its own: 400 repetitions."""
    along, loss = DynamicTrace(probes=16, start_probes=16, method="hvp"), moved(COPIES, 0.3)
    along.measure(Quadratic(COPIES))
    found = along.measure(loss)
    truth = float(loss.A.trace())
    assert 0.93 <= coverage(found.change, truth - float(Quadratic().A.trace())) <= 0.97
    assert 0.93 <= coverage(found.trace, truth) <= 0.97
    for estimate in (found.trace, found.change):
        stated = float(estimate.stderr.square().mean().sqrt())
        assert float(estimate.value.std()) == pytest.approx(stated, rel=0.15)  # 4 standard errors of a spread of 400


@pytest.mark.parametrize(("draws", "more", "correlation"), [(4, 16, 0.0), (4, 4, 0.9), (16, 16, 0.5)])
def test_intervals_cover_where_the_weight_is_fitted_to_few_draws(
    draws: int, more: int, correlation: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One example, whose few draws the weight is fitted to; normal ones, of mean 0."""
    random, covered = generator(0, "draws"), []
    monkeypatch.setattr(dynamic, "measured", lambda *_, **__: dynamic._Draws(forms.pop(0), draws))
    for _ in range(COPIES):
        same, other, only = (torch.randn((n, 1), generator=random).double() for n in (draws, draws, more))
        forms = [same, only, correlation * same + (1 - correlation**2) ** 0.5 * other]
        along = DynamicTrace(draws, more)
        along.measure(Quadratic())
        covered.append(coverage(along.measure(Quadratic()).trace, 0.0))
    assert 0.93 <= sum(covered) / COPIES <= 0.97


def test_near_the_start_few_probes_are_enough_and_far_from_it_it_does_no_harm() -> None:
    along = DynamicTrace(probes=8, start_probes=32, method="hvp")
    along.measure(Quadratic(200))
    near, far = (moved(200, share) for share in (0.1, 1.0))
    found = along.measure(near)
    alone = float(trace(near, "hvp", probes=8, seed=1).value.std())
    assert float(found.change.value.std()) < 2**0.5 * alone / 4
    assert float(found.trace.value.std()) < alone / 1.8  # those of the start count nearly in full
    unrelated = float(trace(far, "hvp", probes=8, seed=1).value.std())
    assert float(along.measure(far).trace.value.std()) < 1.1 * unrelated


def test_the_start_is_the_mean_of_all_its_probes() -> None:
    start = DynamicTrace(probes=4, start_probes=12, method="hvp").measure(Quadratic(3))
    assert start.trace.value.tolist() == pytest.approx(trace(Quadratic(3), "hvp", probes=16).value.tolist(), rel=1e-12)
    assert start.change.value.tolist() == [0.0] * 3
    assert start.change.stderr.tolist() == [0.0] * 3


@pytest.mark.parametrize("method", ["taylor", "hvp"])
def test_the_change_of_a_model_is_that_of_its_forms(method: str) -> None:
    along, loss = DynamicTrace(probes=8, start_probes=8, seed=2, method=method), loss_of("llama")
    along.measure(loss)
    model = tiny("llama", torch.float64)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.1)
    after = EmbeddingLoss(model, batch())
    found = along.measure(after)
    wanted = trace(after, method, probes=8, seed=2).value - trace(loss, method, probes=8, seed=2).value
    assert found.change.value.tolist() == pytest.approx(wanted.tolist(), rel=1e-9)
    assert found.change.method == found.trace.method == method
    assert found.change.count == 8


def test_the_latest_change_is_since_the_point_before() -> None:
    along = DynamicTrace(probes=4, start_probes=4, method="hvp")
    points = [along.measure(loss) for loss in (Quadratic(2), moved(2, 0.1), moved(2, 0.3))]
    assert points[1].latest.value.tolist() == points[1].change.value.tolist()
    sums = points[1].latest.value + points[2].latest.value
    assert points[2].change.value.tolist() == pytest.approx(sums.tolist(), rel=1e-9)
    assert points[2].latest.value.tolist() != points[2].change.value.tolist()


@pytest.mark.parametrize("changed", ["ids", "rows", "layer", "seed", "probes", "directions"])
def test_a_change_is_not_told_between_different_examples_or_probes(changed: str) -> None:
    """With the same weights the change would be that of the examples, or of the probes."""
    model, text = tiny("llama", torch.float64), batch()
    along = DynamicTrace(probes=4, start_probes=8)
    along.measure(EmbeddingLoss(model, text))
    options = {"seed": {"seed": 5}, "probes": {"start_probes": 12}, "directions": {"directions": "gaussian"}}
    how = options.get(changed, {})
    again = DynamicTrace(**{"probes": 4, "start_probes": 8, **how})
    again.load_state_dict(along.state_dict())
    other = {
        "ids": lambda: EmbeddingLoss(model, text, ids=(7, 8)),
        "rows": lambda: EmbeddingLoss(model, {key: value.flip(0) for key, value in text.items()}),
        "layer": lambda: EmbeddingLoss(model, text, layer=1),
    }.get(changed, lambda: EmbeddingLoss(model, text))()
    with pytest.raises(InputError, match="the start was measured on other examples, ids or layer, or with other"):
        again.measure(other)


def test_a_sequence_goes_on_from_what_was_saved() -> None:
    along = DynamicTrace(probes=4, start_probes=8, method="hvp")
    assert along.state_dict() == {}
    for point in (Quadratic(2), moved(2, 0.05)):
        along.measure(point)
    again = DynamicTrace(probes=4, start_probes=8, method="hvp")
    again.load_state_dict(along.state_dict())
    here, there = along.measure(moved(2, 0.1)), again.measure(moved(2, 0.1))
    assert here.change.value.tolist() == there.change.value.tolist()
    assert here.trace.value.tolist() == there.trace.value.tolist()
    assert here.latest.value.tolist() == there.latest.value.tolist()
    assert "change" in repr(there)


def test_another_method_than_at_the_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" may fall back to products at a later point, whose groups of probes are others."""
    along = DynamicTrace(probes=4, start_probes=4)
    forms = [torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(2, 2)]
    monkeypatch.setattr(dynamic, "measured", lambda *_, **__: dynamic._Draws(forms.pop(0), 4))
    along.measure(Quadratic(2))
    with pytest.raises(InputError, match=r"the start had 2 examples in 4 groups .* in 2 groups of probes"):
        along.measure(Quadratic(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probes": 3}, "probes must be 4 or more"),
        ({"probes": 8, "start_probes": 4}, "start_probes must be at least probes=8"),
        ({"method": "xtrace"}, "unknown method"),
        ({"directions": "sideways"}, "unknown directions"),
    ],
)
def test_what_cannot_be_tracked(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DynamicTrace(**options)


@pytest.mark.parametrize(("probes", "method"), [(5, "taylor"), (6, "taylor"), (9, "taylor"), (10, "hvp")])
def test_whatever_is_accepted_has_a_standard_error_on_one_example(probes: int, method: str) -> None:
    along, model = DynamicTrace(probes=probes, start_probes=2 * probes, method=method), tiny("llama", torch.float64)
    along.measure(EmbeddingLoss(model, batch(rows=1)))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(2.0)
    found = along.measure(EmbeddingLoss(model, batch(rows=1)))
    for estimate in (found.trace, found.change):
        assert 0 < float(estimate.stderr) < float("inf") and estimate.dof >= 1


def test_the_start_takes_whole_passes_of_probes() -> None:
    along = DynamicTrace(probes=4, start_probes=10, method="hvp")
    along.measure(Quadratic())
    assert len(along.state_dict()["only"]) == 8


def test_the_fitted_trace_has_the_error_of_a_regression_at_the_starts_mean() -> None:
    """One example: a prediction of least squares at x₀ by its covariance matrix, and c²Var(x)/(M + K) of x₀ itself."""
    owner = generator(0, "fit")
    x, more = (torch.randn((n, 1), generator=owner, dtype=torch.float64) for n in (6, 10))
    now = 0.8 * x + 0.3 * torch.randn((6, 1), generator=owner, dtype=torch.float64) + 2
    along = DynamicTrace(probes=6, start_probes=6)
    along.load_state_dict({"only": more, "same": x, "last": x})
    found = along._trace(now)
    start = torch.cat([x, more])
    design = torch.cat([torch.ones_like(x), x], 1)
    a, c = torch.linalg.lstsq(design, now).solution.flatten()
    at = torch.tensor([1.0, float(start.mean())], dtype=torch.float64)
    s2 = (now - design @ torch.stack([a, c])[:, None]).square().sum() / (6 - 2)
    fitted, of_start = s2 * (at @ torch.linalg.inv(design.T @ design) @ at), c**2 * start.var() / 16
    assert float(found.value) == pytest.approx(float(a + c * at[1]))
    assert float(found.stderr) ** 2 == pytest.approx(float(fitted + of_start))
    assert found.dof == pytest.approx(float((fitted + of_start) ** 2 / (fitted**2 / 4 + of_start**2 / 15)))


def test_a_start_whose_forms_are_all_alike_counts_in_full() -> None:
    """No regression can be fitted: the weight is 1, and only what changes has an error."""
    alike, now = (
        torch.ones((4, 1), dtype=torch.float64),
        torch.tensor([[1.0], [2.0], [3.0], [4.0]], dtype=torch.float64),
    )
    along = DynamicTrace(probes=4, start_probes=4)
    along.load_state_dict({"only": alike, "same": alike, "last": alike})
    found = along._trace(now)
    assert float(found.value) == 2.5 and float(found.stderr) ** 2 == pytest.approx(5 / (4 - 2) / 4)


def test_small_forms_are_fitted_as_large_ones_are() -> None:
    """A unit of the loss is arbitrary: a thousandth of every form gives a thousandth of the trace and of its error."""
    owner = generator(1, "fit")
    x, more, now = (torch.randn((4, 1), generator=owner, dtype=torch.float64) for _ in range(3))
    found = []
    for unit in (1.0, 1e-3):
        along = DynamicTrace(probes=4, start_probes=4)
        along.load_state_dict({"only": unit * more, "same": unit * x, "last": unit * x})
        found.append(along._trace(unit * now))
    assert float(found[1].value) == pytest.approx(1e-3 * float(found[0].value))
    assert float(found[1].stderr) == pytest.approx(1e-3 * float(found[0].stderr))
