"""Dry run: a run's settings on a tiny random model of the family and synthetic rows, in seconds and offline."""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from symnoise.core import InputError
from symnoise.finetune.run import Outcome, fine_tune, is_main_process
from symnoise.finetune.settings import TrainSettings
from symnoise.models.muted import muted

STEPS = 2
_ROWS = 24
_LENGTH = 384  # the template and a row, at one token per character
# Sizes under the names used by the model families; a family uses those that it has.
_SIZES = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "hidden_size": 16,
    "head_dim": 8,
    "intermediate_size": 32,
    "ffn_dim": 32,
    "word_embed_proj_dim": 16,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def dry_run(settings: TrainSettings) -> Outcome:
    """`fine_tune` for two steps, on a model of `family` (width 16, two layers) and 24 rows of `form`.

    Precision, LoRA, gradient checkpointing, batch, noise and trackers are as set; a step has at most two micro-batches.
    Everything is created in a temporary folder and removed, unless an output folder is given. Raises `InputError` if
    the settings have no family, or one unknown to Transformers.
    """
    if not settings.family:
        raise InputError("a dry run needs to know the family of the model; give --family llama or the like")
    # The same name in every process of one launcher.
    owner = os.getppid() if "RANK" in os.environ else os.getpid()
    folder = private_folder(Path(tempfile.gettempdir()) / f"symnoise-dry-run-{owner}")
    mine = folder / os.environ.get("RANK", "0")
    try:
        tiny_model(settings.family, mine / "model", room=max(settings.max_length, _LENGTH))
        (mine / "rows.json").write_text(json.dumps(rows(settings.form or "Alpaca")), encoding="utf-8")
        small = replace(
            settings,
            model=str(mine / "model"),
            data=str(mine / "rows.json"),
            output=settings.output or str(folder / "output"),
            rows=0,
            max_length=max(settings.max_length, _LENGTH),
            steps=STEPS,
            accumulation=min(settings.accumulation, 2),
            eval_rows=None if settings.eval_rows is None else min(settings.eval_rows, 4),
            keep_state=True,
            save_every=1,
            log_every=1,
            eval_every=1,
            track_every=min(settings.track_every, 1),
            curvature_every=min(settings.curvature_every, 1),
            report_to="none",
        )
        with fsdp_on_cpu():
            return fine_tune(small, replace(small, model=settings.model, data=settings.data))
    except OSError as error:
        raise InputError(f"the dry run cannot write {folder}: {error.strerror}; set TMPDIR") from error
    finally:
        shutil.rmtree(mine, ignore_errors=True)
        if is_main_process():
            shutil.rmtree(folder, ignore_errors=True)


def private_folder(path: Path) -> Path:
    """`path`, made or found as a folder of this user alone; `InputError` for somebody else's, or a link."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise InputError(f"the dry run cannot write {path}: {error.strerror}; set TMPDIR") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise InputError(f"the dry run does not write into {path}, which is not this user's: set TMPDIR")
    return path


def tiny_model(family: str, folder: Path, *, room: int) -> None:
    """Save a random model of `family`, and a tokenizer with one token per character, in `folder`."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    tokenizer = tiny_tokenizer()
    try:
        usual = AutoConfig.for_model(family)
    except ValueError as error:
        raise InputError(f"Transformers knows no model family {family!r}; see config.json's model_type") from error
    sizes = {name: size for name, size in _SIZES.items() if hasattr(usual, name)}
    if usual.is_encoder_decoder:
        sizes["decoder_start_token_id"] = 0  # absent from T5's configuration until it is set
    config = AutoConfig.for_model(
        family, **sizes, vocab_size=len(tokenizer), max_position_embeddings=room, tie_word_embeddings=_tied(usual)
    )
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same weights in every process
        model = auto.from_config(config)
    with muted():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _tied(config: Any) -> bool:
    return bool(getattr(config, "tie_word_embeddings", False))


def tiny_tokenizer() -> Any:
    """One token per printable ASCII character, without a chat template, like base models."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", "\n", *map(chr, range(32, 127))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


def rows(form: str) -> list[dict[str, Any]]:
    """24 rows of different lengths in the given form."""
    made: list[dict[str, Any]] = []
    for i in range(_ROWS):
        question, answer = f"Count to {i}.", " ".join(map(str, range(1, i + 1))) or "Nothing to count."
        if form == "ShareGPT":
            turns = [("human", question), ("gpt", answer), ("human", "Again."), ("gpt", answer)]
            made.append({"conversations": [{"from": who, "value": text} for who, text in turns]})
        elif form == "prompt-completion":
            made.append({"prompt": question, "completion": f" {answer}"})
        elif form == "text":
            made.append({"text": f"{question} {answer}"})
        elif form == "messages":
            turns = [("user", question), ("assistant", answer)]
            made.append({"messages": [{"role": who, "content": text} for who, text in turns]})
        else:
            made.append({"instruction": question, "input": "in words" if i % 3 == 0 else "", "output": answer})
    return made


@contextmanager
def fsdp_on_cpu() -> Iterator[None]:
    """Within the block accelerate's FSDP setting also applies on CPUs.

    accelerate 1.15 enables FSDP only on accelerators and silently gives CPU processes DDP (state.py,
    `AcceleratorState`), although PyTorch's FSDP2 works over gloo as well.
    """
    from accelerate.state import DistributedType, PartialState

    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true" or torch.accelerator.is_available():
        yield
        return
    usual = PartialState.__init__

    def as_if_accelerators(self: Any, *args: Any, **kwargs: Any) -> None:
        usual(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = as_if_accelerators
    try:
        yield
    finally:
        PartialState.__init__ = usual
