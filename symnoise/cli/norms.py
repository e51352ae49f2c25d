"""`symnoise norms`: growth of embedding norms, in closed form and through the layers."""

from pathlib import Path
from typing import Any

from torch import Tensor

from symnoise.cli.shared import draw, load, long_work, show, value_and_error, write
from symnoise.core import Estimate, InputError, plus_minus
from symnoise.noise import Noise
from symnoise.norms import expected_square_norm, layer_growth, square_norm


def norms(
    *, noise: str, alpha: float, draws: int, seed: int, json: Path | None, figure: Path | None, data: str, **source: Any
) -> None:
    """Print, and write, how much noise increases the norms of embeddings and hidden states, by layer and by token."""
    chosen = Noise.named(noise, alpha)
    if chosen is None:
        raise InputError("noise 'none' changes no norm; choose a noise such as symnoise")
    with long_work(json, figure):
        text = load(data=data, **source)
        loss = text.loss(range(len(text)))
        growth = layer_growth(loss, chosen, draws, seed)
    expected = expected_square_norm(loss.embeddings, loss.mask, chosen)
    clean, measured = square_norm(loss.embeddings, loss.mask), growth.square_norm
    layers: list[dict[str, Any]] = [
        {
            "layer": layer,
            "clean_square_norm_per_token": float(growth.clean[layer].mean()),
            "growth": value_and_error(growth.growth[layer].mean()),
            "displacement": value_and_error(growth.displacement[layer].mean()),
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
        {"square_norm": float(c), "predicted": float(m), "measured": float(v), "stderr": float(e)}
        for c, m, v, e in zip(clean, expected.mean, measured.value, measured.stderr, strict=True)
    ]
    show(
        f"{text.model.name} on {data}: {noise}, α = {alpha:g}, {draws} draws",
        ("layer", "‖h‖² a token", "growth", "displacement"),
        [
            (str(r["layer"]), f"{r['clean_square_norm_per_token']:.4g}")
            + tuple(plus_minus(r[name]["value"], r[name]["stderr"]) for name in ("growth", "displacement"))
            for r in layers
        ],
        "growth: E‖h(X+ε)‖²/‖h(X)‖² − 1; displacement: E‖h(X+ε) − h(X)‖²/‖h(X)‖²; layer 0 enters the first block. "
        + "± one standard error over draws. " * (draws > 1)
        + _of_embeddings(clean, expected.mean, measured)
        + text.notes(),
    )
    draw(figure, "layer_growth", growth)
    facts = text.facts() | {"noise": noise, "alpha": alpha, "draws": draws}
    facts |= {"seed": seed, "embeddings": embeddings, "layers": layers, "per_token": tokens}
    write(json, facts, text.model)


def _of_embeddings(clean: Tensor, expected: Tensor, measured: Estimate) -> str:
    """‖X + ε‖² in closed form next to what was measured, means over examples."""
    mean = measured.mean()
    error = f" ± {float(mean.stderr):.1g}" if mean.stderr.isfinite() else ""  # one draw has none
    return (
        f"‖X+ε‖² of an example's embeddings, on average: {float(expected.mean()):.6g} in closed form (‖X‖² + nσ²), "
        f"{float(mean):.6g}{error} measured; ‖X‖² {float(clean.mean()):.6g}."
    )
