"""What a report measures: each section is a function of the text, the sizes and the seed, to a record in JSON's types.

A record has `table`, which its figure is drawn from, and `cost`: seconds, and what they were spent on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from symnoise.cli.shared import Text, batches
from symnoise.core import Estimate, track
from symnoise.curvature import SmoothedCurvature, TraceParts, smoothed_curvature, trace_parts
from symnoise.noise import Noise
from symnoise.norms import layer_growth
from symnoise.plot.results import layer_growth_frame, signal_to_noise_frame, smoothed_curvature_frame, trace_frame
from symnoise.training.advice import token_ratios

Record = dict[str, Any]
ALPHA = 5.0  # of the layers, and of what is said in a sentence: NEFTune's smallest
SIZES = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0)  # α at which noise is held against embeddings
_BATCH, _LAYERED = 4, 8  # rows measured together; rows whose states at every layer are kept in float64


@dataclass(frozen=True)
class Size:
    """How much is measured.

    examples:   rows, truncated to max_length tokens.
    probes:     of the traces, per row.
    alphas:     noise strengths of the smoothed curvature, ALPHA among them; draws: mirrored draws at each.
    noised:     mirrored draws that are followed through the layers.
    """

    examples: int
    max_length: int
    probes: int
    alphas: tuple[float, ...]
    draws: int
    noised: int


# On SmolLM2 and two idle cores: about two minutes, and about ten.
QUICK = Size(examples=6, max_length=80, probes=16, alphas=(1.0, 2.5, 5.0, 10.0, 15.0), draws=3, noised=3)
FULL = Size(examples=16, max_length=128, probes=24, alphas=(0.5, 1.0, 2.5, 5.0, 10.0, 15.0), draws=4, noised=8)


def curvature(text: Text, size: Size, seed: int) -> Record:
    """tr H, tr G and tr R of every row."""
    found: list[TraceParts] = []
    for ids in track(batches(len(text), _BATCH), "curvature"):
        found.append(trace_parts(text.loss(ids), probes=size.probes, seed=seed))
    joined = TraceParts.joined(found)
    method = _METHODS.get(joined.hessian.method, joined.hessian.method)
    return {
        "table": _plain(trace_frame(joined)),
        "means": {name: _over(part.value) for name, part in joined.named().items()},
        "cost": {
            "seconds": joined.hessian.seconds,
            "spent": f"{size.probes} probes of {len(text)} rows, by {method}",
            "units": size.probes * len(text),
        },
    }


_METHODS = {"taylor": "Taylor mode", "two-level": "Taylor mode in two precisions", "hvp": "Hessian products"}


def validity(text: Text, size: Size, seed: int) -> Record:
    """What is left of the quadratic term at the σ of each α; and, as `parts`, what a pair cancels and keeps there."""
    started, found = time.perf_counter(), []
    for ids in track(batches(len(text), _BATCH), "range of validity"):
        loss = text.loss(ids)
        dim = loss.embeddings.shape[-1]
        sigmas = torch.stack([Noise.neftune(alpha).sigma(loss.lengths.cpu(), dim) for alpha in size.alphas])
        found.append(smoothed_curvature(loss, sigmas, draws=size.draws, seed=seed))
    joined = SmoothedCurvature.joined(found)
    at = size.alphas.index(ALPHA)
    passes = 2 * size.draws * len(size.alphas) * len(text)
    spent = f"{size.draws} mirrored draws at {len(size.alphas)} α, of {len(text)} rows"
    return {
        "table": _plain(smoothed_curvature_frame(joined, size.alphas)),
        "parts": _plain(signal_to_noise_frame(joined, size.alphas)),
        "mean kept": _over(joined.pair[at].mean(0)),
        "cost": {"seconds": time.perf_counter() - started, "spent": spent, "units": passes},
    }


def noise(text: Text, size: Size, seed: int) -> Record:
    """r = ‖ε_t‖/‖x_t‖ (`token_ratios`): means over tokens and rows, and tenths of all tokens."""
    started, rows = time.perf_counter(), []
    for ids in batches(len(text), _BATCH):
        loss = text.loss(ids)
        rows += [token_ratios(loss.example(b)).cpu() for b in range(len(loss.ids))]
    every = torch.cat(rows)
    means, table = torch.stack([row.mean() for row in rows]), []
    for alpha in SIZES:
        low, high = (float(every.quantile(q)) * alpha for q in (0.1, 0.9))
        table.append({"alpha": alpha, **_over(alpha * means), "tenth": low, "ninth": high})
    cost = {"seconds": time.perf_counter() - started, "spent": f"{len(every)} tokens, no forward pass", "units": 0}
    return {"table": table, "cost": cost}


def layers(text: Text, size: Size, seed: int) -> Record:
    """Growth and displacement of the hidden states under SymNoise's pairs."""
    started, count = time.perf_counter(), min(len(text), _LAYERED)
    found = layer_growth(text.loss(range(count)), Noise.symnoise(ALPHA), size.noised, seed)
    spent = f"{size.noised} mirrored draws at α = {ALPHA:g}, of {count} rows"
    cost = {"seconds": time.perf_counter() - started, "spent": spent, "units": 2 * size.noised * count}
    return {"table": _plain(layer_growth_frame(found)), "rows": count, "cost": cost}


SECTIONS: dict[str, Callable[[Text, Size, int], Record]] = {
    "curvature": curvature,
    "validity": validity,
    "noise": noise,
    "layers": layers,
}


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _over(rows: torch.Tensor) -> dict[str, float]:
    """The mean over rows with its 95 % interval for rows like these; none for a single row."""
    mean = Estimate.from_draws(rows)
    low, high = mean.interval()
    return {"value": float(mean), "low": float(low), "high": float(high)}
