"""Transformers' Trainer with noise."""

from transformers import Trainer

from symnoise.training.mixin import SymNoiseMixin


class SymNoiseTrainer(SymNoiseMixin, Trainer):
    """`transformers.Trainer` with the arguments of `SymNoiseMixin`, which says what a step is and what is refused."""
