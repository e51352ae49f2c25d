"""Cost of gradients, Hessian products and Taylor mode, as ratios to a plain forward pass in the same process.

Of other families than SmolLM2's, tiny random models stand in: their forwards per probe over those of a Llama.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from experiments.bench.process import DEVICE, Clock, Kept, Row, batch, measured, model_of, seconds
from symnoise.curvature import HessianProducts, random_probes
from symnoise.curvature.taylor import taylor_quadratics
from symnoise.models import EmbeddingLoss

REPEATS, STARTS = 5, 7

Ratio = Callable[[Callable[[], Any]], float]  # how many forwards some work takes
Work = Callable[[EmbeddingLoss, Ratio], dict[str, float]]


def gradient(loss: EmbeddingLoss, ratio: Ratio) -> dict[str, float]:
    """The gradient with respect to the embeddings."""
    X = loss.embeddings.detach().requires_grad_()
    return {"forwards": ratio(lambda: torch.autograd.grad(loss(X).sum(), X))}


def products(loss: EmbeddingLoss, ratio: Ratio) -> dict[str, float]:
    """Hessian products from one kept graph, its set-up apart; as the first graph, it also pays for fresh memory."""
    kept: list[HessianProducts] = []
    setup = seconds(lambda: kept.append(HessianProducts(loss)))
    (v,) = random_probes(loss, 1, seed=0)
    kept[0](v)
    return {"forwards": ratio(lambda: kept[0](v)), "first_setup_s": setup}


def setup(loss: EmbeddingLoss, ratio: Ratio) -> dict[str, float]:
    """The graph behind Hessian products, built where there was one before, as for every batch but the first."""
    HessianProducts(loss)
    return {"forwards": ratio(lambda: HessianProducts(loss))}


def taylor(count: int, groups: int, coefficients: torch.dtype | None = None) -> Work:
    """Collapsed Taylor mode, all probes in one call."""

    def run(loss: EmbeddingLoss, ratio: Ratio) -> dict[str, float]:
        V = random_probes(loss, count, seed=0)
        found = taylor_quadratics(loss, V, groups=groups, coefficients=coefficients)
        result = {
            "forwards": ratio(lambda: taylor_quadratics(loss, V, groups=groups, coefficients=coefficients)) / count
        }
        if coefficients is not None:
            exact = taylor_quadratics(loss, V, groups=groups).hessian.mean(0)
            result["error"] = float((found.hessian.mean(0) - exact).norm() / exact.norm())
        return result

    return run


@dataclass(frozen=True)
class Piece:
    """One row of the table. name: for a reader.  retained: whether malloc keeps freed memory.  probes, groups: of
    Taylor mode, else 0."""

    name: str
    work: Work
    retained: bool = True
    probes: int = 0
    groups: int = 0


def _taylor(probes: int, groups: int, coefficients: torch.dtype | None = None) -> Piece:
    name = f"Taylor, K = {probes} in {groups} group{'s' if groups > 1 else ''}"
    name += ", bfloat16 coefficients" if coefficients is not None else ""
    return Piece(name, taylor(probes, groups, coefficients), True, probes, groups)


# key in the table -> what is measured
WORK = {
    "gradient": Piece("gradient", gradient),
    "products": Piece("Hessian product", products),
    "products-found": Piece("Hessian product, malloc as found", products, False),
    "setup": Piece("set-up of Hessian products", setup),
    "taylor": _taylor(16, 4),
    "taylor-one-group": _taylor(16, 1),
    "taylor-4": _taylor(4, 4),
    "taylor-bfloat16": _taylor(16, 4, torch.bfloat16),
}


@dataclass(frozen=True)
class Family:
    """A tiny random model of about as many parameters as the Llama it is divided by. name: for a reader.  layers: of
    the model.  sizes: its settings; those that are fractions are multiples of the width."""

    name: str
    layers: int
    sizes: dict[str, int | float]

    def model(self, kind: str, smoke: bool) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        width = 32 if smoke else 128
        sizes = {name: int(size * width) if isinstance(size, float) else size for name, size in self.sizes.items()}
        special = {"vocab_size": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        layers = self.layers // 2 if smoke else self.layers
        config = AutoConfig.for_model(kind, hidden_size=width, num_hidden_layers=layers, **special, **sizes)
        with torch.random.fork_rng(devices=[]):
            return AutoModelForCausalLM.from_config(config).eval().to(DEVICE)


_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}
LLAMA = Family("Llama", 4, _HEADS | {"intermediate_size": 2.0})
# kind, which is the key in the table -> what is divided by the Llama
FAMILIES = {
    "mamba": Family("Mamba", 6, {"state_size": 16, "expand": 2}),
    "mixtral": Family("Mixtral", 4, _HEADS | {"intermediate_size": 0.5, "num_local_experts": 4}),
}


def relative(row: Row) -> Row:
    """A family's forwards per probe over the Llama's: both in this process and in turn, as in `WORK["taylor"]`."""
    family, piece = FAMILIES[row["key"]], WORK["taylor"]
    models = [family.model(row["key"], row["smoke"]), LLAMA.model("llama", row["smoke"])]
    losses = [EmbeddingLoss(model, batch(model.config.vocab_size)) for model in models]
    clocks = [Clock(loss) for loss in losses]
    work = [partial(taylor_quadratics, x, random_probes(x, piece.probes, seed=0), groups=piece.groups) for x in losses]
    with measured(True, lambda: [call() for call in work]) as record:
        rounds = [[clock.median(call, 1)[1] for clock, call in zip(clocks, work, strict=True)] for _ in range(REPEATS)]
    facts = {"key": row["key"], "work": f"a tiny {family.name} ÷ Llama of equal size, forwards per probe"}
    return {
        **facts,
        **record,
        "probes": piece.probes,
        "groups": piece.groups,
        "forwards": statistics.median(one for one, _ in rounds) / piece.probes,
        "ratio": statistics.median(one / llama for one, llama in rounds),
        "forward_s": clocks[0].forward_s,
    }


def measure(row: Row) -> Row:
    """One row of `WORK` or `FAMILIES`, in this process."""
    if row["key"] in FAMILIES:
        return relative(row)
    piece = WORK[row["key"]]
    model = model_of(row)
    loss = EmbeddingLoss(model, batch(model.config.vocab_size))
    clock = Clock(loss)
    with measured(piece.retained, clock.forward) as record:
        result = piece.work(loss, lambda repeated: clock.median(repeated, REPEATS)[1])
    if "first_setup_s" in result:
        result["first_setup"] = result.pop("first_setup_s") / clock.forward_s
    facts = {"key": row["key"], "work": piece.name, "probes": piece.probes, "groups": piece.groups}
    return {**facts, **record, **result, "forward_s": clock.forward_s}


def startup() -> list[Row]:
    """What importing symnoise adds to importing torch, and how long `--help` takes: medians, whole processes."""
    commands = (("-c", "import torch"), ("-c", "import torch, symnoise"), ("-m", "symnoise", "--help"))
    times: list[list[float]] = [[] for _ in commands]
    for _ in range(STARTS):
        for command, taken in zip(commands, times, strict=True):  # in turn, so that a busy moment affects all
            run = partial(subprocess.run, [sys.executable, *command], check=True, capture_output=True)
            taken.append(seconds(run))
    torch_alone, with_symnoise, help_text = map(statistics.median, times)
    return [
        {
            "key": "import",
            "work": "import symnoise, seconds above import torch",
            "seconds": with_symnoise - torch_alone,
        },
        {"key": "help", "work": "symnoise --help, seconds", "seconds": help_text},
    ]


def run(smoke: bool, say: Callable[[str], None], kept: Kept) -> list[Row]:
    """Every row."""
    records = []
    for key, piece in WORK.items():
        say(piece.name)
        records.append(kept.in_process("ratios", {"key": key, "smoke": smoke}))
    for key, family in FAMILIES.items():
        say(f"a tiny {family.name}")
        records.append(kept.in_process("ratios", {"key": key, "smoke": smoke}))
    return records + kept.row(startup, part="startup")
