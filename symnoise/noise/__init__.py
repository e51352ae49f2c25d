"""Noise laws, NEFTune's scale, calibration, pairs, and moments in closed form and as realised."""

from symnoise.noise.directions import directions, orthogonal_directions
from symnoise.noise.laws import LAWS, Law, law, sparse
from symnoise.noise.moments import Moments, RealisedMoments, closed_form_moments, realised_moments
from symnoise.noise.noise import NAMES, Noise
from symnoise.noise.sampled import SampledMoments, sampled_moments

__all__ = [
    "LAWS",
    "NAMES",
    "Law",
    "Moments",
    "Noise",
    "RealisedMoments",
    "SampledMoments",
    "closed_form_moments",
    "directions",
    "law",
    "orthogonal_directions",
    "realised_moments",
    "sampled_moments",
    "sparse",
]
