"""How noise is applied: the length in its scale, the tokens that get it, the schedule of α."""

import math
from dataclasses import dataclass

from symnoise.core import InputError, unknown

LENGTHS = ("true", "padded")
WHERE = ("all", "prompt", "response")
SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class NoiseOptions:
    """Length, tokens and schedule of the noise, for `attach` and the Trainers.

    Attributes:
        length: The L in the scale c·α/√(L·d). "true": the real tokens of the row, or of the document in packed rows
            (the NEFTune paper's own code). "padded": the width of the batch, with noise on padding, as in Transformers'
            `neftune_noise_alpha`, including the model's multiplier (Granite).
        where: "all" tokens, those of the "prompt" (label −100) or those of the "response" (the others). The scale
            remains that of the whole row, so restricting the noise removes some of it and leaves the rest unchanged.
        schedule: α at `step` of `steps`, as a fraction of the noise's own: "constant" 1; "linear" 1 − step/steps;
            "cosine" ½(1 + cos(π·step/steps)).
        steps: Optimizer steps of the whole run, needed by schedules only; the Trainers fill it in.
    """

    length: str = "true"
    where: str = "all"
    schedule: str = "constant"
    steps: int | None = None

    def __post_init__(self) -> None:
        for kind, word, known in (
            ("length", self.length, LENGTHS),
            ("where", self.where, WHERE),
            ("schedule", self.schedule, SCHEDULES),
        ):
            if word not in known:
                raise unknown(kind, word, known)
        if self.steps is not None and self.steps < 1:
            raise InputError(f"steps must be at least 1; got {self.steps}")

    def fraction(self, step: int) -> float:
        """α at an optimizer step, relative to the noise's own α.

        Args:
            step: Number of the optimizer step, from 0.

        Raises:
            InputError: If a schedule has no `steps`.
        """
        if self.schedule == "constant":
            return 1.0
        if self.steps is None:
            raise InputError(
                f"the {self.schedule} schedule needs to know the number of steps; give NoiseOptions(steps=…)"
            )
        progress = min(step / self.steps, 1.0)
        return 1 - progress if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
