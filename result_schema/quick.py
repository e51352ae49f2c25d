"""The fine-tuning stages of the quick run: the model before training, then one stage for each arm."""

from symnoise.noise import noise_names

START = "start"


def training_stage(part: str) -> str:
    """The stage of an arm, or of `START`."""
    return f"training-{part}"


TRAINING_STAGES = tuple(training_stage(part) for part in (START, *noise_names()))
