"""Embedding noise in language-model fine-tuning: curvature, noise moments, norm growth, symmetric pairs.

This is the front door: every public name, no logic. Names are imported when first used, so that
`import symnoise` costs nothing and `symnoise --help` answers without loading PyTorch.
"""

from importlib import import_module

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
    "EmbeddingHessian": "curvature",
    "directional_curvature": "curvature",
    "gauss_newton_trace": "curvature",
    "hvp": "curvature",
    "hvp_difference": "curvature",
    "finite_curvature": "curvature",
    "smoothed_curvature": "curvature",
    "spectral_density": "curvature",
    "spectrum": "curvature",
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

__all__ = sorted([*_HOME, "plot"])


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
