"""Noise in training: on any model, in any loop, exact pairs in every Trainer; and trackers.

Transformers and TRL are imported when a Trainer or a tracker is first used.
"""

from importlib import import_module

from symnoise.training.attach import Attached, attach
from symnoise.training.dials import Dials
from symnoise.training.documents import document_lengths
from symnoise.training.draws import draw
from symnoise.training.mixin import SymNoiseMixin
from symnoise.training.options import NoiseOptions
from symnoise.training.pairs import PairedCollator, double_batch

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
    "Dials",
    "NoiseOptions",
    "PairedCollator",
    "SymNoiseMixin",
    "attach",
    "document_lengths",
    "double_batch",
    "draw",
    *_LAZY,
]


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'symnoise.training' has no attribute {name!r}")
    value = getattr(import_module(f"symnoise.training.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
