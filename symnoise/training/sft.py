"""TRL's SFTTrainer with noise."""

import sys
import warnings
from typing import Any

from symnoise.core import InputError
from symnoise.data import Data, LeftOut, fitting
from symnoise.training.mixin import SymNoiseMixin

try:
    from trl import SFTConfig, SFTTrainer
except ImportError as error:
    raise InputError("SymNoiseSFTTrainer needs TRL; run: pip install trl peft") from error

_ROWS = ("train_dataset", "eval_dataset")


class SymNoiseSFTTrainer(SymNoiseMixin, SFTTrainer):
    """`trl.SFTTrainer` with embedding noise; takes the arguments of `SymNoiseMixin`.

    Data sets may also be rows of `load_data`, which are tokenized and scored as in `encode`: every reply, and nothing
    else. TRL's fused loss, packing and PEFT handling are unchanged. Importing it without TRL raises `InputError`.

    Args:
        model: As in TRL: a model, or its name.
        args: As in TRL; `max_length` also truncates rows of `load_data`, which TRL does itself where it does not simply
            keep the start (`truncation_mode`, and packing other than "bfd").
        kwargs: As in TRL and `SymNoiseMixin`.
    """

    def __init__(self, model: Any, args: Any = None, **kwargs: Any) -> None:
        rows = {name: kwargs[name] for name in _ROWS if isinstance(kwargs.get(name), Data)}
        if rows:
            tokenizer = kwargs.get("processing_class") or _tokenizer_of(model)
            kwargs["processing_class"] = tokenizer
            length = _max_length(SFTConfig if args is None else args)
            kwargs |= {name: _tokenized(data, tokenizer, length) for name, data in rows.items()}
        super().__init__(model, args, **kwargs)


def _max_length(args: Any) -> int | None:
    """At how many tokens rows are cut before TRL gets them."""
    if not isinstance(args, SFTConfig | type):  # TRL gives TrainingArguments its defaults
        args = SFTConfig
    wrapped = args.packing and args.packing_strategy != "bfd"
    return sys.maxsize if wrapped or args.truncation_mode != "keep_start" else args.max_length


def _tokenizer_of(model: Any) -> Any:
    from transformers import AutoTokenizer

    name = model if isinstance(model, str) else model.config._name_or_path
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"there is no tokenizer with the model {name!r}: give processing_class=loaded.tokenizer"
        ) from error


def _tokenized(data: Data, tokenizer: Any, max_length: int | None) -> Any:
    """A data set of `input_ids` and `labels`, as TRL takes them; rows that cannot be used are counted in a warning."""
    from datasets import Dataset

    left_out = LeftOut()
    length = max_length or tokenizer.model_max_length
    rows = [row for _, row in fitting(data, left_out.add, tokenizer, max_length=length, model=None)]
    if not rows:
        raise InputError(
            f"no row of {data.name} can be used: {left_out.why()}" if left_out else f"{data.name} is empty"
        )
    if left_out:
        warnings.warn(f"{len(left_out)} rows of {data.name} are left out: {left_out}", stacklevel=3)
    return Dataset.from_list(rows)
