"""Which Transformers classes are measured and trained correctly: the table in docs/models.md.

    python -m experiments.model_table --output docs

A tiny model of every class, with random weights, is checked in four ways (no downloads; a minute in all):

measured   the largest relative difference of `EmbeddingLoss` from the model's own loss with labels, at X row by row,
           and of ℓ(X + ε) from the loss of a training forward pass to which `attach` adds the same ε
fires      the number of draws per training forward pass
pair       the largest difference between a SymNoise step's gradient and the mean gradient of its two sides, over the
           largest entry; a hook of this script makes the sides, with one backward pass each
curvature  Taylor mode where all operations have rules, else Hessian products and the operation that lacks a rule; and
           the relative difference between the two where both run
"""

import csv
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from torch import Tensor

from result_schema.bad_input import one_line_on_bad_input
from symnoise.core import InputError, generator, track, write_atomically
from symnoise.curvature import HessianProducts, inner, random_probes
from symnoise.curvature.taylor import UnsupportedOperation, taylor_quadratics
from symnoise.models import EmbeddingLoss
from symnoise.models.muted import muted
from symnoise.noise import Noise
from symnoise.training import attach
from symnoise.training.target import find_target
from symnoise.training.trainer import SymNoiseTrainer

NOISE = Noise.symnoise(5.0)
_LENGTHS = (9, 6, 8)
_CLASSES = 3  # of the classifiers
# Sizes under the names used by all families; each family takes those it has.
_SIZES: dict[str, Any] = {
    "vocab_size": 97, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 0,
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "word_embed_proj_dim": 32, "embedding_size": 32,
    "intermediate_size": 48, "ffn_dim": 48, "d_ff": 48, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "num_hidden_layers": 2, "n_layer": 2, "num_layers": 2, "n_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2,
    "num_attention_heads": 4, "n_head": 4, "num_heads": 4, "n_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "d_kv": 8, "rotary_dim": 8,
    "max_position_embeddings": 64, "n_positions": 64, "max_seq_len": 64, "sliding_window": 4, "num_labels": _CLASSES,
    "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
}  # fmt: skip
_ROUTED = {"output_router_logits": True, "router_aux_loss_coef": 0.5}
# Experts in groups next to shared ones, queries and keys through a narrow layer, scans of several heads.
_GROUPED = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1}
_LATENT = {
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
    "num_key_value_heads": 4,
}  # fmt: skip
_SCANNED = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
_MASKED, _SEQUENCE, _TOKEN = "MaskedLM", "SequenceClassification", "TokenClassification"
# Architecture, task (a causal or encoder-decoder language model if empty), and further settings.
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    *((kind, "", {}) for kind in (
        "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo2", "cohere",
        "cohere2", "stablelm", "starcoder2", "smollm3", "gpt2", "gpt_bigcode", "gptj", "opt", "bloom", "gpt_neox",
        "glm", "codegen", "nemotron", "mamba",
    )),
    ("gpt_neo", "", {"attention_types": [[["global", "local"], 1]], "window_size": 4}),
    ("mamba2", "", {"num_heads": 8, "n_groups": 1, "state_size": 8}),
    ("falcon", "", {"new_decoder_architecture": False, "multi_query": True}),
    ("granite", "", {"embedding_multiplier": 12.0}),
    ("gemma3n_text", "", {
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97, "num_kv_shared_layers": 0, "laurel_rank": 4,
        "activation_sparsity_pattern": [0.0, 0.0], "layer_types": ["sliding_attention", "full_attention"],
    }),
    ("gemma4_text", "", {
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 97, "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 8,
    }),
    ("mixtral", "", _ROUTED),
    ("qwen3_moe", "", {**_ROUTED, "decoder_sparse_step": 1}),
    ("olmoe", "", _ROUTED),
    ("qwen2_moe", "", {"shared_expert_intermediate_size": 24}),
    ("granitemoe", "", {}),
    ("llama4_text", "", {
        "intermediate_size_mlp": 48, "layer_types": ["chunked_attention", "full_attention"], "attention_chunk_size": 4,
    }),
    ("glm4_moe", "", {**_GROUPED, "n_group": 1}),
    ("deepseek_v2", "", {**_GROUPED, **_LATENT}),
    ("deepseek_v3", "", {**_GROUPED, **_LATENT}),
    ("gpt_oss", "", {"layer_types": ["sliding_attention", "full_attention"]}),
    ("recurrent_gemma", "", {
        "lru_width": 32, "attention_window_size": 16, "block_types": ["recurrent", "attention"]
    }),
    ("falcon_mamba", "", {"intermediate_size": 64}),
    ("bamba", "", {**_SCANNED, "attn_layer_indices": [1]}),
    ("falcon_h1", "", {**_SCANNED, "mamba_d_ssm": 64}),
    ("jamba", "", {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_offset": 1}),
    ("qwen3_next", "", {
        "layer_types": ["linear_attention", "full_attention"], "shared_expert_intermediate_size": 16,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    }),
    ("lfm2", "", {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8}),
    ("lfm2_moe", "", {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1}),
    ("t5", "", {"feed_forward_proj": "gated-gelu"}),
    ("bart", "", {}),
    ("pegasus", "", {"scale_embedding": True}),
    ("t5gemma", "", {"encoder": {**_SIZES}, "decoder": {**_SIZES}}),
    *((kind, task, {}) for kind in ("bert", "roberta", "modernbert") for task in (_MASKED, _SEQUENCE, _TOKEN)),
    ("electra", _MASKED, {}),
    ("llama", _SEQUENCE, {}),
)  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A row of the table."""

    model: str
    measured: float
    fires: int
    pair: float
    curvature: str
    agreement: float | None


def tiny(kind: str, task: str, more: Mapping[str, Any], seed: int = 0) -> Any:
    """A model of the class with N(0, 0.2²) weights: every term of the forward counts, no dropout, evaluation mode."""
    derived = ("head_dim",) if kind == "falcon" else ()  # from the others, and refused
    sizes = {name: size for name, size in _SIZES.items() if name not in derived}
    config = transformers.AutoConfig.for_model(kind, **{**sizes, **more})
    what = task or ("Seq2SeqLM" if config.is_encoder_decoder else "CausalLM")
    for part in (config, getattr(config, "encoder", None), getattr(config, "decoder", None)):
        for name, value in vars(part).items() if part is not None else ():
            if "drop" in name and isinstance(value, float):
                setattr(part, name, 0.0)
    with torch.random.fork_rng(devices=[]):
        model = getattr(transformers, f"AutoModelFor{what}").from_config(config)
    random = generator(seed, "model table", kind)
    with torch.no_grad():
        for parameter in model.parameters():
            draw = 0.2 * torch.randn(parameter.shape, generator=random)
            parameter.copy_(draw if parameter.ndim > 1 else parameter + draw)
    return model.eval()


def rows(model: Any) -> list[dict[str, Any]]:
    """Random token ids, with labels as the class wants them; causal models score the last two thirds."""
    made, random = [], generator(0, "model table rows")
    for length in _LENGTHS:
        ids = torch.randint(3, 97, (length,), generator=random)
        labels = ids.clone()
        if type(model).__name__.endswith(_SEQUENCE):
            labels = ids[0] % _CLASSES
        elif type(model).__name__.endswith(_TOKEN):
            labels = ids % _CLASSES
        else:
            labels[: length // 3] = -100
        made.append({"input_ids": ids, "labels": labels})
    return made


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A right-padded batch."""
    ids = [torch.as_tensor(example["input_ids"]) for example in examples]
    labels = [torch.as_tensor(example["labels"]) for example in examples]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(ids, batch_first=True),
        "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": torch.stack(labels) if labels[0].ndim == 0 else pad(labels, batch_first=True, padding_value=-100),
    }


def ask(kind: str, task: str = "", more: Mapping[str, Any] | None = None) -> Answer:
    """The row of one class."""
    more = more or {}
    model = tiny(kind, task, more)
    loss = EmbeddingLoss(model, collate(rows(model)))
    measured, fired = _measured(model)
    curvature, agreement = _curvature(loss)
    return Answer(type(model).__name__, measured, fired, _pair(tiny(kind, task, more)), curvature, agreement)


def _own_loss(model: Any, example: dict[str, Any]) -> float:
    """The model's own in training mode, without a router's term, which is not the loss of an example."""
    model.train()
    with torch.no_grad():
        extra = {"output_router_logits": False} if getattr(model.config, "output_router_logits", False) else {}
        return float(model(**collate([example]), **extra).loss)


def _measured(model: Any) -> tuple[float, int]:
    differences, fires = [], set()
    for example in rows(model):
        loss = EmbeddingLoss(model, collate([example]))
        X = loss.embeddings
        with attach(model, Noise("rademacher", 5.0), seed=3) as noise:
            noised = _own_loss(model, example)
            fires.add(noise.fired)
            plan = noise.plan(collate([example]), (0, 0))
            epsilon = noise.epsilon(plan, X.shape[-1], X.dtype) * find_target(model).multiplier
        pairs = ((loss(X), _own_loss(model, example)), (loss(X + epsilon), noised))
        differences += [abs(float(found) - own) / abs(own) for found, own in pairs]
    (fired,) = fires
    return max(differences), fired


@contextmanager
def _added(model: Any, epsilon: Tensor) -> Iterator[None]:
    left = [epsilon]
    hook = find_target(model).embedding.register_forward_hook(lambda *call: call[2] + left.pop() if left else None)
    try:
        yield
    finally:
        hook.remove()


def _pair(model: Any) -> float:
    batch = collate(rows(model))
    target = find_target(model)
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(folder, use_cpu=True, report_to="none", disable_tqdm=True)
        trainer = SymNoiseTrainer(model=model, args=arguments, noise=NOISE, noise_seed=3)
        model.train()
        (_, count) = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
        trainer.training_step(model, batch, num_items_in_batch=count)
        trainer._detach()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    like = target.embedding(batch["input_ids"])
    for side in NOISE.sample_pair(like, batch["attention_mask"], generator=generator(3, "noise", 0, 0, 0)):
        with _added(model, side / target.multiplier):
            (model(**batch).loss / 2).backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    largest = max(float(p.abs().max()) for p in wanted.values())
    return max(float((found[name] - wanted[name]).abs().max()) for name in wanted) / largest


def _curvature(loss: EmbeddingLoss) -> tuple[str, float | None]:
    z = random_probes(loss, 1, seed=0)
    products = inner(z[0], HessianProducts(loss)(z[0]))
    try:
        taylor = taylor_quadratics(loss, z, groups=1).hessian[0]
    except UnsupportedOperation as error:
        return f"products (no rule for {error.operation})", None
    return "Taylor", float((taylor - products).norm() / products.norm())


def page(answers: list[Answer]) -> str:
    """The table in Markdown."""
    lines = [
        "# Models",
        "",
        "Generated by `python -m experiments.model_table --output docs` from tiny models with random weights in "
        f"float32, with Transformers {transformers.__version__}; the data are in [models.csv](models.csv).",
        "",
        "- **Measured = trained**: largest relative difference of `EmbeddingLoss` from the model's own loss, at X, and "
        "of ℓ(X + ε) from a training forward pass to which `attach` adds the same ε.",
        "- **Fires**: draws per training forward pass.",
        "- **Pair**: largest difference between a SymNoise step's gradient and the mean gradient of its sides, over "
        "the largest entry. Mixtures of experts include their router loss.",
        "- **Curvature**: Taylor mode, or Hessian products where an operation has no rule; their difference.",
        "",
        "| class | measured = trained | fires | pair | curvature | Taylor − products |",
        "|---|---|---|---|---|---|",
    ]
    for a in answers:
        agreement = "" if a.agreement is None else f"{a.agreement:.0e}"
        lines.append(f"| {a.model} | {a.measured:.0e} | {a.fires} | {a.pair:.0e} | {a.curvature} | {agreement} |")
    return "\n".join(lines) + "\n"


def main(output: Annotated[Path, typer.Option(help="Folder for models.csv and models.md.")] = Path("docs")) -> None:
    """Check every class, and write the table."""
    answers = []
    with muted(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, task, more in track(CASES, "classes"):
            try:
                answers.append(ask(kind, task, more))
            except InputError as error:
                raise InputError(f"{kind} {task}: {error}") from error

    def table(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Answer)])
            writer.writeheader()
            writer.writerows(asdict(answer) for answer in answers)

    write_atomically(output / "models.csv", table)
    write_atomically(output / "models.md", lambda path: path.write_text(page(answers), encoding="utf-8"))


if __name__ == "__main__":
    one_line_on_bad_input(lambda: typer.run(main))
