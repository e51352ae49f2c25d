"""Noise laws, NEFTune's scale, calibration, pairs, and closed-form and realised moments."""

from symnoise.noise.directions import directions, orthogonal_directions
from symnoise.noise.laws import LAWS, Law, law, sparse
from symnoise.noise.moments import Moments, RealisedMoments, closed_form_moments, realised_moments
from symnoise.noise.noise import Noise, noise_names, scale_of, single_draws
from symnoise.noise.sampled import SampledMoments, sampled_moments

__all__ = [
    "LAWS",
    "Law",
    "Moments",
    "Noise",
    "RealisedMoments",
    "SampledMoments",
    "closed_form_moments",
    "directions",
    "law",
    "noise_names",
    "orthogonal_directions",
    "realised_moments",
    "sampled_moments",
    "scale_of",
    "single_draws",
    "sparse",
]
