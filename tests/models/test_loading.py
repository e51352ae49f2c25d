"""Every way to name a model, and every way in which that can go wrong."""

import copy
import errno
import json
import shutil

import pytest
import torch
from gguf import GGUFReader
from huggingface_hub import constants
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForImageTextToText, LlamaForCausalLM
from transformers.utils import logging

from symnoise.core import InputError, generator, sha256
from symnoise.data import Example, encode
from symnoise.models import EmbeddingLoss, converted, gguf, loading
from symnoise.models.loading import load_model
from symnoise.noise import Noise
from symnoise.training import attach
from tests.tiny import tiny, tiny_tokenizer
from tests.tiny_gguf import BYTE_MERGES, write_gguf

IDS = torch.arange(3, 20)[None]


def save(folder, name="llama"):
    model = tiny(name)
    model.save_pretrained(folder)
    tiny_tokenizer(chat=True).save_pretrained(folder)
    return model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where GGUF files are converted to."""
    monkeypatch.setenv("SYMNOISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_folder_gives_back_the_model(tmp_path, name):
    model = save(tmp_path, name)
    loaded = load_model(tmp_path)
    assert torch.equal(loaded.model(IDS).logits, model(IDS).logits)
    assert (loaded.source, loaded.seq2seq, loaded.model.training) == ("folder", False, False)
    assert loaded.tokenizer("Hi").input_ids == tiny_tokenizer()("Hi").input_ids
    assert loaded.tokenizer.chat_template == tiny_tokenizer(chat=True).chat_template


def test_encoder_decoder_is_loaded_as_such(tmp_path):
    model = save(tmp_path, "t5")
    loaded = load_model(str(tmp_path))
    assert loaded.seq2seq
    assert torch.equal(loaded.model(input_ids=IDS, labels=IDS).loss, model(input_ids=IDS, labels=IDS).loss)


def test_dtype_and_provenance(folder):
    loaded = load_model(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    record = loaded.provenance()
    assert record["sha256"] == {name: sha256(folder / name) for name in ("model.safetensors", "config.json")}
    assert (record["class"], record["dtype"], record["source"]) == ("LlamaForCausalLM", "bfloat16", "folder")
    assert record["parameters"] == sum(parameter.numel() for parameter in tiny("llama").parameters())


def test_loading_leaves_the_global_generator_and_the_logging_alone(folder, tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")
    logger = logging.get_logger("transformers")
    monkeypatch.setattr(logger, "level", logging.INFO)
    logging.enable_progress_bar()
    before = torch.get_rng_state(), logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(folder)
    load_model(tmp_path / "tiny.gguf")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before[1:]


def test_gguf_gives_back_the_model(tmp_path):
    model = write_gguf(tmp_path / "tiny.gguf")
    loaded = load_model(tmp_path / "tiny.gguf")
    assert torch.equal(loaded.model(IDS).logits, model(IDS).logits)
    assert (loaded.source, loaded.model.training) == ("gguf", False)
    assert loaded.tokenizer.chat_template
    assert loaded.tokenizer.decode(loaded.tokenizer("the <user>").input_ids) == "the <user>"
    assert loaded.provenance()["sha256"] == {"tiny.gguf": sha256(tmp_path / "tiny.gguf")}
    assert not hasattr(loaded.model.config, "quantization_config")  # else a Trainer takes it for a quantised model
    loaded.model.save_pretrained(tmp_path / "saved")  # Transformers refuses this to a model marked as quantised


def test_hub_id_comes_from_the_cache_when_offline(folder, tmp_path, monkeypatch):
    commit = "c" * 40
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    loaded = load_model("someone/tiny")
    assert (loaded.source, loaded.revision) == ("hub", commit)
    assert torch.equal(loaded.model(IDS).logits, tiny("llama")(IDS).logits)
    assert loaded.provenance()["sha256"] == {}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("smolm2", "did you mean 'smollm2'"),
        ("SmolLM2", "did you mean 'smollm2'"),
        ("someone/something-else", "hub cannot be reached"),
        ("somemodel", "hub cannot be reached"),
        ("no/such/folder", "no model file or folder"),
        ("missing.gguf", "no model file or folder"),
        ("a b/c", "no file, folder or hub id"),
        ("", "has no name"),
    ],
)
def test_names_that_lead_nowhere(name, says):
    refused(name, says)


def refused(name, says, **options):
    with pytest.raises(InputError, match=says) as caught:
        load_model(name, **options)
    assert "\n" not in str(caught.value)


def configured(folder, **changes):
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def pickled(folder):
    without_weights(folder)
    torch.save({}, folder / "pytorch_model.bin")


def truncated(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def without_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def headless(folder):
    tiny("llama").model.save_pretrained(folder)


def tokenizing(folder, **changes):
    config = json.loads((folder / "tokenizer_config.json").read_text()) | changes
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: tokenizing(folder, model_max_length={}), "model_max_length {}"),
        (without_weights, "no safetensors weights"),
        (pickled, "pickled weights"),
        (truncated, "corrupted"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "corrupted"),
        (without_tokenizer, "no readable tokenizer"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON"),
        (lambda folder: configured(folder, model_type="novel"), "does not know its model type"),
        (lambda folder: configured(folder, model_type="vit"), "not a language model"),
        (lambda folder: configured(folder, architectures=["BertForMaskedLM"]), "masked language model"),
        (lambda folder: configured(folder, hidden_size=64), "do not have the shapes"),
        (lambda folder: configured(folder, num_hidden_layers=3), "lacks weights"),
        (lambda folder: configured(folder, model_type="x", auto_map={"AutoConfig": "a.B"}), "code of its own"),
        (headless, "lm_head.weight"),
    ],
)
def test_folders_that_hold_no_readable_model(folder, spoil, says):
    spoil(folder)
    refused(folder, says)


def adapter(folder, target, config=None):
    """An adapter of the model in `folder` with weights that are not 0, saved in `target`, and the two as one."""
    base = load_model(folder).model
    base.name_or_path = str(folder)
    torch.manual_seed(0)
    adapted = get_peft_model(base, config or LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(target)
    return adapted.eval()


def test_an_adapter_is_loaded_into_the_model_that_it_names(folder, tmp_path):
    wanted = adapter(folder, tmp_path / "adapter")(IDS).logits
    loaded = load_model(tmp_path / "adapter")
    assert float((wanted - tiny("llama")(IDS).logits).detach().abs().max()) > 0.1
    torch.testing.assert_close(loaded.model(IDS).logits, wanted, rtol=0, atol=1e-5)
    assert (loaded.source, type(loaded.model).__name__) == ("folder", "LlamaForCausalLM")
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())  # it can be trained further
    assert loaded.tokenizer("Hi").input_ids == tiny_tokenizer()("Hi").input_ids
    record = loaded.provenance()
    assert list(record["sha256"]) == ["adapter_model.safetensors", "adapter_config.json"]
    assert list(record["base"]["sha256"]) == ["model.safetensors", "config.json"]
    loaded.model.save_pretrained(tmp_path / "saved")
    tiny_tokenizer(bos=True).save_pretrained(tmp_path / "adapter")
    assert load_model(tmp_path / "adapter").tokenizer("Hi").input_ids[0] == 1  # its own goes before


def test_another_configuration_is_another_model(folder):
    """Batches kept for a rerun were used with the rest measured under another scale of positions."""
    before = load_model(folder).provenance()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-2}))
    after = load_model(folder).provenance()
    assert [name for name in before["sha256"] if before["sha256"][name] != after["sha256"][name]] == ["config.json"]


def names(**changes):
    def change(folder):
        config = json.loads((folder / "adapter_config.json").read_text()) | changes
        (folder / "adapter_config.json").write_text(json.dumps(config))

    return change


@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")  # PEFT's; we refuse, and say why
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (names(base_model_name_or_path=None), "names no base model"),
        (names(base_model_name_or_path="no/such/folder"), "there is no model file or folder no/such/folder"),
        (names(revision="v2"), "asks for revision 'v2' of .*, and only the newest is loaded: download"),
        (names(target_modules=["k_proj"]), "does not fit its base model"),
        (lambda folder: (folder / "adapter_config.json").write_text("["), "is no configuration of an adapter"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b""), "does not fit its base model"),
    ],
)
def test_adapters_that_cannot_be_loaded(folder, tmp_path, spoil, says):
    adapter(folder, tmp_path / "adapter")
    spoil(tmp_path / "adapter")
    refused(tmp_path / "adapter", says)


def test_an_adapter_that_is_no_change_of_weights(folder, tmp_path):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    adapter(folder, tmp_path / "adapter", config)
    refused(tmp_path / "adapter", r"\(PROMPT_TUNING\) that cannot be merged")


def test_empty_folder(tmp_path):
    refused(tmp_path, "no safetensors weights")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("model.txt", b"text", "neither safetensors nor GGUF"),
        ("model.bin", b"pickle", "pickled"),
        ("model.safetensors", b"", "weights alone"),
        ("empty.gguf", b"", "does not begin with GGUF"),
        ("other.gguf", b"nothing of the kind", "does not begin with GGUF"),
        ("short.gguf", b"GGUF\x03\0\0\0" + b"\0" * 8, "cut short or corrupted: fetch it again"),
    ],
)
def test_files_that_hold_no_readable_model(tmp_path, file, content, says):
    (tmp_path / file).write_bytes(content)
    refused(tmp_path / file, says)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError("It looks like the config file is not valid"), r"cannot read .*tiny\.gguf: It looks like"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot keep .*: No space left on device; it needs 0.0 GB"),
    ],
)
def test_gguf_that_cannot_be_read_and_a_full_disk_are_told_apart(tmp_path, cache, monkeypatch, error, says):
    write_gguf(tmp_path / "tiny.gguf")

    def fail(*_):
        raise error

    monkeypatch.setattr(converted, "_convert", fail)
    refused(tmp_path / "tiny.gguf", says)
    assert not list(cache.glob("*"))


def test_too_little_memory_is_no_corrupted_file(tmp_path, cache, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf")

    def fail(*_):
        raise RuntimeError("unable to mmap 538090408 bytes from file: Cannot allocate memory (12)")

    monkeypatch.setattr(loading, "_read", fail)
    refused(tmp_path / "tiny.gguf", "not enough memory to load tiny: unable to mmap")


def test_gguf_that_is_cut_short_or_lacks_a_tensor(tmp_path, cache):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, leave_out="blk.1.ffn_up.weight")
    refused(path, r"lacks weights .*model\.layers\.1\.mlp\.up_proj\.weight")
    write_gguf(path)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "cut short or corrupted: fetch it again")
    assert not list(cache.glob("*"))


@pytest.mark.parametrize("name", ["blk.0.attn_sinks.weight", "rope_factors_long.weight", "blk.1.attn_q.bias"])
def test_gguf_with_a_tensor_that_would_go_unused(tmp_path, cache, name):
    """Transformers passes over it without a word, and computes something else."""
    write_gguf(tmp_path / "tiny.gguf", extra={name: torch.ones(32)})
    refused(tmp_path / "tiny.gguf", f"has tensors that Transformers makes no use of .{name}.")
    assert not list(cache.glob("*"))


def test_gguf_of_an_unknown_architecture(tmp_path):
    write_gguf(tmp_path / "tiny.gguf", architecture="dream")
    refused(tmp_path / "tiny.gguf", "is of the architecture 'dream', which Transformers does not read from GGUF")


def test_gguf_with_rotary_factors_is_llama_3_1(tmp_path):
    """Llama 3.1's scaling, worked out by Transformers from its own settings, against the factors in the file."""
    model = write_gguf(tmp_path / "plain.gguf")
    scaled = copy.deepcopy(model.config)
    scaled.rope_parameters |= {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    wanted = LlamaForCausalLM(scaled).eval()
    wanted.load_state_dict(model.state_dict())
    factors = model.model.rotary_emb.inv_freq / wanted.model.rotary_emb.inv_freq
    assert float(factors.min()) == 1 and float(factors.max()) == 8
    write_gguf(tmp_path / "tiny.gguf", extra={"rope_freqs.weight": factors})
    ids = torch.randint(3, 97, (1, 100), generator=generator(0, "ids"))  # some positions are far apart
    found = load_model(tmp_path / "tiny.gguf").model(ids).logits
    assert float((wanted(ids).logits - model(ids).logits).abs().max()) > 0.1
    torch.testing.assert_close(found, wanted(ids).logits, rtol=0, atol=1e-4)
    ones = {"rope_freqs.weight": torch.ones(4)}
    write_gguf(tmp_path / "ones.gguf", extra=ones)
    torch.testing.assert_close(load_model(tmp_path / "ones.gguf").model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("tied", [False, True])
def test_gguf_heads(tmp_path, tied):
    """Grouped queries, permuted as llama.cpp has them, with a head of its own and without."""
    model = write_gguf(tmp_path / "tiny.gguf", tied=tied)
    loaded = load_model(tmp_path / "tiny.gguf").model
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied


def test_gguf_tokenizer_with_accents_and_emoji(tmp_path):
    """Against byte-level BPE made of the same entries by the tokenizers library."""
    write_gguf(tmp_path / "tiny.gguf", bytewise=True)
    found = gguf.load_tokenizer(tmp_path / "tiny.gguf")
    own = Tokenizer(models.BPE(found.get_vocab(), [tuple(merge.split()) for merge in BYTE_MERGES]))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in ("the thé", "très déjà vu", "ça va 😀😂", "naïve — “quotes”", "東京 ok", "e\u0301"):
        ids = found(text).input_ids
        assert ids == own.encode(text).ids
        assert found.decode(ids) == text
        assert found.unk_token_id not in ids
    assert len(found("é").input_ids) == 1


def test_any_gguf_is_converted_once(tmp_path, cache, capfd):
    write_gguf(tmp_path / "tiny.gguf")
    first = load_model(tmp_path / "tiny.gguf")
    assert "first use of tiny" in (said := capfd.readouterr().err) and "Converting and de-quantizing" not in said
    again = load_model(tmp_path / "tiny.gguf")
    assert capfd.readouterr().err == ""
    assert torch.equal(first.model(IDS).logits, again.model(IDS).logits)
    (folder,) = cache.iterdir()
    assert folder.name == f"tiny-{sha256(tmp_path / 'tiny.gguf')[:16]}"


def test_the_index_of_a_file_is_read_once(tmp_path, cache, monkeypatch):
    """And not by each part of Transformers that asks for something in it."""
    reads, real = [], GGUFReader._build_fields
    monkeypatch.setattr(GGUFReader, "_build_fields", lambda *given: reads.append(given) or real(*given))
    write_gguf(tmp_path / "tiny.gguf")
    config = loading.load_config(tmp_path / "tiny.gguf")
    assert len(reads) == 1
    assert load_model(tmp_path / "tiny.gguf").model.config.hidden_size == config.hidden_size
    assert len(reads) == 2


@pytest.mark.parametrize("tied", [False, True])
def test_weights_in_16_bit_are_cached_in_16_bit(tmp_path, cache, tied):
    """With the same numbers, whatever precision is asked for; those in 32 bit stay in 32."""
    sizes = []
    for half in (True, False):
        model = write_gguf(tmp_path / f"{half}.gguf", half=half, tied=tied)
        for dtype in (torch.float32, torch.float64):
            loaded = load_model(tmp_path / f"{half}.gguf", dtype=dtype).model
            assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
            assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied
            assert all(
                torch.equal(a.to(dtype), b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True)
            )
        (folder,) = cache.glob(f"{half}-*")
        sizes.append((folder / "model.safetensors").stat().st_size)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert sizes[1] - sizes[0] == pytest.approx(2 * weights, rel=0.01)


def test_a_vision_language_model_is_loaded_for_its_text(tmp_path):
    """Measured and trained on the text alone, as its own loss has it."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        "llava",
        text_config={"model_type": "llama", "vocab_size": 97, "num_key_value_heads": 2, **sizes},
        vision_config={"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, **sizes},
        image_token_index=5,
    )
    model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(tmp_path)
    tiny_tokenizer(chat=True).save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded.model) is type(model)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": loaded.tokenizer.chat_template}))
    assert load_model(tmp_path).tokenizer.chat_template == loaded.tokenizer.chat_template  # as older ones are saved
    example = Example((("user", "Hi"), ("assistant", "Yo")))
    batch = encode([example], loaded.tokenizer, max_length=50, model=loaded.model)
    loss = EmbeddingLoss(loaded.model, batch)
    with torch.no_grad():
        assert float(loss(loss.embeddings)) == pytest.approx(float(model.eval()(**batch).loss), rel=1e-6)
        model.train()
        with attach(model, Noise.neftune(5.0)) as noise:
            assert model(**batch).loss != loss(loss.embeddings)
    assert noise.fired == 1


def test_model_without_an_embedding_table(folder, monkeypatch):
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "get_input_embeddings", lambda self: None)
    refused(folder, "no embedding table")


def test_unknown_device(folder):
    refused(folder, "cannot put .* on device 'tpu9'", device="tpu9")
