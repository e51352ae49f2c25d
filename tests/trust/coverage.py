"""How often stated 95 % intervals hold the exact value: every kind of interval that symnoise states.

Each case makes independent measurements of one quantity whose exact value is known: by a dense Hessian, a closed form,
or the mean of far more draws than any measurement has. Copies of an example in one batch are as good as seeds, since
every example of a batch draws probes of its own.

A share over 2,000 measurements has a standard error of 0.5 %, one over 400 of 1.1 %: a right interval of the latter
kind falls outside of 93 to 97 % once in 15 times, by chance, and is then reported as it was found.
"""

import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from analysis.study.association import within_settings
from analysis.study.pairs import interval, student
from experiments.alpaca_eval.winrate import length_controlled
from experiments.bench import changes
from symnoise.core import Estimate, generator
from symnoise.curvature import (
    DynamicTrace,
    SpectralDensity,
    attenuation_slope,
    curvature_size,
    dense_hessian,
    diagonal,
    finite_curvature,
    gauss_newton_trace,
    ratio_of_means,
    root_ratio,
    smoothed_curvature,
    spectral_density,
    token_traces,
    trace,
    trace_parts,
    two_sided_divergence,
)
from symnoise.curvature.estimators.sampler import Sampler
from symnoise.curvature.estimators.two_levels import by_two_levels
from symnoise.models import EmbeddingLoss, float64_throughout
from symnoise.noise import Noise
from symnoise.noise.sampled import sampled_moments
from symnoise.norms import layer_growth, radial_identity
from tests.analysis.test_study_statistics import SETTINGS, null
from tests.curvature import test_pooled as pooled
from tests.curvature import test_two_levels, test_xnystrace
from tests.curvature.gauss_newton import dense_gauss_newton
from tests.curvature.test_dynamic import moved
from tests.quadratic import Quadratic
from tests.text import batch
from tests.tiny import tiny
from tests.training import test_budget as budget
from tests.trust.figures import Figure

SEEDS, FEW = 2_000, 400
LOW, HIGH = 0.93, 0.97
FLAT, DECAY, HALVES = torch.linspace(-2, 5, 60), 0.7 ** torch.arange(60.0), 0.5 ** torch.arange(60.0)
SQUARES = torch.arange(1.0, 61) ** -2
SIGMA = 0.3
SEED = "from 0 on, of copies 0"
# Other ranges, and why: the estimators are unbiased, but Student's t takes draws for normal.
SKEWED = "forms that are never negative are skewed where few eigenvalues count"
WIDE = "degrees of freedom of the units that decide: too few where all are alike"
CARRIED = "few texts carry it, and are attenuated more"
LEFT = "what the sketch leaves is a few eigenvalues, whose forms are skewed"
EXCEPTIONS = {
    "trace, hutch++, spectrum 0.7^k": (0.88, HIGH, LEFT),
    "trace, xtrace, spectrum 0.7^k": (0.90, HIGH, LEFT),
    "trace, xnystrace, spectrum 0.5^k": (LOW, 1.0, "hardly anything is left, and one degree of freedom"),
    "Gauss-Newton trace, hvp": (0.91, HIGH, SKEWED),
    "spectral density, second moment": (0.88, HIGH, f"{SKEWED}; 8 probes"),
    "attenuation_slope, examples": (LOW, 0.995, WIDE),
    "root_ratio, examples": (LOW, 0.995, WIDE),
    "root_ratio, draws": (LOW, 0.98, WIDE),
    "attenuation_slope, unlike examples": (0.92, HIGH, CARRIED),
    "root_ratio, unlike examples": (0.92, HIGH, CARRIED),
    "attenuation_slope, draws of unlike": (0.90, HIGH, CARRIED),
    "root_ratio, draws of unlike": (0.90, HIGH, CARRIED),
    "smoothed T(σ)": (LOW, 1.0, "infinite where tr H of the example may be 0, which is most often"),
}
Case = Callable[[], Tensor]


def measure() -> list[Figure]:
    """The share of intervals that hold the truth, of each case."""
    figures = []
    for name, case in cases().items():
        held = case().flatten().double()
        print(f"{name}: {float(held.mean()):.4f} of {len(held)}", flush=True)
        figures.append(figure(name, held))
    return figures


def figure(name: str, held: Tensor) -> Figure:
    """The share of `held`, 1 where an interval holds the truth."""
    low, high, why = EXCEPTIONS.get(name, (LOW, HIGH, ""))
    return Figure(name, float(held.mean()), low, high, len(held), SEED, why)


def holds(estimate: Estimate, truth: float) -> Tensor:
    """Of each entry: whether its 95 % interval holds the truth."""
    low, high = estimate.interval(0.95)
    return (low <= truth) & (truth <= high)


def copies(count: int = SEEDS, *, dtype: torch.dtype = torch.float64) -> EmbeddingLoss:
    """One example of a tiny Llama, many times."""
    text = {key: value[:1].repeat(count, 1) for key, value in batch(tokens=4).items()}
    return EmbeddingLoss(tiny("llama", dtype), text)


@cache
def dense() -> tuple[Tensor, Tensor]:
    """Hessian and Gauss-Newton matrix of that example."""
    with float64_throughout():
        return dense_hessian(copies(1))[0].double(), dense_gauss_newton(copies(1)).double()


def cases() -> dict[str, Case]:
    """Every case by its name."""
    return {**traces(), **other_curvature(), **pools(), **noise_and_norms(), **studies()}


# --- traces


def traces() -> dict[str, Case]:
    """tr H by every method and direction, with a target, and tr G and its rest."""
    found: dict[str, Case] = {}
    for method in ("taylor", "hvp", "difference"):
        for directions in ("rademacher", "gaussian", "orthogonal"):
            found[f"trace, {method}, {directions}"] = partial(_of_model, method, directions)
    for method in ("hutch++", "xtrace"):
        for spectrum, values in (("flat", FLAT), ("0.7^k", DECAY)):
            found[f"trace, {method}, spectrum {spectrum}"] = partial(_of_quadratic, method, values)
    found["trace, two-level"] = _two_levels
    for target in ({"rtol": 0.3}, {"atol": 3.0}, {"sign": True}):
        ((name, value),) = target.items()
        found[f"trace, two-stage, {name}={value}"] = partial(_two_stage, target)
    for method in ("taylor", "hvp", "xnystrace"):
        found[f"Gauss-Newton trace, {method}"] = partial(_gauss_newton, method)
    for spectrum, values in (("flat", FLAT + 3), ("1/k²", SQUARES), ("0.7^k", DECAY), ("0.5^k", HALVES)):
        found[f"trace, xnystrace, spectrum {spectrum}"] = partial(_nystrom, values)
    found["trace_parts, the rest H − G"] = _rest
    found["trace, mean of 4 examples"] = _mean_of_examples
    return found


def _of_model(method: str, directions: str) -> Tensor:
    truth = float(dense()[0].trace())
    return holds(trace(copies(), method, probes=16, directions=directions), truth)


def _two_levels() -> Tensor:
    """Copy by copy: the estimate of a batch has the degrees of freedom of its worst example, safe for all."""
    levels = by_two_levels(Sampler(16, 0, "rademacher", None), copies(dtype=torch.float32), 0, 16)
    truth = float(dense()[0].trace())
    return torch.stack([holds(one.total().hessian, truth) for one in test_two_levels.of_each_copy(levels)])


def _of_quadratic(method: str, values: Tensor) -> Tensor:
    loss = Quadratic(SEEDS, values)
    return holds(trace(loss, method, probes=24), float(loss.A.trace()))


def _two_stage(target: dict[str, float]) -> Tensor:
    loss = Quadratic(1, FLAT)
    truth = float(loss.A.trace())
    return torch.stack([holds(trace(loss, "hvp", 8, seed, max_probes=2_000, **target), truth) for seed in range(FEW)])


def _gauss_newton(method: str) -> Tensor:
    return holds(gauss_newton_trace(copies(FEW if method == "xnystrace" else SEEDS), method), float(dense()[1].trace()))


def _nystrom(values: Tensor) -> Tensor:
    """Seed by seed, for the same reason."""
    loss = Quadratic(1, values)
    return torch.stack([holds(test_xnystrace.run(loss, 16, seed=s), float(loss.A.trace())) for s in range(SEEDS)])


def _rest() -> Tensor:
    H, G = dense()
    return holds(trace_parts(copies(), probes=16).rest, float(H.trace() - G.trace()))


def _mean_of_examples() -> Tensor:
    """The mean over a batch of four, by Satterthwaite's degrees of freedom."""
    truth, found = float(dense()[0].trace()), trace(copies(4 * SEEDS), "hvp", probes=4)
    return torch.stack([holds(found[4 * k : 4 * k + 4].mean(), truth) for k in range(SEEDS)])


# --- other curvature


def other_curvature() -> dict[str, Case]:
    """Sizes, diagonals, tokens, densities, changes, and curvature at the size of the noise."""
    return {
        "curvature_size, ‖H‖_F": partial(_size, "frobenius"),
        "curvature_size, tr H²": partial(_size, "square"),
        "diagonal, hvp": partial(_diagonal, "hvp"),
        "diagonal, xdiag": partial(_diagonal, "xdiag"),
        "token_traces": _tokens,
        "spectral density at a point": _density,
        "spectral density, second moment": _moment,
        "DynamicTrace, change": partial(_dynamic, "change"),
        "DynamicTrace, trace": partial(_dynamic, "trace"),
        "smoothed C(σ)": partial(_smoothed, "C"),
        "smoothed T(σ)": partial(_smoothed, "T"),
        "finite_curvature C(σ)": _finite,
        "two-sided divergence": _divergence,
    }


def _size(quantity: str) -> Tensor:
    loss = Quadratic(SEEDS, FLAT)
    square = float(loss.A.square().sum())
    return holds(getattr(curvature_size(loss, 16), quantity), square if quantity == "square" else math.sqrt(square))


def _diagonal(method: str) -> Tensor:
    """Entry 0 of each copy: a copy's entries depend on each other."""
    loss = Quadratic(SEEDS, FLAT)
    found = diagonal(loss, method, probes=24)
    return holds(Estimate(found.value[:, 0, 0], found.stderr[:, 0, 0], found.count, found.dof), float(loss.A[0, 0]))


def _tokens() -> Tensor:
    """The first token of each copy."""
    loss = Quadratic(SEEDS, FLAT)
    found = token_traces(loss, probes=16).trace
    truth = float(loss.A.diagonal()[:3].sum())
    return holds(Estimate(found.value[:, 0], found.stderr[:, 0], found.count, found.dof), truth)


@cache
def _densities() -> SpectralDensity:
    return spectral_density(copies(FEW), steps=10, probes=8)


def _density() -> Tensor:
    """At the mean eigenvalue, each eigenvalue widened by a tenth of the spectrum."""
    values = torch.linalg.eigvalsh(dense()[0])
    width, at = 0.1 * float(values[-1] - values[0]), values.mean()
    truth = float((-0.5 * ((at - values) / width) ** 2).exp().mean() / (width * math.sqrt(2 * math.pi)))
    return holds(_densities().density(at[None], width), truth)


def _moment() -> Tensor:
    return holds(_densities().moment(2), float(dense()[0].square().sum()) / len(dense()[0]))


def _dynamic(quantity: str) -> Tensor:
    along, loss = DynamicTrace(probes=16, start_probes=16, method="hvp"), moved(SEEDS, 0.3)
    along.measure(Quadratic(SEEDS))
    truth = float(loss.A.trace()) - (float(Quadratic().A.trace()) if quantity == "change" else 0.0)
    return holds(getattr(along.measure(loss), quantity), truth)


def _smoothed(quantity: str) -> Tensor:
    """The truth is the same number from 2,000 times as many draws."""
    loss = copies()
    found, others = (smoothed_curvature(loss, SIGMA, draws=16, seed=seed) for seed in (0, 1))
    below = others.second_order.mean() if quantity == "T" else SIGMA**2 / 2
    return holds(getattr(found, quantity)[0], float(others.pair.mean() / below))


def _finite() -> Tensor:
    loss, sigma = copies(), torch.full((SEEDS,), SIGMA)
    found, others = (finite_curvature(loss, sigma, draws=16, seed=seed) for seed in (0, 1))
    return holds(found, float(others.value.mean()))


def _divergence() -> Tensor:
    loss, sigma = copies(), torch.full((SEEDS,), SIGMA)
    found, others = (two_sided_divergence(loss, sigma, draws=16, seed=seed) for seed in (0, 1))
    return holds(found, float(others.value.mean()))


# --- pooled ratios


def pools() -> dict[str, Case]:
    """Slopes and ratios over draws and texts, heavy-tailed."""
    found: dict[str, Case] = {}
    for unit in ("draw", "example"):
        for k, pool in enumerate((attenuation_slope, ratio_of_means)):
            found[f"{pool.__name__}, {unit}s"] = partial(_pooled, pool, unit, k)
        found[f"root_ratio, {unit}s"] = partial(_root_ratio, unit)
    for pool in (attenuation_slope, root_ratio):
        found[f"{pool.__name__}, unlike examples"] = partial(_unlike, pool, "example")
        found[f"{pool.__name__}, draws of unlike"] = partial(_unlike, pool, "draw")
    return found


def _pooled(pool: Callable, unit: str, which: int) -> Tensor:
    fixed = pooled.texts(0)
    truth = pooled.truths(fixed, 40_000) if unit == "draw" else pooled.truths(pooled.texts(1, 400_000), 4)
    made = (pool(*pooled.draws(fixed if unit == "draw" else pooled.texts(2 + s), s), unit) for s in range(SEEDS))
    return torch.tensor([found.low <= truth[which] <= found.high for found in made])


def _unlike(pool: Callable, unit: str) -> Tensor:
    truth, made = pooled.of_unlike(pool, unit, SEEDS)
    return torch.tensor([found.low <= truth <= found.high for found in made])


def _root_ratio(unit: str) -> Tensor:
    made = []
    for seed in range(SEEDS):
        y, x = torch.randn((2, 6, 12), generator=generator(seed, "root ratio", unit), dtype=torch.float64)
        made.append(root_ratio(3 * y, x, unit))
    return torch.tensor([found.low <= 3 <= found.high for found in made])


# --- noise and norms


def noise_and_norms() -> dict[str, Case]:
    """Sampled moments, growth through layers, the radial identity and the variance budget."""
    found: dict[str, Case] = {f"sampled_moments, {name}": partial(_moments, name) for name in MOMENTS}
    found |= {f"layer_growth, {name}": partial(_growth, name) for name in ("growth", "displacement")}
    found["radial_identity, defect"] = _radial
    found |= {f"variance_budget, {name}": partial(_budget, name) for name in budget.known()}
    return found


MOMENTS = ("mean_square_norm", "var_square_norm", "mean_norm")


def _moments(name: str) -> Tensor:
    noise, length, dim = Noise("gaussian", 5.0), 4, 8
    truth = getattr(noise.moments(length, dim), name)
    return torch.stack(
        [holds(getattr(sampled_moments(noise, length, dim, 1_000, s), name), truth) for s in range(SEEDS)]
    )


def _growth(name: str) -> Tensor:
    """The last layer's; the truth is the mean over other seeds."""
    loss, noise = copies(), Noise.symnoise(5.0)
    found, others = (getattr(layer_growth(loss, noise, draws=8, seed=seed), name)[-1] for seed in (0, 1))
    return holds(found, float(others.value.mean()))


def _radial() -> Tensor:
    """Of ℓ = q + q²/2 with q = ½xᵀAx: H = (1 + q)A + (Ax)(Ax)ᵀ, and ⟨x, ∇ tr H⟩ = 2(q tr A + ‖Ax‖²)."""
    loss = _Quartic(SEEDS, FLAT)
    x = loss.embeddings[0].flatten()
    Ax = loss.A @ x
    q, size, trace_A = x @ Ax / 2, Ax @ Ax, loss.A.trace()
    return holds(radial_identity(loss, 16).defect, float(2 * ((1 + q) * trace_A + size) + 2 * (q * trace_A + size)))


class _Quartic(Quadratic):
    def __call__(self, X: Tensor) -> Tensor:
        q = super().__call__(X)
        return q + q**2 / 2


@cache
def _budgets() -> list:
    return [budget.estimated(seed) for seed in range(FEW)]


def _budget(name: str) -> Tensor:
    return torch.stack([holds(getattr(one, name), budget.known()[name]) for one in _budgets()])


# --- studies


def studies() -> dict[str, Case]:
    """Contrasts, associations, win rates and the bench's ratios."""
    return {
        "contrast, 4 pairs (Student)": partial(_contrast, 4),
        "contrast, 10 pairs (bootstrap)": partial(_contrast, 10),
        "slope over 8 seeds (Student)": _student,
        "association within 4 settings, 5 seeds": partial(_association, 5, 4),
        "association within 21 settings, 5 seeds": partial(_association, 5, SETTINGS),
        "association within 21 settings, 10 seeds": partial(_association, 10, SETTINGS),
        "length-controlled win rate": _win_rate,
        "bench, ratio of variances": _changes,
    }


def _contrast(pairs: int) -> Tensor:
    draws = np.random.default_rng(pairs)
    made = [interval(draws.normal(0.3, 2, pairs), 0.95, k) for k in range(SEEDS)]
    return torch.tensor([one.low <= 0.3 <= one.high for one in made])


def _student() -> Tensor:
    draws = np.random.default_rng(8)
    made = [student(draws.normal(0.3, 2, 8), 0.95) for _ in range(SEEDS)]
    return torch.tensor([one["low"] <= 0.3 <= one["high"] for one in made])


def _association(seeds: int, settings: int) -> Tensor:
    """Those without an interval, a hundredth with 5 seeds, are left out."""
    draws = np.random.default_rng(12)
    ends = [within_settings(null(draws, seeds=seeds, settings=settings)).interval(0.95) for _ in range(SEEDS)]
    return torch.tensor([low <= 0 <= high for low, high in ends if not math.isnan(low)])


def _win_rate() -> Tensor:
    """400 binary preferences of a judge who likes long replies; 1.96 standard errors."""
    draws, held = np.random.default_rng(0), []
    for _ in range(FEW):
        longer = draws.normal(200, 300, 400)
        p = 1 / (1 + np.exp(-(0.3 + np.tanh(longer / longer.std(ddof=1)))))
        value, stderr, *_ = length_controlled((draws.random(400) < p).astype(float), longer)
        held.append(abs(value - 100 / (1 + np.exp(-0.3))) < 1.96 * stderr)
    return torch.tensor(held)


def _changes() -> Tensor:
    """Correlation 0.98 of equal variances: 50 times fewer probes."""
    random, held = generator(0, "pairs"), []
    for _ in range(FEW):
        here, other = torch.randn((2, changes.PROBES, 4), generator=random, dtype=torch.float64)
        _, low, high = changes.ratio(here, 0.98 * here + (1 - 0.98**2) ** 0.5 * other)
        held.append(low <= 50 <= high)
    return torch.tensor(held)
