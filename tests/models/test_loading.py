"""Every way to name a model, and every way in which that can go wrong."""

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from transformers.utils import logging

from symnoise.core import InputError, sha256
from symnoise.models.loading import load_model
from tests.tiny import tiny, tiny_tokenizer
from tests.tiny_gguf import write_gguf

IDS = torch.arange(3, 20)[None]


def save(folder, name="llama"):
    model = tiny(name)
    model.save_pretrained(folder)
    tiny_tokenizer(chat=True).save_pretrained(folder)
    return model


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
    assert record["sha256"] == {"model.safetensors": sha256(folder / "model.safetensors")}
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


def adapter(folder):
    without_weights(folder)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")


def truncated(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def without_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


def headless(folder):
    tiny("llama").model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_weights, "no safetensors weights"),
        (pickled, "pickled weights"),
        (adapter, "merge it into its model"),
        (truncated, "damaged"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "damaged"),
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
        ("short.gguf", b"GGUF\x03\0\0\0" + b"\0" * 8, "cannot load"),
    ],
)
def test_files_that_hold_no_readable_model(tmp_path, file, content, says):
    (tmp_path / file).write_bytes(content)
    refused(tmp_path / file, says)


def test_gguf_that_is_cut_short_or_lacks_a_tensor(tmp_path):
    path = tmp_path / "tiny.gguf"
    write_gguf(path, leave_out="blk.1.ffn_up.weight")
    refused(path, r"lacks weights .*model\.layers\.1\.mlp\.up_proj\.weight")
    write_gguf(path)
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "cannot load")


def test_model_without_an_embedding_table(folder, monkeypatch):
    from transformers import LlamaForCausalLM

    monkeypatch.setattr(LlamaForCausalLM, "get_input_embeddings", lambda self: None)
    refused(folder, "no embedding table")


def test_unknown_device(folder):
    refused(folder, "cannot put .* on device 'tpu9'", device="tpu9")
