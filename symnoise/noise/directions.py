"""Random directions in embedding space, keyed by example."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import InputError, Mask, generator
from symnoise.noise.laws import law


def directions(
    embeddings: Float[Tensor, "batch token dim"],
    mask: Mask,
    ids: Sequence[int],
    count: int,
    *,
    seed: int,
    first: int = 0,
    law_name: str = "rademacher",
) -> Float[Tensor, "probe batch token dim"]:
    """Random directions z, numbers `first` … `first + count − 1`: independent, unit variance, 0 at padding.

    Direction k of an example depends only on (seed, its id, k) and its true length, not on its batch or on `count`.
    Only shape, dtype and device of `embeddings` matter. They are drawn on the processor, by as many threads as PyTorch
    uses, so a GPU measures with the same ones. Raises `InputError` unless there is one id for each example.
    """
    _require_ids(ids, embeddings)
    chosen, real = law(law_name), mask != 0
    z = torch.zeros((count, *embeddings.shape), dtype=embeddings.dtype, device=embeddings.device)
    for b, example in enumerate(ids):
        shape = (int(real[b].sum()), embeddings.shape[-1])
        draws = torch.empty((count, *shape), dtype=torch.float32, device="cpu")
        randoms = [generator(seed, "direction", example, first + k) for k in range(count)]
        _in_threads(partial(chosen.draw, size=1.0), draws, randoms)
        z[:, b, real[b]] = (draws / chosen.variance**0.5).to(z)
    return z


def _in_threads(draw: Callable[..., Tensor], outs: Tensor, randoms: list[torch.Generator]) -> None:
    """draw(out, generator=…) for each; every draw has a generator of its own, so the order does not matter."""
    inference = torch.is_inference_mode_enabled()  # of this thread

    def one(out: Tensor, random: torch.Generator) -> None:
        with torch.inference_mode(inference):
            draw(out, generator=random)

    threads = min(torch.get_num_threads(), len(randoms))
    if threads < 2:
        for out, random in zip(outs, randoms, strict=True):
            one(out, random)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, outs, randoms))  # raises what a draw raised


def orthogonal_directions(
    embeddings: Float[Tensor, "batch token dim"],
    mask: Mask,
    ids: Sequence[int],
    count: int,
    *,
    seed: int,
    block: int,
    first: int = 0,
) -> Float[Tensor, "probe batch token dim"]:
    """Random directions in blocks of `block`: orthogonal within a block, independent between blocks.

    A block is √n times a uniform (Haar) frame of orthonormal vectors in an example's n = L·d real coordinates, so
    E[zzᵀ] = I for each z, and ‖z‖² = n exactly. A block of more than n directions holds several independent frames.
    The mean of zᵀHz over a frame of m ≤ n has variance 2n(n − m)/(m(n − 1)(n + 2))·(‖H‖_F² − (tr H)²/n): 0 for m = n,
    and (n − m)/(n − 1) times that of m independent directions on the sphere. It pays when m is not small compared
    with n.

    `first` and `count` must be multiples of `block`. Direction k of an example depends only on (seed, its id, block, k)
    and its true length. Frames are computed in float64. Raises `InputError` as `directions` does.
    """
    _require_ids(ids, embeddings)
    real = mask != 0
    z = torch.zeros((count, *embeddings.shape), dtype=embeddings.dtype, device=embeddings.device)
    for b, example in enumerate(ids):
        shape = (int(real[b].sum()), embeddings.shape[-1])
        n = shape[0] * shape[1]
        for start in range(0, count, block):
            random = generator(seed, "frames", example, block, (first + start) // block)
            frames = [_frame(n, min(n, block - done), random) for done in range(0, block, n)]
            rows = torch.cat(frames).reshape(block, *shape)
            z[start : start + block, b, real[b]] = rows.to(z)
    return z


def _require_ids(ids: Sequence[int], embeddings: Tensor) -> None:
    if len(ids) != len(embeddings):
        raise InputError(f"ids must be one number for each of {len(embeddings)} examples; got {len(ids)}")


def _frame(n: int, m: int, random: torch.Generator) -> Float[Tensor, "m n"]:
    """m orthogonal rows of length √n, uniformly distributed."""
    Q, R = torch.linalg.qr(torch.randn((n, m), generator=random, dtype=torch.float64))
    return (Q * R.diagonal().sign()).T * n**0.5  # without fixing R's signs Q is not uniform
