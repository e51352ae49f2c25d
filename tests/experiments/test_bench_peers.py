"""The bench's methods compute one quantity; symnoise, hessian-eigenthings, PyHessian and curvlinops agree on it.

Tests that need a peer are skipped where it is not installed; `make peers-test` runs them all. Everyone uses the stock
class with its casts to float32, so numbers agree to 1e-5 of the spectrum's width.
"""

from collections.abc import Callable

import pytest
import torch

from experiments.bench import peers as bench_peers
from experiments.bench.peers import Problem, SummedLoss
from experiments.bench.process import batch
from symnoise.core import InputError
from symnoise.curvature import EmbeddingHessian, dense_hessian, random_probes, spectral_density, spectrum, trace
from symnoise.curvature.taylor import taylor_quadratics
from tests.tiny import VOCABULARY, tiny

N = 4 * 32


@pytest.fixture
def problem() -> Problem:
    return Problem(tiny("llama", torch.float64), batch(VOCABULARY, rows=1, tokens=4, scored=2), 2)


@pytest.fixture(scope="module")
def H() -> torch.Tensor:
    """By torch.func, forward over reverse."""
    problem = Problem(tiny("llama", torch.float64), batch(VOCABULARY, rows=1, tokens=4, scored=2), 2)
    problem.model.set_attn_implementation("eager")
    loss = problem.loss
    return torch.func.hessian(lambda x: loss(x)[0])(loss.embeddings).reshape(N, N)


def close(found: torch.Tensor | float, expected: torch.Tensor | float, scale: torch.Tensor) -> None:
    torch.testing.assert_close(
        torch.as_tensor(found, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        rtol=0,
        atol=1e-5 * float(torch.linalg.matrix_norm(scale, 2)),
    )


def eigenthings(problem: Problem) -> Callable[[torch.Tensor], torch.Tensor]:
    pytest.importorskip("hessian_eigenthings")
    return bench_peers.eigenthings(problem).matvec


def pyhessian(problem: Problem) -> Callable[[torch.Tensor], torch.Tensor]:
    pytest.importorskip("pyhessian")
    from pyhessian.utils import hessian_vector_product

    found = bench_peers.pyhessian(problem)
    return lambda v: hessian_vector_product(found.gradsH, found.params, [v.reshape_as(found.params[0])])[0].flatten()


def curvlinops(problem: Problem) -> Callable[[torch.Tensor], torch.Tensor]:
    pytest.importorskip("curvlinops")
    return bench_peers.curvlinops(problem).__matmul__


@pytest.mark.parametrize("peer", [eigenthings, pyhessian, curvlinops])
def test_a_peer_given_embeddings_as_parameters_has_the_same_hessian(peer, problem: Problem, H: torch.Tensor) -> None:
    product = peer(problem)
    dense = torch.stack([product(v).detach() for v in torch.eye(N, dtype=torch.float64)])
    close(dense, H, H)
    close(dense, dense_hessian(problem.loss)[0], H)
    close(float(dense.trace()) / N, float(trace(problem.loss, method="exact").value[0]) / N, H)


def test_hessian_eigenthings_finds_the_same_top_eigenvalue(problem: Problem, H: torch.Tensor) -> None:
    library = pytest.importorskip("hessian_eigenthings")
    found = library.lanczos(
        bench_peers.eigenthings(problem), k=1, max_iter=60, which="LA", reorthogonalize=True, seed=0
    )
    close(found.eigenvalues[0], spectrum(problem.loss, k=1, tolerance=1e-9).values[0, 0], H)


def test_pyhessian_finds_the_same_top_eigenvalue(problem: Problem, H: torch.Tensor) -> None:
    pytest.importorskip("pyhessian")
    torch.manual_seed(0)
    ((found,), _) = bench_peers.pyhessian(problem).eigenvalues(maxIter=2000, tol=1e-10)
    close(found, spectrum(problem.loss, k=1, which="magnitude", tolerance=1e-9).values[0, 0], H)


def test_curvlinops_finds_the_same_edges(problem: Problem, H: torch.Tensor) -> None:
    pytest.importorskip("curvlinops")
    from scipy.sparse.linalg import eigsh

    operator = bench_peers.curvlinops(problem).to_scipy()
    for which, part in (("LA", "algebraic"), ("SA", "smallest")):
        (found,) = eigsh(operator, 1, which=which, return_eigenvectors=False, tol=1e-9)
        close(float(found), spectrum(problem.loss, k=1, which=part, tolerance=1e-9).values[0, 0], H)


ESTIMATORS = ("hutchinson_trace", "hutchpp_trace", "xtrace", "hutchinson_diag", "xdiag", "hutchinson_squared_fro")


@pytest.mark.parametrize("name", ESTIMATORS)
def test_curvlinops_estimators_take_our_operator(name: str, problem: Problem, H: torch.Tensor) -> None:
    estimate = getattr(pytest.importorskip("curvlinops"), name)
    found = []
    for operator in (EmbeddingHessian(problem.loss), H):  # a matrix, and with the same seed the same probes
        torch.manual_seed(0)
        found.append(estimate(operator, 30))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4 * float(H.abs().max()))


def test_curvlinops_density_takes_our_operator(problem: Problem, H: torch.Tensor) -> None:
    library = pytest.importorskip("curvlinops")
    torch.manual_seed(0)
    grid, density = library.lanczos_approximate_spectrum(EmbeddingHessian(problem.loss), 20, boundaries_tol=1e-8)
    low, high = torch.linalg.eigvalsh(H)[[0, -1]]
    close(grid[0], low - 0.05 * (high - low), H)  # its margin
    close(grid[-1], high + 0.05 * (high - low), H)
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-2)


def test_hessian_eigenthings_algorithms_take_our_operator(problem: Problem, H: torch.Tensor) -> None:
    library = pytest.importorskip("hessian_eigenthings")
    ours = EmbeddingHessian(problem.loss)
    matrix = library.LambdaOperator(lambda v: H @ v, N, dtype=torch.float64)
    for method in ("hutchinson", "hutch++"):
        one, other = (library.trace(A, num_matvecs=30, method=method, seed=0) for A in (ours, matrix))
        assert one.estimate == pytest.approx(other.estimate, rel=1e-4)
    density = library.spectral_density(ours, num_runs=1, lanczos_steps=10, seed=0)
    mine = spectral_density(problem.loss, steps=10, probes=1)
    # Other probes, the same matrix: the edges of the spectrum agree.
    assert float(density.raw_eigenvalues.max()) == pytest.approx(float(mine.nodes.max()), rel=0.1)


def test_curvlinops_still_fails_on_pytorch_s_silu(problem: Problem) -> None:
    """When this fails, the note in the bench's table is out of date."""
    library = pytest.importorskip("curvlinops")
    module = problem.module
    operator = library.HessianLinearOperator(
        module, SummedLoss(), [module.X], [problem.data], check_deterministic=False
    )
    with pytest.raises((RuntimeError, NotImplementedError), match=r"silu_backward|forward AD"):
        operator @ torch.ones(N, dtype=torch.float64)


def test_the_default_attention_has_no_second_derivative(problem: Problem) -> None:
    """When this fails, the note in the bench's table is out of date."""
    module = problem.module
    module.model.set_attn_implementation("sdpa")
    ids, targets = problem.data
    (gradient,) = torch.autograd.grad(SummedLoss()(module(ids), targets), module.X, create_graph=True)
    with pytest.raises(RuntimeError, match="derivative"):
        torch.autograd.grad(gradient.sum(), module.X)


def test_methods_that_share_probes_agree(problem: Problem) -> None:
    products, taylor = (bench_peers.METHODS[f"symnoise, {name}"] for name in ("Hessian products", "Taylor"))
    many, batch = bench_peers.MANY, len(problem.batch["input_ids"])
    each = [products.setup(problem)(k) for k in range(many, 2 * many)]
    turn = [taylor.setup(problem)(k) for k in range(batch, 2 * batch)]  # an example each
    assert sum(turn) / batch == pytest.approx(sum(each) / many, rel=1e-4)
    reuse, rebuilt = (bench_peers.METHODS[name] for name in ("plain graph reuse", "double backward for each probe"))
    assert reuse.setup(problem)(3) == pytest.approx(rebuilt.setup(problem)(3), rel=1e-6)


@pytest.mark.parametrize("name", bench_peers.METHODS)
def test_every_method_estimates_the_trace(name: str, problem: Problem, H: torch.Tensor) -> None:
    method = bench_peers.METHODS[name]
    if method.package:
        pytest.importorskip(method.package)
    torch.manual_seed(0)
    probe = method.setup(problem)
    draws = torch.tensor([probe(k) for k in range(24)], dtype=torch.float64)
    # 5 standard errors of 24 draws; bfloat16 coefficients add an error of their own, within a standard error here.
    assert abs(float(draws.mean() - H.trace())) < 5 * float(draws.std()) / 24**0.5


def test_passes_of_some_or_all_examples_have_the_same_work_and_trace(monkeypatch) -> None:
    """Of three examples, one and two at a time and all together: the mean over a turn is the batch's Σ zᵀHz."""
    problem = Problem(tiny("llama", torch.float64), batch(VOCABULARY, rows=3, tokens=4, scored=2), 2)
    found = []
    for together, parts in ((1, 3), (3, 1)):
        monkeypatch.setattr(bench_peers, "TOGETHER", together)
        probe = bench_peers._taylor()(problem)
        found.append(sum(probe(k) for k in range(parts)) / parts)
        found.append(bench_peers._two_levels(problem)(0) - bench_peers._taylor(torch.bfloat16)(problem)(0))
    Z = random_probes(problem.loss, bench_peers.MANY, seed=0)
    whole = taylor_quadratics(problem.loss, Z, groups=1).hessian.sum()
    assert found[0] == pytest.approx(float(whole), rel=1e-9) and found[2] == pytest.approx(float(whole), rel=1e-9)
    assert found[1] == pytest.approx(found[3], rel=1e-6) and found[1] != 0  # the pairs' difference, of every example


def test_a_batch_of_products_is_the_mean_of_single_ones(problem: Problem) -> None:
    one, many = (bench_peers._graph_reuse(columns)(problem) for columns in (None, 3))
    assert many(2) == pytest.approx(sum(one(k) for k in (6, 7, 8)) / 3, rel=1e-6)


def test_two_levels_need_probes_for_what_their_pairs_leave(problem: Problem) -> None:
    """V₀/(K + M) + V₁/M is the target's square; one level has V₀/K."""
    spread = {"trace": 100.0, "deviation": 100.0, "rounding": 10.0}  # an error of 5
    assert bench_peers.probes_needed(spread, 0) == 400
    K = bench_peers.probes_needed(spread, 32)
    variance = 100**2 / (K + 32) + 10**2 / 32
    assert variance == pytest.approx(5**2, rel=2e-3)
    with pytest.raises(InputError, match="4 pairs are too few"):
        bench_peers.probes_needed(spread, 4)
    found = bench_peers._spread(problem.loss)
    assert 0 < found["rounding"] < 0.1 * found["deviation"]


@pytest.mark.usefixtures("small_batches")
def test_the_unit_is_the_stock_model_s_forward_for_peers_too(monkeypatch) -> None:
    """No attention kernel is forced on it, and none but the model's own is named."""
    units = []

    class Watched(bench_peers.Clock):
        def forward(self):
            def note(*_):
                units.append((self._loss.model.config._attn_implementation, torch.backends.cuda.flash_sdp_enabled()))

            hook = self._loss.model.register_forward_pre_hook(note)
            super().forward()
            hook.remove()

    monkeypatch.setattr(bench_peers, "Clock", Watched)
    for method in ("symnoise, Taylor", "plain graph reuse"):
        bench_peers.measure({"method": method, "retained": False, "smoke": True})
    assert set(units) == {("sdpa", True)}
