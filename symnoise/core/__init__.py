"""Estimates, masks, seeded generators, errors and result files, used by every other room."""

from symnoise.core.errors import Diverged, InputError, one_line, reason, saving, unknown, unwritable, unwritten
from symnoise.core.estimate import Estimate, plus_minus, quantities_frame, student_t
from symnoise.core.files import (
    made_in_one_step,
    peak_rss_mib,
    provenance,
    read_yaml,
    sha256,
    sha256_of,
    write_atomically,
    write_json,
)
from symnoise.core.heap import retained_heap, return_free_memory
from symnoise.core.jackknife import jackknife, jackknife_variance, without_each
from symnoise.core.locks import folder_for, one_run_at_a_time, temporary
from symnoise.core.masks import Mask, is_right_padded, lengths, positions
from symnoise.core.memory import out_of_memory, until_it_fits
from symnoise.core.packages import PackagedFile
from symnoise.core.progress import progress_shown, track
from symnoise.core.random import generator
from symnoise.core.ratios import fieller, ratio_of_sums

__all__ = [
    "Diverged",
    "Estimate",
    "InputError",
    "Mask",
    "PackagedFile",
    "fieller",
    "folder_for",
    "generator",
    "is_right_padded",
    "jackknife",
    "jackknife_variance",
    "lengths",
    "made_in_one_step",
    "one_line",
    "one_run_at_a_time",
    "out_of_memory",
    "peak_rss_mib",
    "plus_minus",
    "positions",
    "progress_shown",
    "provenance",
    "quantities_frame",
    "ratio_of_sums",
    "read_yaml",
    "reason",
    "retained_heap",
    "return_free_memory",
    "saving",
    "sha256",
    "sha256_of",
    "student_t",
    "temporary",
    "track",
    "unknown",
    "until_it_fits",
    "unwritable",
    "unwritten",
    "without_each",
    "write_atomically",
    "write_json",
]
