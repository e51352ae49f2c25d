"""TRL's SFTTrainer with noise."""

from symnoise.core import InputError
from symnoise.training.mixin import SymNoiseMixin

try:
    from trl import SFTTrainer
except ImportError as error:
    raise InputError('SymNoiseSFTTrainer needs TRL; run: pip install "symnoise[sft]"') from error


class SymNoiseSFTTrainer(SymNoiseMixin, SFTTrainer):
    """`trl.SFTTrainer` with the arguments of `SymNoiseMixin`; its own fused loss, packing and PEFT handling stay.

    Importing it without TRL, and the "hutchinson" penalty, raise `InputError`; all else as `SymNoiseMixin` does.
    """

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if self.penalty is not None and self.penalty.method == "hutchinson":
            raise InputError("TRL's fused loss has one derivative only; use CurvaturePenalty('difference')")
