"""Embedding noise in language-model fine-tuning: curvature, noise moments, norm growth, symmetric pairs.

Every public name, no logic. Names are imported when first used, so that `import symnoise` costs nothing and
`symnoise --help` answers without loading PyTorch. Type checkers and editors read the same names below TYPE_CHECKING.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symnoise import plot
    from symnoise.core.errors import InputError
    from symnoise.core.estimate import Estimate
    from symnoise.core.random import generator
    from symnoise.curvature.density import spectral_density
    from symnoise.curvature.diagonal import diagonal
    from symnoise.curvature.dynamic import DynamicTrace
    from symnoise.curvature.operators.differences import hvp_difference
    from symnoise.curvature.operators.hessian import directional_curvature, hvp
    from symnoise.curvature.operators.linear_operator import EmbeddingHessian
    from symnoise.curvature.size import curvature_size
    from symnoise.curvature.smoothing import finite_curvature, smoothed_curvature
    from symnoise.curvature.spectrum import spectrum
    from symnoise.curvature.tokens import token_traces
    from symnoise.curvature.trace import gauss_newton_trace, trace, trace_parts
    from symnoise.data.encoding import encode
    from symnoise.data.load import load_data
    from symnoise.models.embedding_loss import EmbeddingLoss
    from symnoise.models.loading import load_model
    from symnoise.models.precision import float64_throughout
    from symnoise.noise.laws import Law
    from symnoise.noise.moments import Moments, realised_moments
    from symnoise.noise.noise import Noise
    from symnoise.norms.closed_forms import expected_square_norm
    from symnoise.norms.layers import layer_growth
    from symnoise.norms.radial import radial_identity
    from symnoise.training.attach import attach
    from symnoise.training.budget import VarianceBudget, variance_budget
    from symnoise.training.dials import Dials
    from symnoise.training.mixin import SymNoiseMixin
    from symnoise.training.sft import SymNoiseSFTTrainer as SymNoiseSFTTrainer  # exported, also where it leaves __all__
    from symnoise.training.trackers import CurvatureTracker, NormTracker
    from symnoise.training.trainer import SymNoiseTrainer

__version__ = "0.1.0"

_HOME = {
    "Estimate": "core",
    "InputError": "core",
    "generator": "core",
    "Law": "noise",
    "Moments": "noise",
    "Noise": "noise",
    "realised_moments": "noise",
    "EmbeddingLoss": "models",
    "encode": "data",
    "float64_throughout": "models",
    "load_data": "data",
    "load_model": "models",
    "DynamicTrace": "curvature",
    "EmbeddingHessian": "curvature",
    "curvature_size": "curvature",
    "diagonal": "curvature",
    "directional_curvature": "curvature",
    "gauss_newton_trace": "curvature",
    "hvp": "curvature",
    "hvp_difference": "curvature",
    "finite_curvature": "curvature",
    "smoothed_curvature": "curvature",
    "spectral_density": "curvature",
    "spectrum": "curvature",
    "token_traces": "curvature",
    "trace": "curvature",
    "trace_parts": "curvature",
    "expected_square_norm": "norms",
    "layer_growth": "norms",
    "radial_identity": "norms",
    "CurvatureTracker": "training",
    "Dials": "training",
    "NormTracker": "training",
    "SymNoiseMixin": "training",
    "SymNoiseSFTTrainer": "training",
    "SymNoiseTrainer": "training",
    "VarianceBudget": "training",
    "attach": "training",
    "variance_budget": "training",
}

__all__ = [
    "CurvatureTracker",
    "Dials",
    "DynamicTrace",
    "EmbeddingHessian",
    "EmbeddingLoss",
    "Estimate",
    "InputError",
    "Law",
    "Moments",
    "Noise",
    "NormTracker",
    "SymNoiseMixin",
    "SymNoiseSFTTrainer",
    "SymNoiseTrainer",
    "VarianceBudget",
    "attach",
    "curvature_size",
    "diagonal",
    "directional_curvature",
    "encode",
    "expected_square_norm",
    "finite_curvature",
    "float64_throughout",
    "gauss_newton_trace",
    "generator",
    "hvp",
    "hvp_difference",
    "layer_growth",
    "load_data",
    "load_model",
    "plot",
    "radial_identity",
    "realised_moments",
    "smoothed_curvature",
    "spectral_density",
    "spectrum",
    "token_traces",
    "trace",
    "trace_parts",
    "variance_budget",
]
if not find_spec("trl"):  # `import *` and `help` do without it; asked for by name, it says what it needs
    __all__.remove("SymNoiseSFTTrainer")

if not TYPE_CHECKING:  # a type checker would take every misspelt name for an object

    def __getattr__(name: str) -> object:
        if name == "plot":  # a room: its functions have the names of those whose results they draw
            return import_module("symnoise.plot")
        if name not in _HOME:
            raise AttributeError(f"module 'symnoise' has no attribute {name!r}")
        value = getattr(import_module(f"symnoise.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
