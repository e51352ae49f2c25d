"""What `symnoise plan` computes from a configuration, against closed forms, real runs and published numbers."""

import csv

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PaliGemmaConfig

from result_schema.files import ROOT
from symnoise.core import InputError
from symnoise.curvature import planning, random_probes, simulated
from symnoise.curvature.operators.hessian import HessianProducts
from symnoise.curvature.planning import RELATIVE_DEVIATION, Speed, Task, plans, probes_for, weight_bytes
from symnoise.curvature.simulated import Work
from symnoise.curvature.taylor import memory_estimate, taylor_quadratics
from symnoise.curvature.taylor.tensor import RULES
from symnoise.models import EmbeddingLoss
from symnoise.models.outline import OutlineLoss, outline
from tests.tiny import tiny

VOCABULARY, WIDTH, INNER, HEADS, KEYS, HEAD = 97, 32, 48, 4, 2, 8
L, SCORED, K, G = 12, 5, 4, 2
SPEED = Speed(1e11, 1e10)


def config(depth: int = 2, *, tied: bool = False) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=depth,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        head_dim=HEAD,
        tie_word_embeddings=tied,
    )


LAYER = WIDTH * HEAD * (2 * HEADS + 2 * KEYS) + 3 * WIDTH * INNER  # entries of a layer's matrices
TABLE = VOCABULARY * WIDTH


def task(examples: int = 1, probes: int = 4) -> Task:
    return Task(examples, 4, L, probes, torch.float32)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_counted_once_and_by_layer(tied) -> None:
    norms = 2 * WIDTH
    whole, resident = weight_bytes(outline(config(3, tied=tied)))
    tables = TABLE if tied else 2 * TABLE
    assert whole == 4 * (tables + 3 * (LAYER + norms) + WIDTH)
    assert resident == 4 * (tables + LAYER + norms + WIDTH)
    assert weight_bytes(outline(config(3, tied=tied), torch.bfloat16))[0] == whole // 2


def test_weights_are_those_of_the_real_model() -> None:
    model = tiny("gpt2")
    assert weight_bytes(outline(model.config))[0] == sum(p.nbytes for p in model.parameters())


def test_arithmetic_is_the_closed_form() -> None:
    """Multiply-adds: every matrix once per coefficient; attention by its rule (`taylor.rules.attention`)."""
    loss = OutlineLoss(outline(config()), 1, L, SCORED)
    linear, head, product = 2 * L * LAYER, SCORED * TABLE, 2 * L * L * HEADS * HEAD
    assert simulated.forward(loss).flops == 2 * (linear + head + 2 * product)
    means = (K + G) * SCORED  # over tokens
    expected = (K + G + 1) * linear + (K + 2) * head + (3 + 4 * G + 6 * K) * product + means
    assert simulated.taylor(loss, K, G).flops == 2 * expected


def test_the_simulation_does_what_a_real_run_does() -> None:
    model = tiny("llama")
    ids = torch.arange(3, 3 + L)[None]
    labels = ids.clone()
    labels[:, :-SCORED] = -100
    real = EmbeddingLoss(model, {"input_ids": ids, "labels": labels})
    loss = OutlineLoss(outline(model.config), 1, L, SCORED)
    V = random_probes(real, K, seed=0)
    with simulated._Counter([]) as own:  # PyTorch's does not count products that are added in place
        taylor_quadratics(real, V, groups=G)
    assert own.flops == simulated.taylor(loss, K, G).flops
    setup, product = simulated.products(loss)
    with simulated._Counter([]) as own:
        made = HessianProducts(real)
    assert own.flops == setup.flops
    with simulated._Counter([]) as own:
        made(V[0])
    assert own.flops == product.flops


def test_traffic_and_live_bytes_are_those_of_the_operations() -> None:
    a, b = (torch.empty(4, 8, device="meta") for _ in range(2))
    with simulated._Counter([a, b]) as counter:
        for _ in range(2):
            c = a * b  # two read, one written
            c.view(8, 4).add_(1)  # one read, one written; a view moves nothing
            del c
    size = 4 * 8 * 4
    assert (counter.traffic, counter.peak, counter.alive) == (2 * 5 * size, size, 0)


@pytest.mark.parametrize("depth", [3, 7])
def test_layers_are_extended_to_the_whole_depth(depth) -> None:
    whole = OutlineLoss(outline(config(depth)), 1, L, max(1, round(L * 48 / 128)))
    (found,) = planning._at_full_depth(config(depth), task(), lambda loss: (simulated.forward(loss),))
    assert found == simulated.forward(whole)


def test_a_vision_tower_does_not_count_as_depth_of_the_text() -> None:
    text = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "head_dim": 16}
    text |= {"model_type": "gemma", "num_attention_heads": 2, "num_key_value_heads": 2}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 7}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    both = PaliGemmaConfig(text_config=text, vision_config=vision, projection_dim=32, image_token_index=127)
    whole = OutlineLoss(outline(both), 1, L, max(1, round(L * 48 / 128)))
    (found,) = planning._at_full_depth(both, task(), lambda loss: (simulated.forward(loss),))
    assert found == simulated.forward(whole)


def test_probes_are_extended_to_their_number(monkeypatch) -> None:
    """A pass of hundreds is not simulated: a few are, and costs are affine in them; but for a pass's smallest block."""
    whole = simulated.taylor(OutlineLoss(outline(config()), 1, L, max(1, round(L * 48 / 128))), 96, 4)
    counts, own = [], simulated.taylor
    monkeypatch.setattr(simulated, "taylor", lambda loss, k, groups: counts.append(k) or own(loss, k, groups))
    found, *_ = plans(config(), Task(1, 1, L, 96, torch.float32), SPEED, 2**30, card=False)
    forward = simulated.forward(OutlineLoss(outline(config()), 1, L, max(1, round(L * 48 / 128))))
    assert found.at_once == 96 and sorted(set(counts)) == [8, 16]
    assert found.seconds == pytest.approx(SPEED.seconds(forward) + SPEED.seconds(whole), rel=0.005)


def test_a_graph_grows_with_depth_and_a_pass_of_taylor_mode_does_not() -> None:
    shallow, deep = (plans(config(depth), task(), SPEED, 2**30, card=False) for depth in (2, 6))
    layers = 4 * 4 * (LAYER + 2 * WIDTH)
    assert deep[0].memory - shallow[0].memory == layers
    assert deep[1].memory == shallow[1].memory  # streamed
    assert deep[2].memory - shallow[2].memory > 2 * layers
    assert all(1.5 < b.seconds / a.seconds < 3.1 for a, b in zip(shallow, deep, strict=True))


@pytest.fixture
def unsimulated(monkeypatch) -> None:
    """Every pass costs the same, for tests of what is made of its cost."""
    works = [Work(2e9, 1e9, 1e6)] * 2
    monkeypatch.setattr(planning, "_at_full_depth", lambda config, task, costs: works)


def test_probes_are_split_into_passes_that_fit_the_card(unsimulated) -> None:
    ample, short = (plans(config(), task(probes=16), SPEED, memory, card=True) for memory in (2**30, 2**19))
    assert ample[0].at_once == 16 and ample[0].memory < 2**30
    loss, weights = OutlineLoss(outline(config()), 1, L, 4), weight_bytes(outline(config()))[0]
    assert ample[0].memory - weights == memory_estimate(loss, 16, 4)
    assert short[0].at_once < 16 and short[0].memory < ample[0].memory
    assert short[0].seconds > ample[0].seconds


def test_time_is_in_proportion_to_examples_and_to_passes(unsimulated) -> None:
    once, twice = (plans(config(), task(n), SPEED, 2**30, card=False) for n in (4, 8))
    assert all(b.seconds == pytest.approx(2 * a.seconds) for a, b in zip(once, twice, strict=True))
    ample, short = (plans(config(), task(4, 16), SPEED, memory, card=False) for memory in (2**30, 2**19))
    one = SPEED.seconds(Work(2e9, 1e9, 1e6))  # a forward, a pass, a graph or a product
    assert 1 < short[0].at_once < 16 and ample[0].seconds == pytest.approx(2 * one)  # the check and a pass
    assert short[0].seconds == pytest.approx((1 + 16 // short[0].at_once) * one)
    assert [once[2].seconds, ample[2].seconds] == pytest.approx([6 * one, 18 * one])  # with the check and a graph
    assert [once[0].forwards, ample[2].forwards] == pytest.approx([2, 18])
    assert once[1].seconds - once[0].seconds == pytest.approx(2 * 2 * 4 * (LAYER + 2 * WIDTH) / SPEED.bandwidth)


def test_what_taylor_mode_has_no_rule_for_is_said(monkeypatch) -> None:
    monkeypatch.delitem(RULES, torch.ops.aten.silu)
    found = plans(config(), task(), SPEED, 2**30, card=False)
    assert "no Taylor rule for aten.silu" in found[0].obstacle and found[0].seconds is found[0].memory is None
    assert found[2].obstacle == "" and found[2].seconds > 0


def test_of_a_model_that_looks_at_numbers_the_weights_are_said(monkeypatch) -> None:
    def looks(*_: object) -> None:
        raise NotImplementedError("nonzero on meta tensors")

    monkeypatch.setattr(simulated, "forward", looks)
    with pytest.raises(InputError, match=r"Llama cannot be simulated without numbers .*weights take 0\.0 GiB"):
        plans(config(), task(), SPEED, 2**30, card=False)


def test_only_causal_language_models() -> None:
    with pytest.raises(InputError, match="causal language models; this is a T5ForConditionalGeneration"):
        plans(tiny("t5").config, task(), SPEED, 2**30, card=False)


def test_probes_for_an_error_rest_on_the_published_deviation() -> None:
    with (ROOT / "docs" / "peers.csv").open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    four = float(row["deviation"]) / abs(float(row["mean_trace"]))
    assert pytest.approx(four * 4**0.5, rel=1e-3) == RELATIVE_DEVIATION
    assert int(row["probes"]) <= probes_for(0.05, 4) < int(row["probes"]) + planning.CHUNK
    assert probes_for(0.05, 16) == pytest.approx(probes_for(0.1, 4), abs=planning.CHUNK)
    for rtol in (0.0, -1.0, 1e-200, float("inf"), float("nan")):
        with pytest.raises(InputError, match=r"--rtol must be above 0, finite, and take at most 1e\+12 probes"):
            probes_for(rtol, 4)
    assert probes_for(1e-5, 1) < planning._MOST_PROBES


UNITS = {"gib": 2, "forwards": 1, "s": 1}  # of docs/plans.csv, and their decimals in the guide


def test_published_plans_are_near_what_was_measured() -> None:
    with (ROOT / "docs" / "plans.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    models, guide = ("10M", "50M", "SmolLM2"), (ROOT / "docs" / "guide" / "curvature.md").read_text(encoding="utf-8")
    assert [(row["model"], row["method"]) for row in rows] == [(m, by) for m in models for by in ("taylor", "hvp")]
    for row in rows:
        told = [
            f"{float(row[f'{kind}_{unit}']):.{d}f}" for unit, d in UNITS.items() for kind in ("planned", "measured")
        ]
        assert f"| {' | '.join(told)} |" in guide
        for unit in UNITS:
            assert float(row[f"planned_{unit}"]) == pytest.approx(float(row[f"measured_{unit}"]), rel=0.25)


def test_this_machine_has_a_speed() -> None:
    speed = planning.measured_speed(torch.float32, rows=8, width=8)
    assert 0 < speed.flops < 1e15 and 0 < speed.bandwidth < 1e14


def test_an_outline_has_no_numbers() -> None:
    model = outline(config(tied=True))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert isinstance(model, LlamaForCausalLM) and not model.training


def test_a_simulated_operation_that_changes_the_shape_in_place_does() -> None:
    x = torch.empty(2, 3, device="meta")
    assert simulated._shapes(torch.ops.aten.unsqueeze_.default, (x, 0), {})[0].shape == (1, 2, 3)
    assert simulated._shapes(torch.ops.aten.add_.Tensor, (x, x), {}) == (x, True)


def test_a_pass_takes_half_of_what_the_weights_leave_of_a_card_and_all_that_it_may_take_elsewhere(unsimulated) -> None:
    weights = weight_bytes(outline(config()))[0]
    needed = memory_estimate(OutlineLoss(outline(config()), 1, L, 4), 16, 4)
    for memory, card in ((weights + 2 * needed, True), (needed, False)):
        just, less = (plans(config(), task(probes=16), SPEED, size, card=card)[0] for size in (memory, memory - 2))
        assert just.at_once == 16 and less.at_once < 16
