"""Tiny random models of the real Transformers classes, and tokenizers to go with them: seconds, no downloads."""

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from symnoise.core import generator

VOCABULARY = 97
_SPECIAL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,  # grouped queries
    "head_dim": 8,
    "max_position_embeddings": 128,
}
# A window shorter than the test sequences in one layer, none in the other: both kinds of mask are met.
_WINDOW = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 8}
_CONFIGS = {
    "llama": _LLAMA,
    "mistral": _LLAMA | {"sliding_window": 4},
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA | _WINDOW,
    "gemma3_text": _LLAMA | _WINDOW,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
    },
    "t5": {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
    },
}
NAMES = tuple(name.removesuffix("_text") for name in _CONFIGS)
# Experts. Models that multiply the table's output: Granite and the Gemmas what they are given as inputs_embeds too,
# Pegasus its own alone.
_CONFIGS |= {
    "granite": _LLAMA | {"embedding_multiplier": 12.0},
    "mixtral": _LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "recurrent_gemma": _LLAMA
    | {"lru_width": 32, "attention_window_size": 16, "block_types": ["recurrent", "attention"]},
    "t5gemma": {"encoder": _LLAMA | {"vocab_size": VOCABULARY}, "decoder": _LLAMA | {"vocab_size": VOCABULARY}},
    "pegasus": {
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "max_position_embeddings": 128,
        "scale_embedding": True,
        "decoder_start_token_id": 0,
    },
}
DECODERS = tuple(name for name in NAMES if name != "t5")


def tiny(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> PreTrainedModel:
    """A random model named in `_CONFIGS`: width 32, 2 layers, 97 tokens, eval mode.

    Matrices are N(0, 0.2²), ten times the usual start, so that curvature is not negligible; vectors (norm gains,
    biases) are moved off their 0 or 1 by as much, so that no term is left out unnoticed. Only the seed matters.
    """
    kind = name if name in _CONFIGS else f"{name}_text"
    config = AutoConfig.for_model(kind, **_SPECIAL | _CONFIGS[kind])
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):  # the constructor draws from the global generator, also vectors that stay
        torch.manual_seed(0)
        model = auto.from_config(config)
    random = generator(seed, "tiny", name)
    with torch.no_grad():
        for parameter in model.parameters():
            draw = 0.2 * torch.randn(parameter.shape, generator=random)
            parameter.copy_(draw if parameter.ndim > 1 else parameter + draw)
    return model.to(dtype).eval()


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """`model`, which computes the same while training as in evaluation."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tiny_tokenizer(*, chat: bool = False, pad: bool = True, bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 97 entries, one token a character: ids 0 pad, 1 <s>, 2 </s>, 3 <unk>, then characters.

    With `chat`, a chat template and the role marks <system>, <user>, <assistant>; with `bos`, <s> is put before
    every text, as Llama's tokenizers do; without `pad`, there is no padding token, as in GPT-2's.
    """
    words = ["<pad>", "<s>", "</s>", "<unk>", "<system>", "<user>", "<assistant>"]
    characters = ["\n", *map(chr, range(32, 127))]
    characters = [c for c in characters if c not in "`~^@|\\"][: VOCABULARY - len(words)]
    vocabulary = {word: index for index, word in enumerate([*words, *characters])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>" if pad else None,
        additional_special_tokens=words[4:],
    )
    tokenizer.chat_template = CHAT_TEMPLATE if chat else None
    return tokenizer
