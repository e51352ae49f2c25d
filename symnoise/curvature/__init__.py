"""Curvature in embedding space: Hessian products, Taylor mode, differences, traces, spectra, finite-σ curvature."""

from symnoise.curvature.density import SpectralDensity, spectral_density
from symnoise.curvature.diagonal import diagonal
from symnoise.curvature.dynamic import DynamicTrace, TraceChange
from symnoise.curvature.estimators.sampler import TraceParts
from symnoise.curvature.loss import Loss, coordinates, random_probes
from symnoise.curvature.operators.differences import Difference, gradient, hvp_difference
from symnoise.curvature.operators.exact import dense_hessian, exact_trace
from symnoise.curvature.operators.gauss_newton import GaussNewtonProducts, JacobianProducts, softmax_curvature
from symnoise.curvature.operators.hessian import HessianProducts, directional_curvature, hvp, inner
from symnoise.curvature.operators.linear_operator import EmbeddingHessian
from symnoise.curvature.pooled import Pooled, attenuation_slope, ratio_of_means, root_ratio
from symnoise.curvature.size import CurvatureSize, curvature_size, two_sided_divergence
from symnoise.curvature.smoothing import SmoothedCurvature, even_and_odd, finite_curvature, smoothed_curvature
from symnoise.curvature.spectrum import Spectrum, spectrum
from symnoise.curvature.tokens import PositionTraces, TokenTraces, token_traces
from symnoise.curvature.trace import DIRECTIONS, METHODS, gauss_newton_trace, trace, trace_parts

__all__ = [
    "DIRECTIONS",
    "METHODS",
    "CurvatureSize",
    "Difference",
    "DynamicTrace",
    "EmbeddingHessian",
    "GaussNewtonProducts",
    "HessianProducts",
    "JacobianProducts",
    "Loss",
    "Pooled",
    "PositionTraces",
    "SmoothedCurvature",
    "SpectralDensity",
    "Spectrum",
    "TokenTraces",
    "TraceChange",
    "TraceParts",
    "attenuation_slope",
    "coordinates",
    "curvature_size",
    "dense_hessian",
    "diagonal",
    "directional_curvature",
    "even_and_odd",
    "exact_trace",
    "finite_curvature",
    "gauss_newton_trace",
    "gradient",
    "hvp",
    "hvp_difference",
    "inner",
    "random_probes",
    "ratio_of_means",
    "root_ratio",
    "smoothed_curvature",
    "softmax_curvature",
    "spectral_density",
    "spectrum",
    "token_traces",
    "trace",
    "trace_parts",
    "two_sided_divergence",
]
