"""TRL's SFTTrainer with noise."""

from collections.abc import Callable
from typing import Any

from symnoise.core import InputError
from symnoise.training.mixin import SymNoiseMixin

try:
    from trl import SFTTrainer
except ImportError as error:
    raise InputError('SymNoiseSFTTrainer needs TRL; run: pip install "symnoise[sft]"') from error


class SymNoiseSFTTrainer(SymNoiseMixin, SFTTrainer):
    """`trl.SFTTrainer` with the arguments of `SymNoiseMixin`; its own fused loss, packing and PEFT handling stay.

    Importing it without TRL raises `InputError`; all else as `SymNoiseMixin` does.
    """

    def _unrecorded(self, loss: Callable[[], Any]) -> Any:
        trainer: Any = self
        kept, tokens = (
            {key: list(values) for key, values in trainer._metrics["train"].items()},
            trainer._total_train_tokens,
        )
        try:
            return loss()
        finally:
            trainer._metrics["train"].clear()
            trainer._metrics["train"].update(kept)
            trainer._total_train_tokens = tokens
