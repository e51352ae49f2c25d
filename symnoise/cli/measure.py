"""The measuring commands: load, measure, print a table, write JSON."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from symnoise.core import (
    Estimate,
    InputError,
    peak_rss_mib,
    progress_shown,
    retained_heap,
    unknown,
    write_atomically,
    write_json,
)
from symnoise.curvature import METHODS, gauss_newton_trace, smoothed_curvature, trace, trace_parts
from symnoise.models import EmbeddingLoss, LoadedModel, encode, load_data, load_model
from symnoise.noise import Noise, sampled_moments
from symnoise.norms import expected_square_norm, layer_growth

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def moments(*, law: str, alpha: float, length: int, dim: int, draws: int, seed: int, json: Path | None) -> None:
    """`symnoise moments`."""
    singles = ("uniform", "gaussian", "gaussian-raw", "rademacher")
    if law not in singles:
        raise unknown("law", law, singles)
    noise = Noise.named(law, alpha)
    assert noise is not None
    with _long_work(json):
        sampled = sampled_moments(noise, length, dim, draws, seed)
    expected = noise.moments(length, dim)
    names = ("mean_square_norm", "var_square_norm", "mean_norm")
    result: dict[str, Any] = {}
    for name in names:
        estimate = getattr(sampled, name)
        measured = {"measured": float(estimate.value), "stderr": float(estimate.stderr)}
        result[name] = {"predicted": getattr(expected, name), **measured}
    symbols = dict(zip(names, ("E‖ε‖²", "Var‖ε‖²", "E‖ε‖"), strict=True))
    _show(
        f"{law}, α = {alpha:g}, L = {length}, d = {dim}, {draws} draws",
        ("", "predicted", "measured", "stderr"),
        [(symbols[name], *(f"{value:.6g}" for value in result[name].values())) for name in names],
    )
    _write(json, result | {"law": law, "alpha": alpha, "length": length, "dim": dim, "draws": draws, "seed": seed})


def curvature(*, method: str, probes: int, seed: int, json: Path | None, **options: Any) -> None:
    """`symnoise curvature`."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if probes < 1:
        raise InputError(f"--probes must be 1 or more; got {probes}")
    hessians, gauss_newtons, forward = [], [], 0.0
    with _long_work(json):
        loaded, losses = _losses(**options)
        for loss in losses:
            forward += _forward_seconds(loss)
            if method in ("auto", "taylor"):
                parts = trace_parts(loss, method, probes, seed)
                hessians.append(parts.hessian)
                gauss_newtons.append(parts.gauss_newton)
            else:
                hessians.append(trace(loss, method, probes, seed))
                gauss_newtons.append(gauss_newton_trace(loss, "hvp" if method == "hvp" else "auto", probes, seed))
    hessian, gauss_newton = _joined(hessians), _joined(gauss_newtons)
    products = probes if method != "exact" else max(loss.embeddings[0].numel() for loss in losses)
    tokens = [int(n) for loss in losses for n in loss.lengths]
    scored = [int(n) for loss in losses for n in loss.scored_tokens]
    per_example = [
        {"tokens": t, "scored_tokens": s, "trace": float(v), "stderr": float(e), "gauss_newton_trace": float(g)}
        for t, s, v, e, g in zip(tokens, scored, hessian.value, hessian.stderr, gauss_newton.value, strict=True)
    ]
    result: dict[str, Any] = {
        "model": loaded.name,
        "data": str(options["data"]),
        "method": hessian.method,
        "probes": probes,
        "trace": _value_and_error(hessian.mean()),
        "gauss_newton_trace": _value_and_error(gauss_newton.mean()),
        "per_example": per_example,
        "seconds": hessian.seconds,
        "forward_seconds": forward,
        "forwards_per_probe": hessian.seconds / (products * forward),
        "peak_rss_mib": peak_rss_mib(),
        "seed": seed,
    }
    rows = [
        (
            str(i),
            str(r["tokens"]),
            str(r["scored_tokens"]),
            _pm(r["trace"], r["stderr"]),
            f"{r['gauss_newton_trace']:.4g}",
        )
        for i, r in enumerate(per_example)
    ]
    rows.append(("mean", "", "", _pm(*result["trace"].values()), _pm(*result["gauss_newton_trace"].values())))
    _show(
        f"{loaded.name} on {options['data']}: {hessian.method}, {probes} probes",
        ("example", "tokens", "scored", "tr H", "tr G"),
        rows,
        f"{result['seconds']:.1f} s, {result['forwards_per_probe']:.2f} forward passes a probe",
    )
    _write(json, result)


def smooth(*, alphas: str, noise: str, draws: int, seed: int, json: Path | None, **options: Any) -> None:
    """`symnoise smooth`."""
    strengths = _numbers(alphas)
    with _long_work(json):
        loaded, losses = _losses(**options)
        found = []
        for loss in losses:
            dim = loss.embeddings.shape[-1]
            sigmas = torch.stack([Noise.neftune(alpha).sigma(loss.lengths.cpu(), dim) for alpha in strengths])
            found.append(smoothed_curvature(loss, sigmas, noise, draws, seed))
    rows: list[dict[str, Any]] = []
    for i, alpha in enumerate(strengths):
        C, T = (_joined([_at(getattr(part, name), i) for part in found]) for name in ("C", "T"))
        sigma = torch.cat([part.sigmas[i] for part in found])
        examples = zip(sigma, C.value, C.stderr, T.value, T.stderr, strict=True)
        keys = ("sigma", "C", "stderr", "T", "T_stderr")
        rows.append(
            {"sigma": float(sigma.mean()), "alpha": alpha, "T": float(T.mean().value), "C": float(C.mean().value)}
            | {"stderr": float(C.mean().stderr), "T_stderr": float(T.mean().stderr)}
            | {"per_example": [dict(zip(keys, map(float, example), strict=True)) for example in examples]}
        )
    hessian = torch.cat([part.forms.mean(0) for part in found])
    _show(
        f"{loaded.name} on {options['data']}: {noise}, {draws} mirrored draws; mean zᵀHz {float(hessian.mean()):.4g}",
        ("α", "σ", "T(σ)", "C(σ)"),
        [(f"{r['alpha']:g}", f"{r['sigma']:.3g}", _pm(r["T"], r["T_stderr"]), _pm(r["C"], r["stderr"])) for r in rows],
    )
    facts = {"model": loaded.name, "data": str(options["data"]), "noise": noise, "draws": draws, "seed": seed}
    _write(json, facts | {"hessian_trace": float(hessian.mean()), "rows": rows})


def norms(*, noise: str, alpha: float, draws: int, seed: int, json: Path | None, **options: Any) -> None:
    """`symnoise norms`."""
    chosen = Noise.named(noise, alpha)
    if chosen is None:
        raise InputError("noise 'none' changes no norm; choose a noise such as symnoise")
    with _long_work(json):
        loaded, (loss,) = _losses(**options, batch=options["examples"])
        growth = layer_growth(loss, chosen, draws, seed)
    expected = expected_square_norm(loss.embeddings, loss.mask, chosen)
    clean = growth.clean[0] * loss.lengths
    layers: list[dict[str, Any]] = [
        {
            "layer": layer,
            "clean_square_norm_per_token": float(growth.clean[layer].mean()),
            "growth": _value_and_error(_at(growth.growth, layer).mean()),
            "displacement": _value_and_error(_at(growth.displacement, layer).mean()),
        }
        for layer in range(len(growth.clean))
    ]
    tokens = [
        {
            "example": b,
            "tokens": int(length),
            "growth_per_token": [growth.per_token.value[layer, b, :length] for layer in range(len(growth.clean))],
        }
        for b, length in enumerate(loss.lengths.tolist())
    ]
    embeddings = [
        {"square_norm": float(c), "predicted": float(m), "measured": float(c * (1 + g)), "stderr": float(c * e)}
        for c, m, g, e in zip(clean, expected.mean, growth.growth.value[0], growth.growth.stderr[0], strict=True)
    ]
    _show(
        f"{loaded.name} on {options['data']}: {noise}, α = {alpha:g}, {draws} draws",
        ("layer", "‖h‖² a token", "growth", "displacement"),
        [
            (str(r["layer"]), f"{r['clean_square_norm_per_token']:.4g}")
            + tuple(_pm(r[name]["value"], r[name]["stderr"]) for name in ("growth", "displacement"))
            for r in layers
        ],
        "growth: E‖h(X+ε)‖²/‖h(X)‖² − 1; displacement: E‖h(X+ε) − h(X)‖²/‖h(X)‖²; layer 0 is the embeddings",
    )
    facts = {"model": loaded.name, "data": str(options["data"]), "noise": noise, "alpha": alpha, "draws": draws}
    _write(json, facts | {"seed": seed, "embeddings": embeddings, "layers": layers, "per_token": tokens})


def _losses(
    *, model: str, data: str, examples: int, max_length: int, batch: int, dtype: str, device: str
) -> tuple[LoadedModel, list[EmbeddingLoss]]:
    """The model, and the losses of the first `examples` rows in batches."""
    if dtype not in _DTYPES:
        raise unknown("dtype", dtype, _DTYPES)
    if batch < 1:
        raise InputError(f"--batch must be 1 or more; got {batch}")
    rows = list(load_data(data, limit=examples))
    loaded = load_model(model, dtype=_DTYPES[dtype], device=device)
    return loaded, [
        EmbeddingLoss(
            loaded.model,
            encode(rows[i : i + batch], loaded.tokenizer, max_length=max_length, model=loaded.model),
            ids=range(i, min(i + batch, len(rows))),
        )
        for i in range(0, len(rows), batch)
    ]


def _forward_seconds(loss: EmbeddingLoss) -> float:
    """Seconds of a plain forward pass with logits at the scored positions: the best of three, after a warm-up."""
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        with torch.no_grad():
            loss(loss.embeddings)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def _joined(parts: Sequence[Estimate]) -> Estimate:
    """Estimates of several batches as one, example after example."""
    return replace(
        parts[0],
        value=torch.cat([part.value for part in parts]),
        stderr=torch.cat([part.stderr for part in parts]),
        seconds=sum(part.seconds for part in parts),
    )


def _at(estimate: Estimate, index: int) -> Estimate:
    return replace(estimate, value=estimate.value[index], stderr=estimate.stderr[index])


def _value_and_error(estimate: Estimate) -> dict[str, float]:
    return {"value": float(estimate.value), "stderr": float(estimate.stderr)}


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise InputError(f"--alphas takes numbers above 0, separated by commas; got {text!r}")
    return numbers


@contextmanager
def _long_work(json: Path | None) -> Iterator[None]:
    """A progress bar, memory kept between steps, and a first try at the output file before the work, not after it."""
    if json is not None:
        write_atomically(json.with_name(f".{json.name}.try"), lambda _: None)
        json.with_name(f".{json.name}.try").unlink()
    with progress_shown(), retained_heap():
        yield


def _write(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        write_json(path, result)


def _pm(value: float, error: float) -> str:
    return f"{value:.4g}" if math.isnan(error) else f"{value:.4g} ± {error:.2g}"


def _show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str | None = None) -> None:
    table = Table(title=title, caption=caption)
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
