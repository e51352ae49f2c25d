"""The trace of the Hessian in embedding space by symnoise and by its peers: time and memory to 5 % standard error.

Every method computes the same quantity, Σ_b zᵀH_b z summed over the batch, from the same model, ids and scored tokens,
with Rademacher probes z. A peer knows only parameters, so it is given a module whose one parameter is the embeddings;
it forms logits only at the scored positions, as symnoise does, and has frozen weights.

The machine may run faster or slower from one row to the next, so ratios are those of work in forward passes, each row's
in its own process and timed around every repetition: set-up and probes, over a forward. Seconds are kept as well.
A pass that carries many probes may carry fewer, so what is needed is not rounded up to whole passes.

Two levels (`symnoise.curvature.estimators.two_levels`) take their pairs as the set-up, then bfloat16 probes. With V₀
and V₁ the variances of a probe and of a pair's difference, M pairs and K probes reach the variance V₀/(K + M) + V₁/M.

A GPU stays idle where a pass has little to do, so there a pass of Taylor mode has all examples, and the methods that
can take several probes at once take more of them.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.bench.process import ON_GPU, ROWS, SCORED, Clock, Kept, Row, batch, measured, model_of, seconds
from result_schema.bench import OWN, PRODUCTS, TAYLOR, TAYLOR_BFLOAT16, TWO_LEVELS
from symnoise.core import InputError, generator
from symnoise.curvature import HessianProducts, inner, random_probes
from symnoise.curvature.taylor import taylor_quadratics
from symnoise.models import EmbeddingLoss

TARGET = 0.05  # standard error over |mean trace|
REPEATS, REPEATS_OF_MANY = 5, 8  # of calls with a few probes; with many, twice each example
MANY, TOGETHER = 64, ROWS if ON_GPU else 1  # probes and examples of a pass of Taylor mode
_AS_ONE = MANY * TOGETHER // ROWS  # probes of the batch that cost as much
COLUMNS = 16 if ON_GPU else 4  # probes of a call of the peers that take several
_SPREAD_PROBES, _SPREAD_GROUPS = 64, 16
# Of two levels, in sums of 8 as the other probes' in bfloat16: what the library takes at 700 probes.
PAIRS, _PAIR_GROUPS = 32, 4

EAGER = "eager attention, since the default has no second derivative"
PASSES = f"{MANY} probes a pass, {'all examples together' if ON_GPU else 'one example after the other'}"


class EmbeddingsAsParameters(nn.Module):
    """A model whose only trainable parameter is X, the embeddings of one batch: ids ↦ logits at the scored positions.

    The last `scored` labels of every row are scored. Attention is eager: PyTorch's fused kernel for the CPU has no
    second derivative. The weights are frozen.
    """

    def __init__(self, model: Any, ids: Tensor, scored: int) -> None:
        super().__init__()
        model.requires_grad_(False).eval()
        model.set_attn_implementation("eager")
        self.model = model
        self.X = nn.Parameter(model.get_input_embeddings()(ids).detach())
        self._scored = scored

    def forward(self, ids: Tensor) -> Tensor:  # the peers call it with the data; X holds what the ids say
        logits = self.model(inputs_embeds=self.X, use_cache=False, logits_to_keep=self._scored + 1).logits
        return logits[:, :-1]  # position t predicts token t + 1


class SummedLoss(nn.Module):
    """Σ_b mean cross-entropy over the scored tokens of example b."""

    reduction = "sum"  # curvlinops asks

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return total / targets.shape[1]


@dataclass(frozen=True)
class Problem:
    """One batch on one model, shared by all methods."""

    model: Any
    batch: dict[str, Tensor]
    scored: int

    @property
    def loss(self) -> EmbeddingLoss:
        """For symnoise."""
        return EmbeddingLoss(self.model, self.batch)

    @property
    def module(self) -> EmbeddingsAsParameters:
        """For peers."""
        return EmbeddingsAsParameters(self.model, self.data[0], self.scored)

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        """Ids, and the ids that are scored."""
        ids = self.batch["input_ids"].to(self.model.device)
        return ids, ids[:, -self.scored :]


def eigenthings(problem: Problem) -> Any:
    """hessian-eigenthings' operator: graph and gradient are built again for every product."""
    from hessian_eigenthings import HessianOperator

    criterion = SummedLoss()
    return HessianOperator(
        problem.module, [problem.data], lambda module, data: criterion(module(data[0]), data[1]), method="autograd"
    )


def pyhessian(problem: Problem) -> Any:
    """PyHessian's object: one graph kept."""
    from pyhessian import hessian

    return hessian(problem.module, SummedLoss(), data=problem.data, cuda=ON_GPU)


def curvlinops(problem: Problem) -> Any:
    """curvlinops' operator: forward over reverse, built again for every call, several vectors per call."""
    from curvlinops import HessianLinearOperator

    module = problem.module
    for layer in module.modules():
        if isinstance(getattr(layer, "act_fn", None), nn.Module):
            layer.act_fn = PlainSiLU()
    return HessianLinearOperator(module, SummedLoss(), [module.X], [problem.data], check_deterministic=False)


class PlainSiLU(nn.Module):
    """x·sigmoid(x): the backward of PyTorch's own SiLU has no forward-mode derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)


# Set-up: a problem ↦ a function of the probe's number that gives zᵀHz, or its mean over the columns of one call.
Probe = Callable[[int], float]
SetUp = Callable[[Problem], Probe]


def _eigenthings(problem: Problem) -> Probe:
    from hessian_eigenthings import hutchinson

    operator = eigenthings(problem)
    return lambda k: hutchinson(operator, num_samples=1, seed=k).estimate


def _pyhessian(problem: Problem) -> Probe:
    found = pyhessian(problem)
    return lambda _: found.trace(maxIter=1)[0]  # its stopping rule takes a negative trace for convergence


def _curvlinops(columns: int) -> SetUp:
    def setup(problem: Problem) -> Probe:
        from curvlinops import hutchinson_trace

        operator = curvlinops(problem)
        return lambda _: float(hutchinson_trace(operator, columns))

    return setup


def _graph_reuse(columns: int | None) -> SetUp:
    """columns: probes of a call, by `torch.vmap`; None: one, without."""

    def setup(problem: Problem) -> Probe:
        module, criterion, (ids, targets) = problem.module, SummedLoss(), problem.data
        (gradient,) = torch.autograd.grad(criterion(module(ids), targets), module.X, create_graph=True)

        def probe(k: int) -> float:
            batched, each = columns is not None, columns or 1
            Z = torch.stack([_signs(module.X, each * k + column) for column in range(each)])
            given = Z if batched else Z[0]
            (product,) = torch.autograd.grad(gradient, module.X, given, retain_graph=True, is_grads_batched=batched)
            return float((given * product).sum()) / each

        return probe

    return setup


def _double_backward(problem: Problem) -> Probe:
    module, criterion, (ids, targets) = problem.module, SummedLoss(), problem.data

    def probe(k: int) -> float:
        z = _signs(module.X, k)
        (gradient,) = torch.autograd.grad(criterion(module(ids), targets), module.X, create_graph=True)
        (product,) = torch.autograd.grad(gradient, module.X, z)
        return float((z * product).sum())

    return probe


def _signs(X: Tensor, k: int) -> Tensor:
    random = generator(0, "bench", k, device=X.device)
    return 2.0 * torch.randint(0, 2, X.shape, generator=random, device=X.device).to(X) - 1


def _products(problem: Problem) -> Probe:
    loss = problem.loss
    product = HessianProducts(loss)

    def probe(k: int) -> float:
        (z,) = random_probes(loss, 1, seed=0, first=k)
        return float(inner(z, product(z)).sum())

    return probe


def _taylor(coefficients: torch.dtype | None = None) -> SetUp:
    """A call takes the next `TOGETHER` of the B examples with `MANY` probes: the work of MANY·TOGETHER/B probes."""

    def setup(problem: Problem) -> Probe:
        loss = problem.loss
        parts = _parts(loss)

        def probe(k: int) -> float:
            turn, part = divmod(k, len(parts))
            Z = random_probes(loss, MANY, seed=0, first=turn * MANY)[:, parts[part]]
            one = taylor_quadratics(loss.rows(parts[part]), Z, groups=1, coefficients=coefficients)
            return len(parts) * float(one.hessian.sum())

        return probe

    return setup


def _parts(loss: EmbeddingLoss) -> list[list[int]]:
    """The examples, `TOGETHER` of them at a time."""
    examples = list(range(len(loss.ids)))
    return [examples[at : at + TOGETHER] for at in range(0, len(examples), TOGETHER)]


def _two_levels(problem: Problem) -> Probe:
    """The pairs' difference is the set-up; a call is one of `_taylor` in bfloat16, corrected by it."""
    loss, probe = problem.loss, _taylor(torch.bfloat16)(problem)
    Z, difference = random_probes(loss, PAIRS, seed=1), 0.0
    for part in _parts(loss):
        fine, rough = (
            taylor_quadratics(loss.rows(part), Z[:, part], groups=_PAIR_GROUPS, coefficients=dtype).hessian.mean(0)
            for dtype in (None, torch.bfloat16)
        )
        difference += float((fine - rough).sum())
    return lambda k: probe(k) + difference


@dataclass(frozen=True)
class Method:
    """setup: see `SetUp`.  columns: probes one call takes.  repeats: calls that are timed.  package: what must be
    installed.  note: how it runs.  pairs: probes that the set-up takes in both precisions."""

    setup: SetUp
    columns: int = 1
    repeats: int = REPEATS
    package: str = ""
    note: str = ""
    pairs: int = 0


BATCHED = f"plain graph reuse, {COLUMNS} probes a call"  # on a CPU one probe keeps all cores busy

# The first is what the others are divided by.
METHODS: dict[str, Method] = {
    TAYLOR: Method(_taylor(), _AS_ONE, REPEATS_OF_MANY, note=PASSES),
    TAYLOR_BFLOAT16: Method(_taylor(torch.bfloat16), _AS_ONE, REPEATS_OF_MANY, note=PASSES),
    TWO_LEVELS: Method(_two_levels, _AS_ONE, REPEATS_OF_MANY, note=f"{PASSES}; {PAIRS} pairs", pairs=PAIRS),
    PRODUCTS: Method(_products),
    "plain graph reuse": Method(_graph_reuse(None), note=EAGER),
    **({BATCHED: Method(_graph_reuse(COLUMNS), COLUMNS, note=f"{EAGER}; by vmap")} if ON_GPU else {}),
    "double backward for each probe": Method(_double_backward, note=EAGER),
    "PyHessian": Method(_pyhessian, package="pyhessian", note=f"{EAGER}; one probe a call of trace"),
    "hessian-eigenthings": Method(_eigenthings, package="hessian_eigenthings", note=EAGER),
    "curvlinops": Method(_curvlinops(1), package="curvlinops", note=f"{EAGER}; SiLU as x·sigmoid(x)"),
    f"curvlinops, {COLUMNS} probes a call": Method(
        _curvlinops(COLUMNS), COLUMNS, package="curvlinops", note=f"{EAGER}; SiLU as x·sigmoid(x)"
    ),
}


def measure(row: Row) -> Row:
    """One method under one setting of malloc, in this process; or the spread of zᵀHz from one probe to the next."""
    model = model_of(row)
    problem = Problem(model, batch(model.config.vocab_size), SCORED)
    if row["method"] == "spread":
        return _spread(problem.loss)
    method = METHODS[row["method"]]
    clock = Clock(Problem(model_of(row), problem.batch, SCORED).loss)  # its own model: peers make theirs eager
    own = Clock(problem.loss)

    def forward() -> None:  # weights count from when they are first used, and both models' are no method's doing
        clock.forward()
        own.forward()

    with measured(row["retained"], forward) as record:
        if ON_GPU:
            method.setup(problem)  # loads kernels, which rows after the first would have loaded
        torch.manual_seed(0)  # PyHessian and curvlinops draw from the global generator
        made: list[Probe] = []
        setup_s = seconds(lambda: made.append(method.setup(problem)))
        values = [made[0](0)]
        each_s, forwards = clock.median(lambda: values.append(made[0](len(values))), method.repeats)
    return {
        "method": row["method"],
        **record,
        "note": method.note,
        "setup_s": setup_s,
        "probe_s": each_s / method.columns,
        "forwards": forwards / method.columns,
        "forward_s": clock.forward_s,
        "trace": statistics.mean(values[1:]) / len(problem.batch["input_ids"]),
    }


def _spread(loss: EmbeddingLoss) -> Row:
    """Mean over examples of the trace; standard deviations of a probe's estimate of it and of its bfloat16 error."""
    Z = random_probes(loss, _SPREAD_PROBES, seed=1)
    forms, rough = (
        taylor_quadratics(loss, Z, groups=_SPREAD_GROUPS, coefficients=dtype).hessian.mean(1)
        for dtype in (None, torch.bfloat16)
    )
    each = (_SPREAD_PROBES / _SPREAD_GROUPS) ** 0.5
    rounding = float((forms - rough).std()) * each
    return {"trace": float(forms.mean()), "deviation": float(forms.std()) * each, "rounding": rounding}


def probes_needed(spread: Row, pairs: int) -> int:
    """Probes after the set-up for the target: V₀/(K + M) + V₁/M = (target · trace)², without pairs V₀/K."""
    allowed = (TARGET * spread["trace"]) ** 2 - (spread["rounding"] ** 2 / pairs if pairs else 0)
    if not allowed > 0:
        raise InputError(f"{pairs} pairs are too few for a standard error of {TARGET:.0%}; raise PAIRS")
    return max(2, round(spread["deviation"] ** 2 / allowed) - pairs)


def run(smoke: bool, say: Callable[[str], None], kept: Kept) -> list[Row]:
    """Every method that is installed, under both settings of malloc; ratios to the first."""
    say("spread of the probes")
    spread = kept.in_process("peers", {"method": "spread", "smoke": smoke})
    records: list[Row] = []
    for name, method in METHODS.items():
        if method.package and find_spec(method.package) is None:
            say(f"{name}: left out, {method.package} is not installed (make bench installs it)")
            continue
        # symnoise tells malloc to keep freed memory by itself, so both settings are one to it.
        for retained in (True,) if name in OWN or ON_GPU else (True, False):
            say(f"{name}, malloc {'retained' if retained else 'as found'}")
            record = dict(kept.in_process("peers", {"method": name, "retained": retained, "smoke": smoke}))
            needed = probes_needed(spread, method.pairs)
            record["probes"] = needed
            record["seconds"] = record["setup_s"] + needed * record["probe_s"]
            record["work"] = record["setup_s"] / record["forward_s"] + needed * record["forwards"]
            records.append(record | {"mean_trace": spread["trace"], "deviation": spread["deviation"]})
            for quantity in ("work", "memory_gib"):
                records[-1][f"{quantity}_ratio"] = record[quantity] / records[0][quantity]
    return records
