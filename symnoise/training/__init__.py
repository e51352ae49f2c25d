"""Noise in training: on any model, in any loop, exact pairs in every Trainer; and trackers.

Transformers and TRL are imported when a Trainer or a tracker is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from symnoise.training.attach import Attached, attach
from symnoise.training.dials import Dials
from symnoise.training.documents import document_lengths
from symnoise.training.draws import draw
from symnoise.training.mixin import SymNoiseMixin
from symnoise.training.options import NoiseOptions
from symnoise.training.pairs import PairedCollator, double_batch

if TYPE_CHECKING:
    from symnoise.training.budget import VarianceBudget, variance_budget
    from symnoise.training.sft import SymNoiseSFTTrainer
    from symnoise.training.trackers import CurvatureTracker, NoiseTracker, NormTracker
    from symnoise.training.trainer import SymNoiseTrainer

_LAZY = {
    "CurvatureTracker": "trackers",
    "NoiseTracker": "trackers",
    "NormTracker": "trackers",
    "SymNoiseTrainer": "trainer",
    "VarianceBudget": "budget",
    "variance_budget": "budget",
    "SymNoiseSFTTrainer": "sft",
}

__all__ = [
    "Attached",
    "CurvatureTracker",
    "Dials",
    "NoiseOptions",
    "NoiseTracker",
    "NormTracker",
    "PairedCollator",
    "SymNoiseMixin",
    "SymNoiseSFTTrainer",
    "SymNoiseTrainer",
    "VarianceBudget",
    "attach",
    "document_lengths",
    "double_batch",
    "draw",
    "variance_budget",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module 'symnoise.training' has no attribute {name!r}")
        value = getattr(import_module(f"symnoise.training.{_LAZY[name]}"), name)
        globals()[name] = value
        return value
