"""TRL's SFTTrainer with noise."""

from symnoise.core import InputError
from symnoise.training.mixin import SymNoiseMixin

try:
    from trl import SFTTrainer
except ImportError as error:
    raise InputError("SymNoiseSFTTrainer needs TRL; run: pip install trl peft") from error


class SymNoiseSFTTrainer(SymNoiseMixin, SFTTrainer):
    """`trl.SFTTrainer` with embedding noise; takes the arguments of `SymNoiseMixin`.

    TRL's fused loss, packing and PEFT handling are unchanged. Importing it without TRL raises `InputError`.
    """
