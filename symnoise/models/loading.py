"""`load_model`: a language model and its tokenizer from the hub, a folder, a .gguf file, or the bundled default.

Weights are read from safetensors or GGUF, which hold numbers only; pickled weights and remote code are refused,
since loading them would run what their author wrote.
"""

import difflib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from symnoise.core import InputError, out_of_memory, reason, return_free_memory, sha256, unknown
from symnoise.models import adapter, bundled, gguf
from symnoise.models.converted import converted, folder_of
from symnoise.models.muted import muted
from symnoise.models.outline import class_for, device_map, outline, stacks

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class LoadedModel:
    """A language model in evaluation mode with its tokenizer and provenance.

    Attributes:
        model: A `transformers.PreTrainedModel`.
        tokenizer: Its tokenizer.
        name: Name, as given to `load_model`.
        source: "bundled", "folder", "gguf" or "hub".
        path: The file or folder that was read; None for a hub id.
        revision: Commit of a hub id, if the hub cache knows it.
        base: For an adapter, the model that it was merged into.
    """

    model: Any
    tokenizer: Any
    name: str
    source: str
    path: Path | None = None
    revision: str | None = None
    base: "LoadedModel | None" = None

    @property
    def seq2seq(self) -> bool:
        """Whether the model is an encoder-decoder."""
        return bool(self.model.config.is_encoder_decoder)

    def provenance(self) -> dict[str, Any]:
        """Name, revision, SHA-256 (of weights and configuration) and sizes, for a result record.

        Its first call reads the weights (about 1 s a GB).
        """
        return {
            "name": self.name,
            "source": self.source,
            "revision": self.revision,
            "sha256": dict(self._sha256),
            "class": type(self.model).__name__,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            **({"base": self.base.provenance()} if self.base else {}),
        }

    @cached_property
    def _sha256(self) -> dict[str, str]:
        if self.path is None:
            return {}
        if self.path.is_file():
            return {self.path.name: sha256(self.path)}
        # A configuration says what is computed with the weights: a scale of positions, or of an adapter.
        files = [*sorted(self.path.glob("*.safetensors")), self.path / "config.json", self.path / "adapter_config.json"]
        return {file.name: sha256(file) for file in files if file.is_file()}


def load_model(
    name: str | Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu", stream: bool = False
) -> LoadedModel:
    """Load a language model and its tokenizer, in evaluation mode.

    Encoder-decoder models are loaded as such. With HF_HUB_OFFLINE set, hub ids come from the local cache only.

    A streamed model can be larger than memory: only the embedding table, the head and the last norm are loaded. The
    weights of each layer stay in their memory-mapped files, are read when the layer runs and dropped afterwards
    (accelerate's hooks). Results do not change. It pays for forward passes and Taylor mode; the graph of Hessian
    products keeps all weights.

    Args:
        name: `smollm2` (bundled), a folder with safetensors or a PEFT adapter (merged into the model that its
            configuration names), a .gguf file, or a hub id.
        dtype: dtype of the weights; curvature is best measured in float32.
        device: "cpu", "cuda", "cuda:1" …
        stream: Whether to read the layers' weights from disk in each forward pass; not for adapters.

    Returns:
        Model, tokenizer and provenance.

    Raises:
        InputError: If nothing can be loaded, with the reason and what to give instead. That includes weights that lack
            a tensor of the model, which Transformers would fill with random numbers.
    """
    path, name = Path(name).expanduser(), str(name)
    if not name.strip():
        raise InputError(f"the model has no name: give {_CHOICES}")
    streamed_to = device if stream else None
    with _reported(name):
        if name == bundled.MODEL:
            loaded = LoadedModel(
                *_from_cache(bundled.smollm2_file(), name, dtype, streamed_to), name, "bundled", bundled.smollm2_file()
            )
        elif adapter.is_adapter(path):
            if stream:
                raise InputError(f"{name} is an adapter, which is not streamed: merge it into its model and save that")
            loaded = _with_adapter(path, name, dtype)
        elif path.is_dir():
            _check_folder(path)
            with muted():
                loaded = LoadedModel(*_read(str(path), dtype, streamed_to), name, "folder", path)
        elif path.is_file():
            _check_file(path)
            loaded = LoadedModel(*_from_cache(path, path.stem, dtype, streamed_to), name, "gguf", path)
        else:
            _check_hub_id(name)
            with muted(bars=True):  # a download may take minutes
                model, tokenizer = _read(name, dtype, streamed_to)
            loaded = LoadedModel(model, tokenizer, name, "hub", revision=_commit(name))
        _check_language_model(loaded)
        try:
            if not stream:
                loaded.model.to(device)
        except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without CUDA
            raise InputError(f"cannot put {name} on device {device!r}: {reason(error)}; use cpu") from error
    loaded.model.eval()
    return loaded


def load_config(name: str | Path) -> Any:
    """The Transformers configuration of a model named as in `load_model`, without reading its weights.

    For a model type that Transformers does not know, a Llama of the same sizes stands in: its `architectures` are
    those of the file. `InputError` if nothing can be read, or if the file of an unknown type lacks a size.
    """
    from transformers import AutoConfig

    path, name = Path(name).expanduser(), str(name)
    with _reported(name), muted():
        if name == bundled.MODEL:
            return _gguf_config(bundled.smollm2_file(), name)
        if adapter.is_adapter(path):
            return load_config(adapter.base_of(path))
        if path.is_file():
            _check_file(path)
            return _gguf_config(path, path.stem)
        if path.is_dir() and not (path / "config.json").is_file():
            raise InputError(f"{path} has no config.json: give a folder made by save_pretrained")
        if not path.is_dir():
            _check_hub_id(name)
        try:
            return AutoConfig.from_pretrained(name, trust_remote_code=False)
        except ValueError:
            return _stand_in(name)


def _gguf_config(source: Path, name: str) -> Any:
    """The configuration in a GGUF file, or next to its conversion, which is read much faster."""
    from transformers import AutoConfig

    folder = folder_of(name, sha256(source))
    if folder.is_dir():
        return AutoConfig.from_pretrained(str(folder))
    with gguf.read_once():
        return gguf.load_config(source)


_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def _stand_in(name: str) -> Any:
    """A Llama of the sizes in a configuration whose model type Transformers does not know."""
    from transformers import CONFIG_MAPPING, LlamaConfig, PreTrainedConfig

    content, _ = PreTrainedConfig.get_config_dict(name)
    kind = content.get("model_type")
    if kind in CONFIG_MAPPING:
        raise InputError(f"cannot read the configuration of {name}, a {kind}: is it complete?")
    if missing := [size for size in _SIZES if not isinstance(content.get(size), int)]:
        raise InputError(f"Transformers does not know the type {kind!r} of {name}; its config.json lacks {missing[0]}")
    kept = (*_SIZES, "num_key_value_heads", "head_dim", "tie_word_embeddings", "architectures")
    return LlamaConfig(**{size: content[size] for size in kept if size in content})


def _from_cache(source: Path, name: str, dtype: torch.dtype, streamed_to: str | None) -> tuple[Any, Any]:
    """The model in a GGUF file, by way of its conversion."""
    with muted():
        folder, _ = converted(source, name)
        try:
            return _read(str(folder), dtype, streamed_to)
        except Exception as error:  # whatever is wrong with a file that we wrote, the remedy is the same
            if out_of_memory(error):
                raise InputError(f"there is not enough memory to load {name}: {reason(error)}") from error
            raise InputError(f"{folder} is corrupted ({reason(error)}): delete it to rebuild it") from error


def _with_adapter(path: Path, name: str, dtype: torch.dtype) -> LoadedModel:
    """The adapter in a folder, merged into its model; with its own tokenizer, or else the model's."""
    from transformers import AutoTokenizer

    base = load_model(adapter.base_of(path), dtype=dtype)
    with muted():
        own = any(path.glob("tokenizer*"))
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False) if own else base.tokenizer
        return LoadedModel(adapter.merged(base.model, path), tokenizer, name, "folder", path, base=base)


def _read(name: str, dtype: torch.dtype, streamed_to: str | None) -> tuple[Any, Any]:
    """A hub id or a folder, through the ordinary Transformers loaders; layers stay on disk with `streamed_to`."""
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    if any(kind.endswith("ForMaskedLM") for kind in config.architectures or []):
        raise InputError(f"{name} is a masked language model, which predicts no next token: give a causal one")
    where = {} if streamed_to is None else {"device_map": device_map(outline(config), streamed_to)}
    model, info = class_for(config).from_pretrained(
        name,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **where,
    )
    for _, layers in stacks(model) if where else ():
        for layer in layers:
            layer.register_forward_hook(_drop)
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"{name} lacks weights that a language model needs ({', '.join(missing[:3])}): save the model with its "
            "language-model head"
        )
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # Transformers' answer to missing files
        raise InputError(f"{name} has no {_TOKENIZER}")
    if not isinstance(tokenizer.model_max_length, int | float):
        given = tokenizer.model_max_length
        raise InputError(f"the tokenizer of {name} has model_max_length {given!r} in its config, which is no number")
    tokenizer.chat_template = tokenizer.chat_template or _template_of_processor(name)
    return model, tokenizer


def _drop(*_: Any) -> None:
    """After a streamed layer: its weights have been freed, and must not stay in a heap that is retained for speed."""
    return_free_memory()


def _template_of_processor(name: str) -> str | None:
    """The chat template where older vision-language models have it: in a file of their processor's."""
    from transformers.utils import cached_file

    lenient = {
        f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")
    }
    file = cached_file(name, "chat_template.json", **lenient)
    return json.loads(Path(file).read_text(encoding="utf-8"))["chat_template"] if file else None


def _commit(name: str) -> str | None:
    """The commit of a hub id that was just read: files are cached in a folder of that name."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(name, "config.json")
    return Path(file).parent.name if isinstance(file, str) else None


def _check_folder(path: Path) -> None:
    names = {file.name for file in path.iterdir()}
    weights = [name for name in names if name.endswith(".safetensors") and not name.startswith("adapter_")]
    if not weights and any(name.endswith(_PICKLED) for name in names):
        raise InputError(f"{path} has pickled weights, which can run code when read: {_CONVERT}")
    if not weights and any(name.endswith(".gguf") for name in names):
        raise InputError(f"{path} holds a .gguf file: name the file itself")
    if not weights or "config.json" not in names:
        missing = "config.json" if weights else "safetensors weights"
        raise InputError(f"{path} has no {missing}: give a folder made by save_pretrained")


def _check_file(path: Path) -> None:
    if path.suffix == ".safetensors":
        raise InputError(f"{path} is weights alone: give the folder that also holds config.json and the tokenizer")
    if path.suffix in _PICKLED:
        raise InputError(f"{path} is pickled, which can run code when read: {_CONVERT}")
    if path.suffix != ".gguf":
        raise InputError(f"{path} is neither safetensors nor GGUF: give a model folder or a .gguf file")
    if path.open("rb").read(4) != b"GGUF":
        raise InputError(f"{path} is not a GGUF file, or an empty or corrupted one: it does not begin with GGUF")


def _check_hub_id(name: str) -> None:
    """Refuse mistyped paths and bundled names before asking the network."""
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or name.endswith((".gguf", ".safetensors", *_PICKLED)):
        raise InputError(f"there is no model file or folder {name}")
    if difflib.get_close_matches(name.lower(), [bundled.MODEL], cutoff=0.75):
        raise unknown("model", name.lower(), [bundled.MODEL])


def _check_language_model(loaded: LoadedModel) -> None:
    try:
        table, head = loaded.model.get_input_embeddings(), loaded.model.get_output_embeddings()
    except NotImplementedError:
        table = head = None
    if table is None or head is None:
        part = "embedding table" if table is None else "language-model head"
        raise InputError(f"{loaded.name} ({type(loaded.model).__name__}) has no {part}: give a language model")


_CHOICES = f"{bundled.MODEL}, a folder with safetensors, a .gguf file or a hub id"
_CONVERT = "load it where you trust it and save it again with save_pretrained, which writes safetensors"
_TOKENIZER = "readable tokenizer: save it there too, with tokenizer.save_pretrained"

# What Transformers says, and what it means here. The first match counts.
_MEANINGS = (
    ("couldn't connect", f"it is not on this machine and the hub cannot be reached; give {_CHOICES}"),
    ("offline mode", f"it is not on this machine and the hub is switched off; give {_CHOICES}"),
    ("not a valid model identifier", f"there is no such file, folder or public hub id; give {_CHOICES}"),
    ("Repo id must", f"it is no file, folder or hub id; give {_CHOICES}"),
    ("custom code", "it needs code of its own, which is never run here; give a model that Transformers knows"),
    ("model type `", "Transformers does not know its model type; upgrade Transformers or give another model"),
    ("`model_type` key", "its config.json names no known model type; give another model"),
    ("Unrecognized configuration class", "it is not a language model"),
    ("ignore_mismatched_sizes", "its weights do not have the shapes that its config.json says"),
    ("with `safetensors`", f"it has no safetensors weights; {_CONVERT}"),
    ("a file named model.safetensors", f"it has no safetensors weights; {_CONVERT}"),
    ("okenizer", f"it has no {_TOKENIZER}"),
)


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Turn any failure to read `name` into one `InputError` line: readers of foreign files fail in many ways."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        text = str(error)
        meaning = next((said for fragment, said in _MEANINGS if fragment in text), None)
        raise InputError(f"cannot load {name}: {meaning or reason(error) + '; the file may be corrupted'}") from error
