"""Figures of the library's results, one look for all of them, and pages to show them on.

`symnoise.plot.trace(sn.trace_parts(loss))` draws what `trace_parts` found; the others are named in the same way.
"""

from symnoise.plot.results import (
    layer_growth,
    moments,
    signal_to_noise,
    smoothed_curvature,
    spectral_density,
    spectrum,
    token_traces,
    trace,
    variance_budget,
)

__all__ = [
    "layer_growth",
    "moments",
    "signal_to_noise",
    "smoothed_curvature",
    "spectral_density",
    "spectrum",
    "token_traces",
    "trace",
    "variance_budget",
]
