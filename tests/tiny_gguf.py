"""A .gguf file of the tiny Llama, written with llama.cpp's own library."""

from pathlib import Path

import gguf
import torch
from tokenizers import pre_tokenizers

from tests.tiny import CHAT_TEMPLATE, VOCABULARY, tiny

_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<system>", "<user>", "<assistant>"]
# é, è and the first half of an emoji, as their bytes are written.
BYTE_MERGES = ["t h", "Ã ©", "Ã ¨", "ð Ł", "ðŁ ĺ"]
_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(
    path: Path,
    *,
    seed: int = 0,
    leave_out: str = "",
    extra: dict[str, torch.Tensor] | None = None,
    tied: bool = True,
    architecture: str = "llama",
    bytewise: bool = False,
    half: bool = False,
) -> torch.nn.Module:
    """Write the tiny Llama in float32, and return it.

    leave_out: names one tensor to omit; extra: more tensors; tied: whether the head is the embedding table;
    architecture: what the file says it is; bytewise: a tokenizer that knows every byte, and a few merges, instead of
    one for plain letters; half: matrices in float16, as llama.cpp writes them.
    """
    model = tiny("llama", seed=seed)
    if half:
        model.half().float()
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(VOCABULARY)
    letters = ["Ġ", "Ċ", *map(chr, range(33, 127))][: VOCABULARY - len(_SPECIAL) - 1]
    if bytewise:
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = BYTE_MERGES if bytewise else ["t h"]
    tokens = [*_SPECIAL, *letters, *(merge.replace(" ", "") for merge in merges)]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(_SPECIAL) + [1] * (len(tokens) - len(_SPECIAL)))  # 3: control, 1: normal
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    head = {} if tied else {"output.weight": model.lm_head.weight}
    for name, tensor in [*_tensors(model), *head.items(), *(extra or {}).items()]:
        if name != leave_out:
            kept = tensor.half() if half and tensor.ndim > 1 else tensor
            writer.add_tensor(name, kept.detach().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _tensors(model):
    yield "token_embd.weight", model.model.embed_tokens.weight
    yield "output_norm.weight", model.model.norm.weight
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    for number, layer in enumerate(model.model.layers):
        for theirs, ours in _LAYER.items():
            weight = layer.get_submodule(theirs).weight
            if ours in heads:  # llama.cpp interleaves the two halves of each head that rotate together
                weight = weight.view(heads[ours], 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
            yield f"blk.{number}.{ours}.weight", weight
