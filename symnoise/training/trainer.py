"""Transformers' Trainer with noise."""

from transformers import Trainer

from symnoise.training.mixin import SymNoiseMixin


class SymNoiseTrainer(SymNoiseMixin, Trainer):
    """`transformers.Trainer` with embedding noise; takes the arguments of `SymNoiseMixin`, which defines the step."""
