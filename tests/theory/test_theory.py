import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from scipy import stats

from symnoise.core import InputError, write_json
from symnoise.models import EmbeddingLoss
from symnoise.noise import LAWS, sparse
from symnoise.theory import (
    CLAIMS,
    KINDS,
    OUTCOMES,
    SUBJECTS,
    Ridges,
    check_cancellation,
    check_coupled_laws,
    check_first_layer,
    check_least_variance,
    check_moments,
    check_norms,
    check_smoothing_analytically,
    check_smoothing_sampled,
    check_tiny_transformer,
    check_variances,
    claim,
    counts,
    kind_of,
    row,
    tiny_llama,
    tiny_transformer,
    verdict,
)
from symnoise.theory.checks.model_claims import _by_kurtosis, check_radial
from symnoise.theory.ledger import LEVEL, half_width, limit_and_half, mean_and_half, variance_interval
from tests.tiny import tiny


@pytest.mark.parametrize(
    ("relation", "prediction", "low", "high", "resolution", "expected"),
    [
        ("equals", 1, 0.9, 1.1, 0.2, "holds"),
        ("equals", 1, 0.9, 1.1, 0.05, "undecided"),
        ("equals", 1, 1.1, 1.2, 0.2, "fails"),
        ("equals", 0, 0, 0, 0, "holds"),
        ("equals", 1, math.nan, 1.2, 0.2, "undecided"),
        ("at most", 0, -2, -1, 0, "holds"),
        ("at most", 0, -2, 1, 0, "undecided"),
        ("at most", 0, 1, 2, 0, "fails"),
        ("within", 1, 0.95, 1.05, 0.1, "holds"),
        ("within", 1, 0.85, 1.05, 0.1, "undecided"),
        ("within", 1, 1.2, 1.5, 0.1, "fails"),
    ],
)
def test_verdicts_are_computed(relation, prediction, low, high, resolution, expected) -> None:
    assert verdict(relation, prediction, low, high, resolution) == expected


def test_nothing_is_decided_where_nothing_was_measured() -> None:
    facts: dict[str, Any] = {"key": "first-layer", "subject": "model", "resolution": 0.75, "where": "", "n": 1}
    assert row("L1", "", 3, 3, (2.9, 3.1), relation="within", **facts).verdict == "holds"
    assert row("L1", "", 3, math.nan, (2.9, 3.1), relation="within", **facts).verdict == "undecided"


def test_rows_and_claims() -> None:
    assert all(id == made.id for id, made in (CLAIMS | OUTCOMES).items()) and not CLAIMS.keys() & OUTCOMES.keys()
    assert claim("M1") is CLAIMS["M1"] and claim("O3") is OUTCOMES["O3"]
    made = row("M1", "q", 1, 1, 0.1, key="q", subject="sampled", resolution=0.2, where="here")
    assert made.statement == claim("M1").statement and made.verdict == "holds"
    assert (made.key, made.subject, made.kind) == ("M1.q", "sampled", "identity")
    with pytest.raises(InputError, match="unknown claim"):
        claim("M9")


def test_what_a_row_is_follows_from_its_key_and_subject() -> None:
    assert kind_of("S2.coefficient.uniform-gaussian", "analytic") == "identity"
    assert kind_of("S2.difference.uniform-gaussian.alpha=5", "model") == "prediction"
    assert kind_of("P4.positive", "model") == "identity" and kind_of("P4.positively", "model") == "prediction"
    for id in CLAIMS | OUTCOMES:  # every claim has a rule, and every rule says why
        assert any(rule.key.split(".")[0] == id for rule in KINDS)
    assert all(rule.why and set(rule.subjects) <= set(SUBJECTS) for rule in KINDS)
    reached = {(rule.key, *rule.subjects) for rule in KINDS}
    assert len(reached) == len(KINDS)
    with pytest.raises(ValueError, match="no rule"):
        kind_of("X9.q", "model")


def test_ridges_know_themselves() -> None:
    ridges = Ridges.drawn()
    subject = ridges.subject()
    H = torch.autograd.functional.hessian(lambda x: ridges(x[None])[0], ridges.x)
    g = torch.autograd.functional.jacobian(lambda x: ridges(x[None])[0], ridges.x)
    torch.testing.assert_close(subject.hessian, H)
    torch.testing.assert_close(subject.gradient, g)
    assert float(H.trace()) == pytest.approx(ridges.trace)
    e, h = torch.eye(6, dtype=torch.float64), 0.02
    at = [ridges(ridges.x + k * h * e) for k in (-2, -1, 0, 1, 2)]
    fourth = (at[0] - 4 * at[1] + 6 * at[2] - 4 * at[3] + at[4]) / h**4
    torch.testing.assert_close(ridges.fourth, fourth, rtol=1e-2, atol=1e-2)
    for law in (*LAWS.values(), sparse(10)):  # smoothed values against stratified draws in each coordinate
        z = law.standardised(torch.rand((400_000, 6), dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
        draws = ridges(ridges.x + 0.3 * z) - ridges(ridges.x[None])
        assert abs(float(draws.mean()) - ridges.smoothed(law, 0.3)) < 4.5 * float(draws.std()) / 400_000**0.5


def test_every_claim_holds_on_the_analytic_function() -> None:
    subject = Ridges.drawn().subject()
    found = (
        check_smoothing_analytically()
        + check_smoothing_sampled(subject, 0.1, 100_000)
        + check_cancellation(subject, 0.1)
        + check_variances(subject, 0.1)
        + check_least_variance(subject)
    )
    assert [r for r in found.rows if r.verdict != "holds"] == []
    assert {r.id for r in found.rows} == {"S1", "S2", "S3", "P1", "P2", "P3"}


def test_moments_hold() -> None:
    found = check_moments()
    assert counts(found.rows) == {"holds": len(found.rows), "fails": 0, "undecided": 0}


def test_a_wrong_law_is_caught(monkeypatch) -> None:
    """A "Gaussian" that draws uniforms has the wrong kurtosis: the ledger can say no."""
    impostor = replace(LAWS["gaussian"], fill=LAWS["uniform"].fill)
    monkeypatch.setitem(LAWS, "gaussian", impostor)
    verdicts = {r.quantity: r.verdict for r in check_moments(draws=5_000).rows}
    assert verdicts["Var‖ε‖², gaussian"] == "fails"
    assert verdicts["Var‖ε‖², uniform"] != "fails"


def test_a_wrong_hessian_is_caught() -> None:
    subject = Ridges.drawn().subject()
    wrong = replace(subject, hessian=subject.hessian * 1.2)
    assert "fails" in {r.verdict for r in check_cancellation(wrong, 0.1).rows}
    assert "fails" in {r.verdict for r in check_variances(wrong, 0.1).rows}


def test_the_tiny_transformer_is_twice_known() -> None:
    subject = tiny_transformer()
    e = torch.eye(len(subject.x), dtype=torch.float64)
    h = 1e-3
    diagonal = (subject.evaluate(subject.x + h * e) + subject.evaluate(subject.x - h * e) - 2 * subject.value) / h**2
    torch.testing.assert_close(diagonal, subject.hessian.diagonal(), rtol=1e-4, atol=1e-4)
    found = check_cancellation(subject, 0.02) + check_variances(subject, 0.02, draws=4096)
    assert counts(found.rows)["fails"] == 0


@pytest.mark.parametrize(
    ("slope", "bend", "verdicts"),
    [
        (0.0005, 0.0, {"linear": "holds", "uniform": "holds", "rademacher": "holds"}),
        (0.1, 0.0, {"linear": "holds", "uniform": "fails", "rademacher": "fails"}),
        (0.0005, -0.0005, {"linear": "fails", "uniform": "holds", "rademacher": "undecided"}),
    ],
)
def test_what_kurtosis_does_is_told_law_by_law(slope, bend, verdicts) -> None:
    """Excess a + slope·κ + bend·(κ − 1)(κ − 100), noise 0.02: laws differ by both, linearity fails by the bend."""

    def excess(kappa: float) -> float:
        return 0.3 + slope * kappa + bend * (kappa - 1) * (kappa - 100)

    noise = torch.Generator().manual_seed(0)
    common = 5 * torch.randn((16, 4), generator=noise)  # of a draw, whatever its law
    kurtosis = {"rademacher": 1.0, "uniform": 1.8, "gaussian": 3.0, "sparse-10": 10.0, "sparse-100": 100.0}
    rest = {
        name: common + excess(kappa) + 0.02 * torch.randn((16, 4), generator=noise) for name, kappa in kurtosis.items()
    }
    facts = {"subject": "model", "where": "made up", "n": 64, "relation": "within", "resolution": 0.1}
    linear, uniform, rademacher = _by_kurtosis(rest, 5.0, facts)
    assert verdicts == {"linear": linear.verdict, "uniform": uniform.verdict, "rademacher": rademacher.verdict}
    for made, kappa in ((uniform, 1.8), (rademacher, 1.0)):
        apart = excess(kappa) - excess(3.0)
        assert made.low <= apart <= made.high and made.measured == pytest.approx(apart, abs=0.015)
        assert made.high - made.low == pytest.approx(2 * 3.5 * 0.02 * (2 / 64) ** 0.5, rel=0.6)


def test_norm_claims_on_the_tiny_transformer() -> None:
    model, text = tiny_llama()
    norms = check_norms(EmbeddingLoss(model, text), 5.0, draws=300, where="tiny")
    assert counts(norms.rows)["fails"] == 0


def test_every_model_claim_is_held_against_the_tiny_transformer() -> None:
    rows = check_tiny_transformer(draws=256).rows
    assert {r.id for r in rows} == {"S1", "S2", "S3", "P1", "P2", "P3", "P4", "V1", "N3"}
    assert {r.verdict for r in rows if r.id in ("P1", "P4")} == {"holds"}
    # A residual stream is not invariant to the scale of X; the same loss made invariant to it is.
    radial = [r for r in rows if r.id == "N3"]
    assert [(r.key, r.kind, r.verdict) for r in radial] == [
        ("N3.identity", "prediction", "fails"),
        ("N3.premise", "prediction", "fails"),
        ("N3.identity.scale-invariant", "identity", "holds"),
        ("N3.premise.scale-invariant", "identity", "holds"),
    ]
    assert {r.subject for r in rows} == {"tiny"}
    assert len({r.key for r in rows}) == len(rows)
    assert {r.verdict for r in rows if r.kind == "identity"} <= {"holds", "undecided"}
    # What is held against it can fail: σ at the training α is as large as the embeddings.
    assert [r.verdict for r in rows if r.key == "V1.slope.these.alpha=5"] == ["fails"]


def test_the_ledger_is_json_with_its_keys(tmp_path) -> None:
    one = row("V1", "q", 1, 1, math.nan, key="q", subject="model", resolution=0.1, where="here")
    write_json(tmp_path / "ledger.json", [asdict(one)])
    (record,) = json.loads((tmp_path / "ledger.json").read_text())
    wanted = {"id", "statement", "prediction", "measured", "low", "high", "verdict", "where", "n", "seed", "seconds"}
    wanted |= {"kind", "key", "subject"}
    assert wanted <= set(record) and record["low"] is None and record["verdict"] == "undecided"


def test_the_interval_of_a_variance_leaves_out_as_much_on_either_side() -> None:
    """P(s² < low·…) by the χ² law itself: the truth at either end makes the sample's variance rare by (1 − LEVEL)/2."""
    low, high = variance_interval(2.0, 30)
    tail = (1 - LEVEL) / 2
    assert stats.chi2.sf(30 * 2.0 / low, 30) == pytest.approx(tail, rel=1e-6)
    assert stats.chi2.cdf(30 * 2.0 / high, 30) == pytest.approx(tail, rel=1e-6)


def test_half_widths_are_students() -> None:
    assert half_width(2.0, 3) == pytest.approx(2 * float(stats.t.isf((1 - LEVEL) / 2, 3)))
    mean, half = mean_and_half(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert (mean, half) == (3, pytest.approx(half_width(torch.tensor([1.0, 2.0, 3.0, 6.0]).std() / 2, 3)))


def test_a_limit_is_extrapolated_by_the_order_of_what_is_left() -> None:
    """q + cσ^k at σ and σ/2, with q = 5: exact, and as uncertain as the correction is large."""
    for order, c in ((2, 8.0), (4, -16.0)):
        limit, half = limit_and_half(5 + c, 5 + c / 2**order, order)
        assert limit == pytest.approx(5) and half == pytest.approx(abs(c) / 2**order + 1e-6 * abs(5 + c / 2**order))


class TwoLayers(torch.nn.Module):
    """Twenty rows of width 4 in each of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(3, 4)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 20) for _ in range(2))
        torch.nn.init.ones_(self.layers[1].weight)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embed


def test_the_median_of_the_first_layers_rows_has_the_interval_of_its_order_statistics() -> None:
    """Of 20 rows the third smallest and largest: the median is beyond with 2·P(at most 2 of 20 heads) = 0.0004."""
    model = TwoLayers()
    w = model.layers[0].weight.detach().double()
    measured = (4 * w.pow(4).sum(1) / w.square().sum(1).square()).sort().values
    (found,) = check_first_layer(model, where="made up").rows
    assert (found.measured, found.low, found.high) == pytest.approx(
        (float(measured.median()), float(measured[2]), float(measured[17]))
    )
    assert found.n == 20
    model.layers[0].weight.data[:5] = 0  # pruned rows mix nothing
    (found,) = check_first_layer(model, where="made up").rows
    assert found.n == 15 and found.measured == pytest.approx(float(measured_without_five(model)))


def measured_without_five(model: TwoLayers) -> torch.Tensor:
    w = model.layers[0].weight.detach().double()[5:]
    return (4 * w.pow(4).sum(1) / w.square().sum(1).square()).median()


def test_a_first_layer_is_found_in_gpt2_and_may_have_no_map_of_the_embeddings_width() -> None:
    gpt2 = tiny("gpt2")
    (found,) = check_first_layer(gpt2, where="made up").rows
    width = gpt2.config.n_embd
    assert found.n == (3 + 1 + 4) * width  # queries, keys and values; the attention's output; the MLP
    model = TwoLayers()
    model.embed = torch.nn.Embedding(3, 5)
    assert check_first_layer(model, where="made up").rows == []


def test_slopes_and_lengths_are_held_to_what_the_ledger_says() -> None:
    """Orders to 0.1; E‖ε‖ to what a fixed radius would be off by, and where that is 0 to ten roundings of float32."""
    rows = {made.key: made for made in check_smoothing_analytically().rows}
    orders = {key: made for key, made in rows.items() if ".order" in key}
    assert len(orders) > 6 and {made.resolution for made in orders.values()} == {0.1}
    moments = {made.key: made for made in check_moments(draws=2_000).rows}
    norm = moments["M2.mean-norm.gaussian"]
    assert norm.resolution == pytest.approx(abs(5 / 3**0.5 - norm.prediction), rel=1e-9) and norm.resolution > 0
    flat = moments["M2.mean-norm.rademacher"]
    assert flat.resolution == pytest.approx(40 * torch.finfo(torch.float32).eps * flat.measured)


def test_the_points_of_the_figure_of_slopes_lie_on_their_slopes() -> None:
    points = check_smoothing_analytically().tables["slopes"]
    for first, second, order in (
        ("uniform", "gaussian", 4),
        ("rademacher", "gaussian", 4),
        ("gaussian-raw", "uniform", 2),
    ):
        own = [one for one in points if (one["first"], one["second"]) == (first, second)]
        low, high = own[0], own[-1]
        assert len(own) == 6 and low["sigma"] == pytest.approx(0.02)
        found = math.log(high["value"] / low["value"]) / math.log(high["sigma"] / low["sigma"])
        assert found == pytest.approx(order, abs=0.1)


def test_the_fourth_derivatives_of_the_tiny_transformer_do_not_depend_on_the_step() -> None:
    subject = tiny_transformer()
    e, h = torch.eye(len(subject.x), dtype=torch.float64)[:5], 0.04
    at = [subject.evaluate(subject.x + k * h * e) for k in (-2, -1, 0, 1, 2)]
    fourth = (at[0] - 4 * at[1] + 6 * at[2] - 4 * at[3] + at[4]) / h**4
    torch.testing.assert_close(subject.fourth[:5], fourth, rtol=0.05, atol=0.05 * float(fourth.abs().max()))


def test_the_premise_of_n3_is_the_cosine_of_x_and_the_gradient() -> None:
    model, text = tiny_llama()
    loss = EmbeddingLoss(model, text)
    X = loss.embeddings.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(X).sum(), X)
    cosines = torch.nn.functional.cosine_similarity(X.flatten(1), gradient.flatten(1))
    made = {one.key: one for one in check_radial(loss, 2, where="tiny").rows}
    assert made["N3.premise"].measured == pytest.approx(float(cosines.detach().abs().max()), rel=1e-4)


def test_coupled_laws_at_a_small_alpha_are_in_their_second_order() -> None:
    model, text = tiny_llama()
    rows = check_coupled_laws(EmbeddingLoss(model.double(), text), 0.05, 3, where="tiny").rows
    made = {one.key: one for one in rows}
    assert made["S3.excess.alpha=0.05"].measured == pytest.approx(1, abs=0.05)
