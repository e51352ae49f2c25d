"""Collapsed Taylor mode on the real model classes against plain double-backward derivatives."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from symnoise.core import InputError, generator
from symnoise.curvature import gauss_newton_trace
from symnoise.curvature.taylor import (
    TaylorQuadratics,
    UnsupportedOperation,
    engine,
    head,
    memory,
    memory_estimate,
    taylor_quadratics,
)
from symnoise.curvature.taylor.rules import attention
from symnoise.curvature.taylor.tensor import RULES, Frame, Taylor
from symnoise.models import EmbeddingLoss, float64_throughout
from tests.curvature.plain_quadratics import plain_quadratics
from tests.tiny import NAMES, VOCABULARY, tiny

_WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
# Parallel blocks, partial rotary angles, fused and multi-query projections, attention with linear biases.
MORE = {
    "gpt_neox": _WIDTH | {"intermediate_size": 48},
    "phi": _WIDTH | {"intermediate_size": 48},
    "falcon": _WIDTH | {"alibi": False},
    "falcon, alibi": _WIDTH | {"alibi": True, "parallel_attn": False, "bias": True},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "olmo2": _WIDTH | {"intermediate_size": 48},
    "starcoder2": _WIDTH | {"intermediate_size": 48, "num_key_value_heads": 2},
    "granite": _WIDTH | {"intermediate_size": 48, "logits_scaling": 3.0, "embedding_multiplier": 12.0},
    "stablelm": _WIDTH | {"intermediate_size": 48, "num_key_value_heads": 4},
    "gpt_bigcode": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}
# Experts chosen by routers of every kind: softmax before and after the choice, sigmoids in groups, sparse mixers; with
# shared experts, attention sinks, latent attention and complex rotary angles.
_GATED = _WIDTH | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_NAMED = {name: {name: 4} | _EXPERTS for name in ("num_experts", "num_local_experts", "n_routed_experts")}
_GROUPS = _NAMED["n_routed_experts"] | {"n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
_LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
ROUTED = {
    "mixtral": _GATED | _NAMED["num_local_experts"],
    "qwen2_moe": _GATED | _NAMED["num_experts"] | {"shared_expert_intermediate_size": 24},
    "qwen3_moe": _GATED | _NAMED["num_experts"] | {"decoder_sparse_step": 1},
    "olmoe": _GATED | _NAMED["num_experts"],
    "gpt_oss": _GATED
    | _NAMED["num_local_experts"]
    | {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4},
    "phimoe": _GATED | _NAMED["num_local_experts"],
    "granitemoe": _GATED | _NAMED["num_local_experts"],
    "deepseek_v2": _GATED | _GROUPS | _LATENT | {"num_key_value_heads": 4},
    "deepseek_v3": _GATED | _GROUPS | _LATENT | {"num_key_value_heads": 4},
    "glm4_moe": _GATED | _GROUPS | {"n_group": 1},
    "llama4_text": _GATED
    | _NAMED["num_local_experts"]
    | {"intermediate_size_mlp": 48, "layer_types": ["chunked_attention", "full_attention"], "attention_chunk_size": 4},
}
# Convolutions and scans: selective (Mamba), in chunks (Mamba-2), delta rule (Qwen3-Next), next to attention or alone.
_SSM = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "conv_kernel": 4, "expand": 2}
_HYBRID = {f"mamba_{name}": size for name, size in {"n_heads": 8, "d_head": 8, "d_state": 4, "chunk_size": 4}.items()}
_CONVOLUTION = {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}
_DELTA = {f"linear_{name}": size for name, size in {"num_key_heads": 2, "num_value_heads": 4}.items()}
SCANS = {
    "mamba": _SSM | {"time_step_rank": 4},
    "falcon_mamba": _SSM | {"time_step_rank": 4, "intermediate_size": 64},
    "mamba2": _SSM | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 4},
    "bamba": _GATED | _HYBRID | {"mamba_n_groups": 2, "attn_layer_indices": [1]},
    "falcon_h1": _GATED | _HYBRID | {"mamba_n_groups": 1, "mamba_d_ssm": 64},
    "jamba": _GATED
    | _NAMED["num_experts"]
    | {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
    },
    "qwen3_next": _GATED
    | _NAMED["num_experts"]
    | _DELTA
    | {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "shared_expert_intermediate_size": 16}
    | {"layer_types": ["linear_attention", "full_attention"], "decoder_sparse_step": 1},
    "lfm2": _GATED | _CONVOLUTION,
    "lfm2_moe": _GATED | _NAMED["num_experts"] | _CONVOLUTION | {"num_dense_layers": 1},
    "recurrent_gemma": _GATED
    | {"lru_width": 32, "attention_window_size": 16, "block_types": ["recurrent", "attention"]},
}
# Embeddings per layer written in place, a sparse activation.
WRITING = {
    "gemma3n_text": _GATED
    | {"vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}
    | {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
    | {"laurel_rank": 4, "activation_sparsity_pattern": [0.5, 0.0]},
}
MORE |= {"cohere": _GATED, "cohere2": _GATED | {"sliding_window": 4}, "glm": _GATED, "glm4": _GATED}
MORE |= ROUTED | SCANS | WRITING
ALL = (*NAMES, *MORE)


def model_of(name: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    if name in NAMES:
        return tiny(name, dtype)
    special = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(name.split(",")[0], **special | MORE[name])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # some vectors are drawn, and stay
        model = AutoModelForCausalLM.from_config(config)
    random = generator(0, "tiny", name)
    with torch.no_grad():
        for parameter in model.parameters():
            draw = 0.2 * torch.randn(parameter.shape, generator=random)
            parameter.copy_(draw if parameter.ndim > 1 else parameter + draw)
    return model.to(dtype).eval()


def loss_of(model: PreTrainedModel, length: int = 9) -> EmbeddingLoss:
    """Three rows, one of them padded, unequal numbers of scored tokens."""
    ids = torch.randint(3, VOCABULARY, (3, length), generator=generator(1, "ids"))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :3] = -100
    return EmbeddingLoss(model, {"input_ids": ids, "attention_mask": mask, "labels": labels})


def probes_of(loss: EmbeddingLoss, count: int, seed: int = 0) -> Tensor:
    V = torch.randn(count, *loss.shape, generator=generator(seed, "probes"), dtype=torch.float64)
    return (V * loss.mask[..., None]).to(loss.embeddings.dtype)


def assert_agree(one: TaylorQuadratics, other: TaylorQuadratics, rtol: float) -> None:
    """Relative to the largest entry of each quantity: v'Hv has both signs, so that single entries may cancel."""
    for name in ("loss", "hessian", "gauss_newton"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == torch.float64
        assert a.shape == b.shape
        assert float((a - b).abs().max()) <= rtol * float(b.abs().max()), name


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ALL)
def test_real_classes(name, attention):
    model = model_of(name)
    try:
        model.set_attn_implementation(attention)
    except ValueError:
        pytest.skip("Transformers has no such attention for this class")
    loss = loss_of(model)
    V = probes_of(loss, 4)
    with float64_throughout():
        assert_agree(taylor_quadratics(loss, V, groups=2), plain_quadratics(loss, V, groups=2), 1e-9)
    # Transformers rounds to float32 inside norms, angles and softmax of a stock float64 model.
    assert_agree(taylor_quadratics(loss, V, groups=2), plain_quadratics(loss, V, groups=2), 1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "mamba"])
def test_dense_hessian(name):
    """All of H and G from forms of e_i, e_j and e_i + e_j agree with torch's dense Hessian."""
    model = model_of(name)
    ids = torch.tensor([[5, 9, 23]])
    loss = EmbeddingLoss(model, {"input_ids": ids, "labels": ids})
    with float64_throughout():
        n = loss.embeddings.numel()
        H = torch.autograd.functional.hessian(
            lambda x: loss(x.view(loss.shape))[0], loss.embeddings.flatten(), vectorize=True
        )
        V = torch.eye(n, dtype=torch.float64).view(n, *loss.shape)
        forms = taylor_quadratics(loss, V, groups=n)
        trace = taylor_quadratics(loss, V, groups=1)
        pairs = taylor_quadratics(loss, V[:-1] + V[1:], groups=n - 1).hessian[:, 0]
        J = torch.autograd.functional.jacobian(
            lambda x: loss.logits(x.view(loss.shape)), loss.embeddings.flatten(), vectorize=True
        )
        p = loss.logits(loss.embeddings).softmax(-1)
    close = {"rtol": 1e-9, "atol": 1e-9 * float(H.abs().max())}
    torch.testing.assert_close(forms.hessian[:, 0], H.diagonal(), **close)
    torch.testing.assert_close(trace.hessian[0, 0] * n, H.trace(), **close)
    off_diagonal = (pairs - H.diagonal()[:-1] - H.diagonal()[1:]) / 2
    torch.testing.assert_close(off_diagonal, H.diagonal(1), **close)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    G = torch.einsum("tvi,tvw,twj->ij", J, inner, J) / len(p)
    torch.testing.assert_close(forms.gauss_newton[:, 0], G.diagonal(), **close)


def test_left_padding_and_another_point():
    model = model_of("llama")
    ids = torch.randint(3, VOCABULARY, (2, 8), generator=generator(1, "ids"))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    loss = EmbeddingLoss(model, {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)})
    V, X = probes_of(loss, 2), loss.embeddings + 0.1 * probes_of(loss, 1, seed=5)[0]
    with float64_throughout():
        assert_agree(taylor_quadratics(loss, V, groups=1, at=X), plain_quadratics(loss, V, groups=1, at=X), 1e-9)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 11, 12])
def test_groups_and_passes(monkeypatch, size):
    """However probes are cut into passes, group means are those of the probes one by one."""
    loss = loss_of(model_of("llama"))
    V = probes_of(loss, 12)
    with float64_throughout():
        single = taylor_quadratics(loss, V, groups=12)
    monkeypatch.setattr(engine, "chunk_size", lambda *_: size)
    for groups in (1, 3, 4, 12):
        with float64_throughout():
            cut = taylor_quadratics(loss, V, groups=groups)
        torch.testing.assert_close(cut.hessian, single.hessian.unflatten(0, (groups, -1)).mean(1))
        torch.testing.assert_close(cut.gauss_newton, single.gauss_newton)


@pytest.mark.parametrize(("probes", "groups", "size"), [(12, 4, 7), (12, 2, 5), (12, 1, 5), (7, 7, 3), (6, 3, 6)])
def test_passes_cover_every_probe_once(probes, groups, size):
    cuts = memory.passes(probes, groups, size)
    assert [k for some, _ in cuts for k in range(probes)[some]] == list(range(probes))
    members = probes // groups
    for some, sums in cuts:
        count = some.stop - some.start
        assert count <= size
        assert count % (sums.stop - sums.start) == 0
        assert {k // members for k in range(probes)[some]} == set(range(groups)[sums])


def test_blocks_change_rounding_only(monkeypatch):
    """Logits token by token, attention a few rows at a time."""
    loss = loss_of(model_of("gemma2"), length=40)
    V = probes_of(loss, 4)
    with float64_throughout():
        whole = taylor_quadratics(loss, V, groups=2)
        monkeypatch.setattr("symnoise.curvature.taylor.head._BLOCK", 1)
        monkeypatch.setattr(attention, "_BLOCK", 1)
        assert_agree(taylor_quadratics(loss, V, groups=2), whole, 1e-12)


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "gpt2", "opt", "t5"])
def test_logits_are_formed_in_blocks(monkeypatch, name):
    """Soft-capped and scaled logits too: coefficients for all scored tokens are never there at once."""
    tokens, real = [], head._terms

    def watched(value, *rest):
        tokens.append(len(value))
        return real(value, *rest)

    loss = loss_of(model_of(name))
    V = probes_of(loss, 2)
    whole = taylor_quadratics(loss, V, groups=1)
    monkeypatch.setattr(head, "_terms", watched)
    monkeypatch.setattr(head, "_BLOCK", 2 * 3 * VOCABULARY)
    collect = Taylor._collect

    def small(x):
        assert x.shape[-1] != VOCABULARY or x.numel() <= 2 * VOCABULARY
        return collect(x)

    monkeypatch.setattr(Taylor, "_collect", small)
    assert_agree(taylor_quadratics(loss, V, groups=1), whole, 1e-6)
    assert max(tokens) <= 2
    assert sum(tokens) == len(loss.targets)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_float32_and_bfloat16_coefficients(name):
    """float32 agrees with float64 to its rounding; bfloat16 coefficients (8 bits) to a few per cent of the mean."""
    exact_loss = loss_of(model_of(name))
    V = probes_of(exact_loss, 16).sign()
    exact = taylor_quadratics(exact_loss, V, groups=1)
    loss = loss_of(model_of(name, torch.float32))
    assert_agree(taylor_quadratics(loss, V.float(), groups=1), exact, 1e-4)
    rough = taylor_quadratics(loss, V.float(), groups=1, coefficients=torch.bfloat16)
    torch.testing.assert_close(rough.loss, exact.loss, rtol=1e-5, atol=0)  # the value stays float32
    scale = exact.hessian.abs().max()
    assert 1e-5 * scale < (rough.hessian - exact.hessian).abs().max() < 0.03 * scale
    for model in (exact_loss.model, loss.model):
        assert all(p.dtype == model.dtype for p in model.parameters())


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "qwen3_next", "mamba", "mamba2"])
def test_float32_experts_and_scans(name):
    """Experts by PyTorch's grouped product, which float64 has not; bfloat16 coefficients work too."""
    exact_loss = loss_of(model_of(name))
    V = probes_of(exact_loss, 4)
    exact = taylor_quadratics(exact_loss, V, groups=1)
    loss = loss_of(model_of(name, torch.float32))
    assert_agree(taylor_quadratics(loss, V.float(), groups=1), exact, 1e-4)
    rough = taylor_quadratics(loss, V.float(), groups=1, coefficients=torch.bfloat16)
    assert_agree(rough, exact, 0.05)


def test_many_probes_in_one_sum_do_not_wear_bfloat16_out():
    """A group of many is the mean of parts of 8: one sum of 256 would round its members away and err by a tenth."""
    loss = loss_of(model_of("llama", torch.float32))
    V = probes_of(loss, 256).sign().float()
    exact = taylor_quadratics(loss, V, groups=1).hessian
    one, parts = (taylor_quadratics(loss, V, groups=g, coefficients=torch.bfloat16).hessian for g in (1, 32))
    assert (one - exact).abs().max() < 0.03 * exact.abs().max()
    torch.testing.assert_close(one[0], parts.mean(0), rtol=1e-12, atol=0)


def test_directions_that_move_all_logits_alike_do_not_cancel_the_gauss_newton_part():
    """⟨z²⟩ − ⟨z⟩² in float32 would lose 8 % here, where the logits move a hundred times more than they part."""
    model = model_of("llama", torch.float32)
    with torch.no_grad():
        model.lm_head.weight += 100 * torch.randn(model.lm_head.weight.shape[1], generator=generator(1, "common"))
    loss = loss_of(model)
    taylor, products = (gauss_newton_trace(loss, method, probes=4).value for method in ("taylor", "hvp"))
    torch.testing.assert_close(taylor, products, rtol=1e-4, atol=0)


def test_model_left_as_found():
    model = model_of("llama", torch.float32).train()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    before = {name: p.clone() for name, p in model.named_parameters()}
    loss = loss_of(model)
    taylor_quadratics(loss, probes_of(loss, 2), groups=1)
    assert model.training
    assert torch.is_grad_enabled()
    assert all(p.requires_grad and p.grad is None and torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class _Median(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.median(-1, keepdim=True).values * x


def test_unsupported_operation_is_named():
    model = model_of("llama", torch.float32)
    model.model.layers[1].mlp.act_fn = _Median()
    loss = loss_of(model)
    with pytest.raises(UnsupportedOperation, match=r"aten.median.*layers.1.mlp.act_fn, a _Median.*method='hvp'"):
        taylor_quadratics(loss, probes_of(loss, 2), groups=1)


def test_nan_is_named(monkeypatch):
    loss = loss_of(model_of("llama", torch.float32))
    V = probes_of(loss, 4)
    V[2] *= 1e25  # its square overflows
    with pytest.raises(InputError, match=r"example 0, probe 2: second order.* at model.layers.0.input_layernorm"):
        taylor_quadratics(loss, V, groups=2)
    V[2, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="probe 2 has entries that are NaN"):
        taylor_quadratics(loss, V, groups=2)
    with torch.no_grad():
        loss.model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"the loss itself becomes NaN.*at model.layers.1.mlp"):
        taylor_quadratics(loss, probes_of(loss, 2), groups=2)


def test_out_of_memory_halves_the_pass(monkeypatch):
    loss = loss_of(model_of("llama"))
    V = probes_of(loss, 8)
    with float64_throughout():
        expected = taylor_quadratics(loss, V, groups=2)
    sizes, real = [], engine.token_terms

    def scarce(loss, logits):
        sizes.append(logits.frame.probes)
        if logits.frame.probes > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return real(loss, logits)

    monkeypatch.setattr(engine, "token_terms", scarce)
    with (
        pytest.warns(RuntimeWarning, match="continuing with 4 probes"),
        pytest.warns(RuntimeWarning, match="out of memory; continuing with 2 probes"),
        float64_throughout(),
    ):
        assert_agree(taylor_quadratics(loss, V, groups=2), expected, 1e-12)
    assert sizes == [8, 4, 2, 2, 2, 2]
    monkeypatch.setattr(engine, "token_terms", lambda *_: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        taylor_quadratics(loss, V, groups=2)


def test_memory_chooses_the_passes(monkeypatch):
    loss = loss_of(model_of("llama"))
    frames = []
    monkeypatch.setattr(engine, "Frame", lambda *a, **k: frames.append(a) or Frame(*a, **k))
    V = probes_of(loss, 8)
    taylor_quadratics(loss, V, groups=4, memory=memory_estimate(loss, 4, 2))
    assert [(k, g) for k, g, _ in frames] == [(4, 2)] * 2
    taylor_quadratics(loss, V, groups=4, memory=1)
    assert [(k, g) for k, g, _ in frames[2:]] == [(1, 1)] * 8
    assert memory_estimate(loss, 8, 4) > memory_estimate(loss, 4, 2) > 0
    assert memory.memory_limit(torch.device("cpu")) > 0


@pytest.mark.parametrize(
    ("name", "setting"),
    [("mixtral", "num_experts_per_tok"), ("mamba", "state_size"), ("jamba", "mamba_d_state")]
    + [("mamba2", "chunk_size"), ("bamba", "mamba_n_heads"), ("qwen3_next", "linear_num_value_heads")],
)
def test_memory_counts_experts_and_scans(name, setting):
    loss = loss_of(model_of(name, torch.float32))
    before = memory_estimate(loss, 4, 2)
    setattr(loss.model.config, setting, 16 * getattr(loss.model.config, setting))
    assert memory_estimate(loss, 4, 2) > 1.5 * before


def test_a_recurrence_needs_memory_for_some_steps_and_other_scans_for_all(monkeypatch):
    """More probes of a recurrence are more of what the other activations need, and no more of its states."""
    monkeypatch.setattr(memory, "STEPS", 0)
    for name, grows in (("mamba", False), ("mamba2", True)):
        found = {}
        for states in (1, 100):
            loss = loss_of(model_of(name, torch.float32))
            setting = "state_size" if name == "mamba" else "chunk_size"
            setattr(loss.model.config, setting, states * getattr(loss.model.config, setting))
            found[states] = memory_estimate(loss, 8, 2) - memory_estimate(loss, 4, 1)
        assert (found[100] > found[1]) == grows


@pytest.mark.parametrize("groups", [0, 3, 5, -1])
def test_groups_must_divide(groups):
    loss = loss_of(model_of("llama"))
    with pytest.raises(InputError, match="choose a divisor of 4"):
        taylor_quadratics(loss, probes_of(loss, 4), groups=groups)


def test_no_rule_is_a_wrong_rule(monkeypatch):
    """The comparison above can fail: a second derivative left out of SiLU is seen."""
    loss = loss_of(model_of("llama"))
    V = probes_of(loss, 2)
    silu = torch.ops.aten.silu
    original = RULES[silu]

    def without_bend(func, x, *args):
        y = original(func, x, *args)
        first = y.origin.first
        return Taylor(y.value, lambda: x.coefficients * first, x.frame)

    monkeypatch.setitem(RULES, silu, without_bend)
    with pytest.raises(AssertionError, match="hessian"), warnings.catch_warnings():
        assert_agree(taylor_quadratics(loss, V, groups=1), plain_quadratics(loss, V, groups=1), 1e-5)
