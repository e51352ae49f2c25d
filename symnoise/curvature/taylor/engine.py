"""Collapsed Taylor mode for any causal or encoder-decoder Transformers model: v'Hv and v'Gv, no graph kept."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from symnoise.core import InputError, retained_heap, until_it_fits
from symnoise.curvature.taylor.buffers import Buffers
from symnoise.curvature.taylor.head import token_terms
from symnoise.curvature.taylor.memory import chunk_size, memory_limit, passes
from symnoise.curvature.taylor.tensor import Frame, NonFinite, Taylor, UnsupportedOperation
from symnoise.models import EmbeddingLoss

# Probes that one sum is carried for where its dtype has fewer bits than float32: every addition rounds the sum so far.
# In bfloat16 with 64 the traces of three examples on SmolLM2 came out 8 to 11 too low, of 46 to 274; with 8 or 16 they
# were 0.2 to 4 off, to both sides.
_FEW = 8


@dataclass(frozen=True)
class TaylorQuadratics:
    """Per example and in float64: ℓ(X), the mean of v_k'Hv_k over the probes of each group, and v_k'Gv_k.

    H is the Hessian of `loss` at X, G = J'∇²ℓJ its Gauss-Newton part (J: logits with respect to X).
    """

    loss: Float[Tensor, " batch"]
    hessian: Float[Tensor, "group batch"]
    gauss_newton: Float[Tensor, "probe batch"]


def taylor_quadratics(
    loss: EmbeddingLoss,
    V: Float[Tensor, "probe batch token dim"],
    *,
    groups: int,
    at: Float[Tensor, "batch token dim"] | None = None,
    coefficients: torch.dtype | None = None,
    memory: int | None = None,
) -> TaylorQuadratics:
    """One forward pass that carries all probes: about (K + G + 1)/K plain forwards per probe, without a graph.

    V: K probes; `groups`: G equal runs of them, each summed on the way. at: X, default the model's own embeddings.
    coefficients: dtype of the derivatives; None = the model's. If it is coarser than float32, groups are split into
    parts of at most 8 probes if possible, which are averaged in float64.
    memory: bytes above the model that the pass may take, default half of what is free (at most 4 GiB on a CPU). Probes
    are split into several passes to stay within it, which changes results by rounding only. Sums over tokens are in
    float64. Raises `UnsupportedOperation` naming an operation without a rule; `InputError` if the number of groups does
    not divide that of the probes, or if coefficients become NaN (names layer, operation and probe).
    """
    probes = V.shape[0]
    if not 1 <= groups <= probes or probes % groups:
        raise InputError(f"{probes} probes cannot be cut into {groups} equal groups; choose a divisor of {probes}")
    X = loss.embeddings if at is None else at
    limit = memory_limit(X.device) if memory is None else memory
    parts = parts_of_a_sum(probes // groups, coefficients or X.dtype)
    size = chunk_size(loss, probes, groups * parts, limit, coefficients)
    run = partial(in_passes, loss, X, V, groups * parts, coefficients)
    with torch.no_grad(), retained_heap():
        result, _ = until_it_fits(run, size, "out of memory; continuing with {smaller} probes at a time")
    finite = [x.isfinite().reshape(-1, len(X)).all(0) for x in vars(result).values()]
    bad = (~torch.stack(finite).all(0)).nonzero()
    if len(bad):
        _explain(loss, X, V, coefficients, int(bad[0]))
    return replace(result, hessian=result.hessian.unflatten(0, (groups, parts)).mean(1))


def parts_of_a_sum(members: int, dtype: torch.dtype) -> int:
    """Number of equal parts of a group's sum: the fewest with at most `_FEW` probes, 1 if the precision suffices."""
    if torch.finfo(dtype).eps <= torch.finfo(torch.float32).eps:
        return 1
    return next(parts for parts in range(1, members + 1) if members % parts == 0 and members // parts <= _FEW)


def in_passes(
    loss: EmbeddingLoss, X: Tensor, V: Tensor, groups: int, dtype: torch.dtype | None, size: int
) -> TaylorQuadratics:
    """`taylor_quadratics` with at most `size` probes per pass, and without its checks of the result."""
    probes, batch = V.shape[:2]
    value = X.new_zeros(batch, dtype=torch.float64)
    hessian, gauss_newton = value.new_zeros(groups, batch), value.new_zeros(probes, batch)
    for some, sums in passes(probes, groups, size):
        frame = Frame(some.stop - some.start, sums.stop - sums.start, dtype)
        terms = token_terms(loss, _logits(loss, X, V[some], frame))
        value = loss.averages @ terms.loss
        gauss_newton[some] = terms.gauss_newton @ loss.averages.T
        hessian[sums] += terms.second @ loss.averages.T
    return TaylorQuadratics(value, hessian / (probes // groups), gauss_newton)


def _logits(loss: EmbeddingLoss, X: Tensor, V: Tensor, frame: Frame) -> Taylor:
    """Logits at the scored positions as a Taylor tensor."""
    c = V.new_zeros(frame.probes + frame.groups, *X.shape, dtype=X.dtype, device=X.device)
    c[: frame.probes] = V
    try:
        with Buffers(frame):
            logits = loss.logits(Taylor(X, c, frame))
    except UnsupportedOperation as error:
        raise UnsupportedOperation(error.operation, _where(loss.model, error)) from None
    if not isinstance(logits, Taylor):
        raise UnsupportedOperation(f"{type(loss.model).__name__}, whose logits do not depend on the embeddings,")
    return logits


def _where(model: nn.Module, error: BaseException) -> str:
    """Path and class of the innermost module of the model on the way to the error."""
    names = {module: name for name, module in model.named_modules()}
    place, trace = "", error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_locals.get("self")
        if isinstance(module, nn.Module) and names.get(module):
            place = f"{names[module]}, a {type(module).__name__}"
        trace = trace.tb_next
    return place


def _explain(loss: EmbeddingLoss, X: Tensor, V: Tensor, dtype: torch.dtype | None, example: int) -> None:
    """Run again probe by probe, checking every result; raises `InputError` at the first that is not finite.

    example: the first of the batch whose curvature is not.
    """
    for index, probe in enumerate(V):
        if not probe.isfinite().all():
            raise InputError(f"probe {index} has entries that are NaN or infinite")
        try:
            frame = Frame(1, 1, dtype, check=True)
            token_terms(loss, _logits(loss, X, probe[None], frame))
        except NonFinite as error:
            place = _where(loss.model, error) or "the head"
            raise InputError(f"example {example}, probe {index}: {error} at {place}; try float32 or float64") from None
    raise InputError(f"the curvature of example {example} is NaN or infinite although each layer's is not; try float64")
