"""Layers streamed from disk: the same numbers, and never more than a layer's weights at once."""

import weakref
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from transformers import LlamaConfig, LlamaForCausalLM

from symnoise.core import InputError
from symnoise.curvature import trace
from symnoise.models import EmbeddingLoss, load_model, loading
from tests.processes import one
from tests.tiny import tiny, tiny_tokenizer

IDS = torch.arange(3, 23).reshape(2, 10)
BATCH = {"input_ids": IDS, "labels": IDS}


@pytest.fixture(params=["llama", "gpt2"])
def folder(request, tmp_path):
    tiny(request.param).save_pretrained(tmp_path)
    tiny_tokenizer(chat=True).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("method", "dtype"), [("taylor", torch.float32), ("taylor", torch.float64), ("hvp", torch.float32)]
)
def test_curvature_of_a_streamed_model_is_the_same_bit_for_bit(folder, method, dtype) -> None:
    models = [load_model(folder, dtype=dtype, stream=stream).model for stream in (False, True)]
    found = [trace(EmbeddingLoss(model, BATCH), method, probes=4) for model in models]
    assert torch.equal(found[0].value, found[1].value) and torch.equal(found[0].stderr, found[1].stderr)


def test_layers_have_no_weights_before_and_after_use(folder) -> None:
    model = load_model(folder, stream=True).model
    for _ in range(2):
        stay = [name for name, weight in model.named_parameters() if weight.device.type != "meta"]
        assert stay and not any(".layers." in name or ".h." in name for name in stay)
        trace(EmbeddingLoss(model, BATCH), "taylor", probes=2)


class _Alive(TorchFunctionMode):
    """The most bytes of linear layers' weights that were alive at once, those of `kept` apart."""

    def __init__(self, kept: torch.Tensor) -> None:
        super().__init__()
        self._seen: dict[int, weakref.ref[torch.Tensor]] = {}
        self._kept = kept
        self.peak = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear and args[1].data_ptr() != self._kept.data_ptr():
            self._seen[id(args[1])] = weakref.ref(args[1])
            alive = {w.data_ptr(): w.nbytes for ref in self._seen.values() if (w := ref()) is not None}
            self.peak = max(self.peak, sum(alive.values()))
        return func(*args, **(kwargs or {}))


def test_taylor_mode_holds_the_weights_of_at_most_one_layer(tmp_path) -> None:
    deep = tiny("llama").config
    deep.num_hidden_layers = 6
    LlamaForCausalLM(deep).save_pretrained(tmp_path)
    tiny_tokenizer(chat=True).save_pretrained(tmp_path)
    model = load_model(tmp_path, stream=True).model
    loss = EmbeddingLoss(model, BATCH)
    with _Alive(model.get_output_embeddings().weight) as alive:
        trace(loss, "taylor", probes=4)
    layer = sum(weight.nbytes for weight in model.model.layers[0].parameters())
    assert 0 < alive.peak <= layer


def test_what_cannot_be_streamed_is_refused(tmp_path, monkeypatch) -> None:
    tiny("llama").save_pretrained(tmp_path)
    tiny_tokenizer(chat=True).save_pretrained(tmp_path)
    monkeypatch.setattr("transformers.LlamaForCausalLM._no_split_modules", None)
    monkeypatch.setattr("transformers.LlamaModel._no_split_modules", None)
    with pytest.raises(InputError, match="LlamaForCausalLM does not name its layers"):
        load_model(tmp_path, stream=True)
    (tmp_path / "config.json").unlink()
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    with pytest.raises(InputError, match="adapter, which is not streamed"):
        load_model(tmp_path, stream=True)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A folder with 64 MiB of weights in 16 layers, a file for each."""
    folder = tmp_path_factory.mktemp("large")
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 4}
    with torch.random.fork_rng(devices=[]):
        LlamaForCausalLM(LlamaConfig(vocab_size=97, **sizes)).save_pretrained(folder, max_shard_size="5MB")
    tiny_tokenizer(chat=True).save_pretrained(folder)
    return folder


def test_weights_may_be_larger_than_memory(large, tmp_path) -> None:
    pytest.importorskip("resource")
    if not Path("/proc/self/status").is_file():
        pytest.skip("the kernel does not say how much memory a process has")
    from tests.models.little_memory import streamed_in_less_than_its_weights

    said = tmp_path / "said"
    assert one(streamed_in_less_than_its_weights, large, BATCH, errors=said) == 0, said.read_text()


def test_memory_is_given_back_after_every_layer_that_is_streamed(folder, monkeypatch) -> None:
    given_back: list[bool] = []
    monkeypatch.setattr(loading, "return_free_memory", lambda: given_back.append(True))
    for stream in (False, True):
        model = load_model(folder, stream=stream).model
        model(IDS)
    assert len(given_back) == model.config.num_hidden_layers
