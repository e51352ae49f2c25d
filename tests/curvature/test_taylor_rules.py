"""Each rule of Taylor mode against derivatives along the same curve by reverse mode over reverse mode, in float64."""

import operator
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from symnoise.core import generator
from symnoise.curvature.taylor import UnsupportedOperation
from symnoise.curvature.taylor import tensor as taylor_tensor
from symnoise.curvature.taylor.rules import elementwise, scan
from symnoise.curvature.taylor.tensor import Frame, Taylor

aten = torch.ops.aten
PROBES, GROUPS = 4, 2
_random = generator(0, "taylor rules")


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=_random, dtype=torch.float64)


def positive(*shape: int) -> Tensor:
    return randn(*shape).abs() + 0.5


MASK = torch.tensor([[True, False, False], [True, True, False], [True, True, True], [True, True, True]])
PLAIN, ROWS = randn(3, 4), torch.tensor([2, 0, 2])
APART = (ROWS[:2], slice(None), ROWS[:2])
EYE, TURNS = torch.eye(3, dtype=torch.float64), torch.polar(PLAIN[:, :2].abs(), PLAIN[:, 2:])
solve = torch.linalg.solve_triangular
QKV = [(2, 4, 4, 6), (2, 4, 3, 6), (2, 4, 3, 5)]  # query and key lengths, key and value widths differ
GROUPED = [(2, 4, 4, 6), (2, 2, 3, 6), (2, 2, 3, 5)]
attention = F.scaled_dot_product_attention
KERNEL = randn(4, 1, 3)  # one for each of four channels


def written(x: Tensor, *writes: Callable[[Tensor], object]) -> Tensor:
    """A copy of x, written into."""
    x = x * 1
    for write in writes:
        write(x)
    return x


def behind_what_was_read(x: Tensor, y: Tensor) -> Tensor:
    z = x * 1
    read, kept, shown = z.exp(), z.clone(), z[1]
    z.add_(y).mul_(2)
    return read + kept * z + shown


def halves(x: Tensor, y: Tensor) -> Tensor:
    """One view of a tensor written into, the tensor and another view read."""
    z = x * 1
    first, second = z[:, :2], z[:, 2:]
    first.mul_(y[:, :2])
    z[:, 1:].add_(1)
    return torch.cat([z, first, second], -1)


def filled(x: Tensor, y: Tensor) -> Tensor:
    """As multi-head latent attention builds its keys."""
    z = x.new_empty(3, 2, 4)
    z[:, 0].copy_(x)
    z[:, 1, :2] = y[:, 2:]
    z[:, 1, 2:] = 0.5
    return z * z


def states(x: Tensor, y: Tensor) -> Tensor:
    """A recurrence in time, written into a tensor of zeros."""
    out, state = torch.zeros_like(x), y[:, 0]
    for t in range(x.shape[1]):
        state = state * x[:, t].sigmoid() + y[:, t]
        out[:, t] = state
    return out


DECAY = positive(3, 2)


def selective(dt: Tensor, b: Tensor, c: Tensor, h: Tensor, state: Tensor, way: str = "all") -> Tensor:
    """Mamba's scan: channels × states × steps, read out by c; `way`: what is done with the states and the results."""
    a, u = torch.exp(-DECAY[None, :, None] * dt[..., None]), dt[..., None] * b[:, None] * h[..., None]
    if way == "tensors":
        a, u = a.flip(2), u.flip(2)
    states, read = [], []
    for t in range(dt.shape[-1]):
        state = state * a[:, :, t - dt.shape[-1]] + u[:, :, t] if way == "last" else a[:, :, t] * state + u[:, :, t]
        states.append(state)
        read.append(torch.matmul(state, c[:, t].unsqueeze(-1))[:, :, 0])
    if way == "parts":
        return torch.cat([torch.stack(read[:2]), torch.stack(read[2:])]) * torch.stack(read)
    if way == "backwards":
        return torch.stack(read[::-1]) * torch.stack(read[::2] + read[1::2])
    if way == "states":
        return torch.stack([*states, state * states[1]]) * torch.stack(read)[..., None].sum()
    return torch.stack(read, -1) * (state.sum() if way == "last" else 1)


def irregular(a: Tensor, u: Tensor, c: Tensor, way: str) -> Tensor:
    """Recurrences that are not one through consecutive steps of a and u."""
    state = other = u[:, :, 0]
    read = []
    for t in (0, 2, 4) if way == "gaps" else range(5):
        source = u * 2 if way == "two sources" and t > 2 else u
        state = a[:, :, 0 if way == "one factor" else t] * state + source[:, :, t]
        if way == "two chains":
            state, other = other, state
        read.append(torch.matmul(state if way != "two chains" else other, c[:, t].unsqueeze(-1))[:, :, 0])
    return torch.stack(read)


SCAN = [positive(2, 3, 5), (2, 5, 2), (2, 5, 2), (2, 3, 5)]
NONE, STARTED = torch.zeros(2, 3, 2, dtype=torch.float64), randn(2, 3, 2)

# At the borders of pieces, as PyTorch takes them.
BORDERS = torch.tensor([-0.5, 0.0, 0.5, 6.0], dtype=torch.float64)

# name: (function, shapes or tensors of its arguments)
CASES: dict[str, tuple[Callable[..., Tensor], list]] = {
    # one entry at a time
    "silu": (F.silu, [(3, 4)]),
    "times a constant of more dimensions": (lambda x: x * torch.linspace(-1, 2, 24).reshape(2, 3, 4).to(x), [(3, 4)]),
    "gelu": (F.gelu, [(3, 4)]),
    "gelu tanh": (partial(F.gelu, approximate="tanh"), [(3, 4)]),
    "relu": (F.relu, [(3, 4)]),
    "leaky_relu": (F.leaky_relu, [(3, 4)]),
    "tanh": (torch.tanh, [(3, 4)]),
    "sigmoid": (torch.sigmoid, [(3, 4)]),
    "exp": (torch.exp, [(3, 4)]),
    "expm1": (torch.expm1, [(3, 4)]),
    "log": (torch.log, [positive(3, 4)]),
    "log1p": (torch.log1p, [positive(3, 4)]),
    "sqrt": (torch.sqrt, [positive(3, 4)]),
    "rsqrt": (torch.rsqrt, [positive(3, 4)]),
    "reciprocal": (torch.reciprocal, [positive(3, 4)]),
    "sin": (torch.sin, [(3, 4)]),
    "cos": (torch.cos, [(3, 4)]),
    "erf": (torch.erf, [(3, 4)]),
    "softplus": (F.softplus, [(3, 4)]),
    "softplus, linear part": (partial(F.softplus, beta=2, threshold=1), [(3, 4)]),
    "elu": (partial(F.elu, alpha=0.7), [(3, 4)]),
    "elu at 0": (partial(F.elu, alpha=0.7), [BORDERS]),
    "rsub of tensors": (lambda x, y: torch.rsub(x, y, alpha=2), [(3, 4), (3, 4)]),
    "rsub from a plain tensor": (lambda x: torch.rsub(x, PLAIN, alpha=2), [(3, 4)]),
    "add a product, doubled": (lambda x, y: torch.add(x, y * PLAIN, alpha=2), [(3, 4), (3, 4)]),
    "selu": (F.selu, [(3, 4)]),
    "relu at 0": (F.relu, [BORDERS]),
    "relu6 at 0 and 6": (F.relu6, [BORDERS]),
    "leaky_relu at 0": (F.leaky_relu, [BORDERS]),
    "abs at 0": (torch.abs, [BORDERS]),
    "clamp at its ends": (lambda x: x.clamp(-0.5, 0.5), [BORDERS]),
    "abs": (torch.abs, [(3, 4)]),
    "clamp": (lambda x: x.clamp(-0.5, 0.5), [(3, 4)]),
    "clamp min": (lambda x: x.clamp_min(0.1), [(3, 4)]),
    "clamp max": (lambda x: x.clamp_max(0.1), [(3, 4)]),
    "clamp by tensors": (lambda x, y: x.clamp(min=y, max=PLAIN[0].abs()), [(3, 4), (3, 1)]),
    "clamp min by a tensor": (lambda x: torch.clamp_min(PLAIN, x), [(3, 1)]),
    "relu6": (F.relu6, [(3, 4)]),
    "square": (lambda x: x**2, [(3, 4)]),
    "cube": (lambda x: x**3, [(3, 4)]),
    "power": (lambda x: x**-0.7, [positive(3, 4)]),
    "neg": (operator.neg, [(3, 4)]),
    "softcap": (lambda x: 5 * torch.tanh(x / 5), [(3, 4)]),
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), [(3, 4)]),
    # sums and products
    "add": (operator.add, [(3, 4), (3, 4)]),
    "add broadcast": (operator.add, [(3, 4), (2, 1, 4)]),
    "add plain": (lambda x: PLAIN + x, [(4,)]),
    "add number": (lambda x: x + 1.5, [(3, 4)]),
    "sub": (operator.sub, [(3, 4), (3, 4)]),
    "sub from plain": (lambda x: PLAIN - x, [(3, 4)]),
    "rsub": (lambda x: 1 - x, [(3, 4)]),
    "add alpha": (lambda x, y: torch.add(x, y, alpha=-2), [(3, 4), (4,)]),
    "mul": (operator.mul, [(3, 4), (3, 4)]),
    "mul broadcast": (operator.mul, [(2, 3, 4), (3, 1)]),
    "mul outer": (operator.mul, [(3, 1), (1, 4)]),
    "mul plain": (lambda x: x * PLAIN, [(3, 1)]),
    "mul by itself": (lambda x: x * x, [(3, 4)]),
    "div": (operator.truediv, [(3, 4), positive(3, 1)]),
    "div plain": (lambda x: x / PLAIN[0], [(3, 4)]),
    "div number": (lambda x: x / 3, [(3, 4)]),
    "number div": (lambda x: 3 / x, [positive(3, 4)]),
    "where": (lambda x, y: torch.where(PLAIN > 0, x, y), [(3, 4), (3, 4)]),
    "where number": (lambda x: torch.where(PLAIN > 0, x, 2.0), [(3, 4)]),
    "where broadcast": (lambda x: torch.where(PLAIN > 0, 0.0, x), [(4,)]),
    "masked_fill": (lambda x: x.masked_fill(PLAIN > 0, 3.0), [(3, 4)]),
    # moving entries
    "view": (lambda x: x.view(2, 6), [(3, 4)]),
    "reshape transposed": (lambda x: x.mT.reshape(6, 2), [(3, 4)]),
    "flatten": (lambda x: x.flatten(), [(3, 4)]),
    "unflatten": (lambda x: x.unflatten(-1, (2, -1)), [(3, 4)]),
    "unsqueeze": (lambda x: x[:, None] + x.unsqueeze(-1)[..., :1, 0], [(3, 4)]),
    "squeeze": (lambda x: x.squeeze(1) + x.squeeze()[0], [(3, 1, 4)]),
    "expand": (lambda x: x.expand(2, 3, 4), [(3, 1)]),
    "repeat": (lambda x: x.repeat(2, 1, 2), [(3, 4)]),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, dim=0), [(3, 4)]),
    "permute": (lambda x: x.permute(2, 0, -2), [(2, 3, 4)]),
    "transpose": (lambda x: x.transpose(-1, 0), [(2, 3, 4)]),
    "t": (lambda x: x.t(), [(3, 4)]),
    "swapaxes": (lambda x: x.swapaxes(0, 1).contiguous(), [(3, 4)]),
    "select": (lambda x: x[1] + x.select(0, -1), [(3, 4)]),
    "slice": (lambda x: x[..., 1:3] * x[..., ::2], [(3, 4)]),
    "narrow": (lambda x: x.narrow(1, 1, 2), [(3, 4)]),
    "split": (lambda x: operator.mul(*x.split(2, -1)), [(3, 4)]),
    "split sizes": (lambda x: x.split([1, 3], dim=1)[1], [(3, 4)]),
    "chunk": (lambda x: operator.mul(*x.chunk(2, dim=-1)), [(3, 4)]),
    "unbind": (lambda x: operator.mul(*x.unbind(1)), [(3, 2)]),
    "cat": (lambda x, y: torch.cat([x, y, PLAIN], -1), [(3, 4), (3, 2)]),
    "rotate half": (lambda x: torch.cat([-x[..., 2:], x[..., :2]], -1), [(3, 4)]),
    "rotary": (lambda x: x * PLAIN + torch.cat([-x[..., 2:], x[..., :2]], -1) * PLAIN.cos(), [(2, 3, 4)]),
    "stack": (lambda x: torch.stack([x, PLAIN, x**2], -1), [(3, 4)]),
    "index": (lambda x: x[ROWS], [(3, 4)]),
    "index pair": (lambda x: x[ROWS, ROWS], [(3, 4)]),
    "index later": (lambda x: x[:, ROWS], [(2, 3, 4)]),
    "index with a gap": (lambda x: x[ROWS, :, ROWS], [(3, 4, 3)]),
    "index with a gap, mask": (lambda x: x[PLAIN > 0, :, ROWS[1:2]], [(3, 4, 2, 3)]),
    "index with a gap, later": (lambda x: x[:, ROWS[:2, None], :, ROWS], [(2, 3, 4, 3)]),
    "index mask": (lambda x: x[PLAIN > 0], [(3, 4)]),
    "index_select": (lambda x: x.index_select(-1, ROWS), [(3, 4)]),
    "gather": (lambda x: x.gather(-1, ROWS[:, None]), [(3, 4)]),
    "flip": (lambda x: x.flip(-1), [(3, 4)]),
    "roll": (lambda x: x.roll(1, -1), [(3, 4)]),
    "tril": (lambda x: x.tril(), [(2, 3, 4)]),
    "triu": (lambda x: x.triu(1), [(2, 3, 4)]),
    "pad": (lambda x: F.pad(x, (1, -1)), [(3, 4)]),
    "cumsum": (lambda x: x.cumsum(-1), [(3, 4)]),
    # chosen by size
    "topk": (lambda x: operator.mul(*(x.topk(2).values.unbind(-1))), [(3, 4)]),
    "topk smallest": (lambda x: x.topk(2, dim=0, largest=False)[0] ** 2, [(3, 4)]),
    "sort": (lambda x: x.sort().values * PLAIN, [(3, 4)]),
    "sort descending": (lambda x: torch.sort(x, dim=0, descending=True, stable=True)[0] * PLAIN, [(3, 4)]),
    "chosen elsewhere": (lambda x, y: y.gather(-1, x.topk(4, -1).indices) + y.argsort(-1), [(3, 4), (3, 4)]),
    "max": (lambda x: x.max(-1, keepdim=True).values * x + x.max(0)[0], [(3, 4)]),
    "min": (lambda x: x.min(1).values[:, None] * x + x.min(), [(3, 4)]),
    "max of all": (lambda x: x.max() * x, [(3, 4)]),
    "amax": (lambda x: x.amax((0, -1))[:, None] + x.amax(1, keepdim=True), [(2, 3, 4)]),
    "amin": (lambda x: x.amin(-1) + x.amin(), [(3, 4)]),
    "maximum": (lambda x, y: torch.maximum(x, y) + torch.max(y, PLAIN[0]), [(3, 4), (3, 1)]),
    "minimum": (lambda x, y: torch.minimum(x, y) + torch.min(PLAIN, x), [(3, 4), (3, 4)]),
    # written into another
    "index_add": (lambda x, y: x.index_add(0, ROWS, y, alpha=2), [(3, 4), (3, 4)]),
    "index_add to plain": (lambda y: PLAIN.index_add(-1, ROWS, y), [(3, 3)]),
    "scatter": (lambda x, y: x.scatter(1, ROWS[:, None], y), [(3, 4), (3, 1)]),
    "scatter number": (lambda x: x.scatter(-1, ROWS[:, None], -2.0), [(3, 4)]),
    "scatter_add": (lambda x, y: x.scatter_add(0, ROWS[None], y), [(3, 4), (1, 3)]),
    "index_put": (lambda x, y: x.index_put((ROWS[:2],), y), [(3, 4), (4,)]),
    "index_put with a gap": (lambda x, y: written(x, lambda z: z.__setitem__(APART, y)), [(3, 4, 3), (2, 4)]),
    "index_put with a gap, broadcast": (lambda x, y: aten.index_put(x, [ROWS, None, ROWS], y, True), [(3, 4, 3), (4,)]),
    "index_put, added": (lambda x, y: x.index_put((ROWS, ROWS), y, accumulate=True), [(3, 4), (3,)]),
    "in place": (lambda x, y: written(x * y, lambda z: z.add_(y).mul_(2).masked_fill_(PLAIN > 0, 1.0)), [(3, 4)] * 2),
    "in place after use": (behind_what_was_read, [(3, 4), (3, 4)]),
    "in place on a view": (lambda x, y: written(x, lambda z: z[1].add_(y), lambda z: z.mT[2].sub_(1)), [(3, 4), (4,)]),
    "in place on one of two views": (halves, [(3, 4), (3, 4)]),
    "in place on a reshaped view": (lambda x, y: written(x, lambda z: z.view(2, 6)[:, ::2].mul_(y)), [(3, 4), (3,)]),
    "in place on what a dead tensor left": (lambda x: (x * 2)[1:].add_(x[0]), [(3, 4)]),
    "in place, of another type": (lambda x: written(x, lambda z: z.mul_(PLAIN.float())), [(3, 4)]),
    "copy_": (lambda x, y: written(x, lambda z: z[:, 1:].copy_(y), lambda z: z[0].copy_(PLAIN[0])), [(3, 4), (3, 1)]),
    "fill_": (lambda x: written(x, lambda z: z[0].fill_(2.0), lambda z: z[:, 1].zero_()), [(3, 4)]),
    "index_add_": (lambda x: torch.zeros_like(x).index_add_(0, ROWS, x), [(3, 4)]),
    "setitem": (filled, [(3, 4), (3, 4)]),
    "setitem mask": (lambda x: written(x, lambda z: z.__setitem__(PLAIN > 0, 3.0)), [(3, 4)]),
    "setitem rows": (lambda x, y: written(x, lambda z: z.__setitem__(ROWS[:2], y)), [(3, 4), (4,)]),
    "recurrence": (states, [(3, 4, 2), (3, 4, 2)]),
    "clone": (lambda x: x.clone() + aten.alias(x) + x.double(), [(3, 4)]),
    "sum": (lambda x: x.sum() + x.sum(-1, keepdim=True), [(3, 4)]),
    "mean": (lambda x: x.mean((0, -1)), [(2, 3, 4)]),
    "var": (lambda x: x.var(-1, keepdim=True), [(3, 4)]),
    "var uncorrected": (lambda x: x.var(-1, unbiased=False), [(3, 4)]),
    "norm": (lambda x: torch.linalg.vector_norm(x, dim=-1, keepdim=True), [(3, 4)]),
    "std": (lambda x: x.std(-1, keepdim=True) + x.std(0, unbiased=False), [(3, 4)]),
    "normalize": (lambda x: F.normalize(x, dim=-1), [(3, 4)]),
    # matrix products
    "linear": (lambda x: F.linear(x, randn_weight, PLAIN[:, 0]), [(2, 3, 4)]),
    "matmul weight": (lambda x: x @ randn_weight.T, [(2, 3, 4)]),
    "matmul from the left": (lambda x: randn_weight @ x, [(2, 4, 3)]),
    "mm": (operator.matmul, [(3, 4), (4, 2)]),
    "mm plain": (lambda x: PLAIN @ x, [(4, 2)]),
    "mv": (lambda x: PLAIN @ x, [(4,)]),
    "dot": (lambda x: x @ PLAIN[0] + x @ x, [(4,)]),
    "scan": (lambda *x: selective(*x, NONE), SCAN),
    "scan of one step": (selective, [positive(2, 3, 1), (2, 1, 2), (2, 1, 2), (2, 3, 1), (2, 3, 2)]),
    "scan from a constant": (lambda *x: selective(*x, STARTED), SCAN),
    "scan from a state": (selective, [*SCAN, (2, 3, 2)]),
    "scan and its last state": (partial(selective, way="last"), [*SCAN, (2, 3, 2)]),
    "scan of tensors": (partial(selective, way="tensors"), [*SCAN, (2, 3, 2)]),
    "scan read in parts": (partial(selective, way="parts"), [*SCAN, (2, 3, 2)]),
    "scan read backwards": (partial(selective, way="backwards"), [*SCAN, (2, 3, 2)]),
    "scan and all its states": (partial(selective, way="states"), [*SCAN, (2, 3, 2)]),
    **{
        f"scan with {way}": (partial(irregular, way=way), [(2, 3, 5, 2), (2, 3, 5, 2), (2, 5, 2)])
        for way in ("gaps", "two sources", "one factor", "two chains")
    },
    "two scans": (lambda *x: selective(*x, NONE) + selective(x[3] ** 2, *x[1:], NONE), SCAN),
    "exp of a multiple": (lambda x: (-DECAY * x).exp() + (x * 2).sin(), [(3, 1)]),
    "sum with a multiple": (lambda x, y: y + DECAY * x, [(2,), (3, 2)]),
    "matmul": (operator.matmul, [(2, 3, 4, 5), (2, 3, 5, 4)]),
    "matmul transposed": (lambda x, y: x @ y.transpose(-1, -2), [(2, 3, 4), (2, 5, 4)]),
    "bmm plain": (lambda x: torch.bmm(x, BATCHED), [(2, 4, 3)]),
    "bmm from the left": (lambda x: torch.bmm(BATCHED, x), [(2, 4, 3)]),
    "addmm": (lambda x: torch.addmm(PLAIN[0], x, randn_weight.T[:, :1] @ PLAIN[:1]), [(2, 4)]),
    "baddbmm": (lambda x, y: torch.baddbmm(BATCHED, x, y, beta=0.5, alpha=0.25), [(2, 3, 5), (2, 5, 4)]),
    "conv1d causal": (lambda x: F.conv1d(x, KERNEL, PLAIN[0], padding=2, groups=4)[..., :5], [(2, 4, 5)]),
    "conv1d": (lambda x: F.conv1d(x, KERNEL.view(6, 2, 1), stride=2, dilation=2), [(2, 2, 5)]),
    "conv1d without batch": (lambda x: F.conv1d(x, KERNEL, groups=4), [(4, 5)]),
    "conv_transpose1d": (lambda x: F.conv_transpose1d(x, KERNEL, stride=2, output_padding=1), [(2, 4, 5)]),
    "conv2d": (lambda x: F.conv2d(x, KERNEL[..., None], padding=1), [(2, 1, 5, 3)]),
    "solve_triangular": (lambda a, b: solve(a + 4 * EYE, b, upper=False), [(2, 3, 3), (2, 3, 2)]),
    "solve_triangular upper": (lambda a, b: solve(a + 4 * EYE, b, upper=True), [(3, 3), (2, 3, 2)]),
    "solve_triangular with ones": (partial(solve, upper=False, unitriangular=True), [(2, 3, 3), (2, 3, 2)]),
    "solve_triangular upper with ones": (lambda a: solve(a, BATCHED, upper=True, unitriangular=True), [(2, 3, 3)]),
    "solve_triangular, plain matrix": (lambda b: solve(EYE + PLAIN[:, :3].tril(), b, upper=False), [(3, 2)]),
    "complex rotary": (lambda x: torch.view_as_real(torch.view_as_complex(x.view(3, 2, 2)) * TURNS), [(3, 4)]),
    "einsum": (lambda x, y: torch.einsum("bij,bkj->bik", x, y), [(2, 3, 4), (2, 5, 4)]),
    # normalisations
    "layer_norm": (lambda x: F.layer_norm(x, (4,), PLAIN[0], PLAIN[1], 1e-3), [(2, 3, 4)]),
    "layer_norm plain": (lambda x: F.layer_norm(x, (3, 4), eps=1e-3), [(2, 3, 4)]),
    "rms_norm": (lambda x: F.rms_norm(x, (4,), PLAIN[0], 1e-3), [(2, 3, 4)]),
    "rms_norm plain": (lambda x: F.rms_norm(x, (4,)), [(2, 3, 4)]),
    "rms_norm by hand": (lambda x: PLAIN * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3)), [(2, 3, 4)]),
    "rms_norm, mean used twice": (lambda x: (m := x.pow(2).mean(-1, keepdim=True)) * x * torch.rsqrt(m), [(3, 4)]),
    "rms of another": (lambda x, y: x * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 0.1), [(3, 4), (3, 4)]),
    "softmax": (lambda x: x.softmax(-1), [(2, 3, 4)]),
    "softmax first": (lambda x: F.softmax(x, dim=0, dtype=torch.float64), [(3, 4)]),
    "softmax masked": (lambda x: x.masked_fill(~MASK, -torch.inf).softmax(-1), [(4, 3)]),
    "log_softmax": (lambda x: F.log_softmax(x, -1), [(3, 4)]),
    "logsumexp": (lambda x: x.logsumexp(-1) + x.logsumexp(-1, keepdim=True), [(3, 4)]),
    "cross_entropy mean": (lambda x: F.cross_entropy(x, ROWS, ignore_index=0), [(3, 4)]),
    "cross_entropy sum": (lambda x: F.cross_entropy(x, ROWS, reduction="sum"), [(3, 4)]),
    "cross_entropy": (lambda x: F.cross_entropy(x, ROWS, reduction="none"), [(3, 4)]),
    # attention
    "attention": (attention, QKV),
    "attention causal": (partial(attention, is_causal=True, scale=0.3), [QKV[0], QKV[0], QKV[0]]),
    "attention mask": (partial(attention, attn_mask=MASK), QKV),
    "attention, a row sees nothing": (partial(attention, attn_mask=MASK & (torch.arange(4) > 0)[:, None]), QKV),
    "attention bias": (partial(attention, attn_mask=PLAIN.T), QKV),
    "attention grouped": (partial(attention, enable_gqa=True), GROUPED),
    "attention of three dimensions": (attention, [shape[1:] for shape in QKV]),
    "attention, plain queries": (lambda k, v: attention(BATCHED[:, None], k, v), [(2, 1, 5, 4), (2, 1, 5, 4)]),
}


def spelt_out(x: Tensor, dims: tuple[int, ...], weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + 1e-3) * weight + bias


# The fourth derivative that the oracle takes of F.layer_norm is wrong in PyTorch 2.13.
SPELT_OUT = {
    "layer_norm": lambda x: spelt_out(x, (-1,), PLAIN[0], PLAIN[1]),
    "layer_norm plain": lambda x: spelt_out(x, (-2, -1), torch.ones(()), torch.zeros(())),
}
randn_weight, BATCHED = randn(3, 4), randn(2, 3, 4)


def curve(arguments: list) -> tuple[list[Tensor], list[Tensor], Frame]:
    """Values and random coefficients of every argument."""
    values = [a if isinstance(a, Tensor) else randn(*a) for a in arguments]
    return values, [randn(PROBES + GROUPS, *v.shape) for v in values], Frame(PROBES, GROUPS)


def derivatives(function: Callable[..., Tensor], values: list[Tensor], ways: list[Tensor]) -> tuple[Tensor, Tensor]:
    """First and second derivative of t -> function(values + t ways) at 0."""
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        first = by_reverse_mode(function(*(v + t * w for v, w in zip(values, ways, strict=True))), t)
        return first, by_reverse_mode(first, t)


def by_reverse_mode(y: Tensor, t: Tensor) -> Tensor:
    """dy/dt: the derivative with respect to w of d(w·y)/dt, which is linear in w."""
    if not y.requires_grad:  # a constant
        return torch.zeros_like(y)
    w = torch.zeros_like(y, requires_grad=True)
    (slope,) = torch.autograd.grad(y, t, w, create_graph=True, materialize_grads=True)
    if not slope.requires_grad:
        return torch.zeros_like(y)
    return torch.autograd.grad(slope, w, create_graph=True, materialize_grads=True)[0]


@pytest.mark.parametrize("name", CASES)
def test_rule(name):
    function, arguments = CASES[name]
    values, coefficients, frame = curve(arguments)
    taylors = [Taylor(v, c, frame) for v, c in zip(values, coefficients, strict=True)]
    with torch.no_grad():
        result = function(*taylors)
    assert isinstance(result, Taylor)
    torch.testing.assert_close(result.value, function(*values))
    c = result.coefficients
    assert c.shape == (PROBES + GROUPS, *result.shape)
    function, expected = SPELT_OUT.get(name, function), []
    for g in range(GROUPS):
        expected.append(derivatives(function, values, [x[PROBES + g] for x in coefficients])[0])
    for k in range(PROBES):
        first, second = derivatives(function, values, [x[k] for x in coefficients])
        torch.testing.assert_close(c[k], first, rtol=1e-10, atol=1e-10)
        expected[k // (PROBES // GROUPS)] = expected[k // (PROBES // GROUPS)] + second
    torch.testing.assert_close(c[PROBES:], torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_in_place_is_the_same_tensor():
    values, coefficients, frame = curve([(3, 4), (3, 4)])
    x, y = (Taylor(v, c, frame) for v, c in zip(values, coefficients, strict=True))
    fresh = kept = x * y
    fresh += y
    assert fresh is kept
    assert torch.equal(fresh.coefficients, (x * y + y).coefficients)


def test_in_place_keeps_the_type_of_what_is_written_to():
    values, coefficients, frame = curve([(3, 4)])
    x = Taylor(values[0], coefficients[0], frame)
    y = x.float()
    y.mul_(x)
    assert y.dtype is y.value.dtype is y.coefficients.dtype is torch.float32
    torch.testing.assert_close(y.coefficients, (x.float() * x.float()).coefficients)


def test_in_place_on_one_part_of_a_split():
    """Reverse mode refuses it, so that there is nothing else to compare it with."""
    values, coefficients, frame = curve([(3, 4), (3, 2)])
    x, y = (Taylor(v, c, frame) for v, c in zip(values, coefficients, strict=True))
    z = x * 1
    first, second = z.chunk(2, -1)
    second.mul_(y)
    expected = torch.cat([x[:, :2], x[:, 2:] * y], -1)
    for found in (z, torch.cat([first, second], -1)):
        assert torch.equal(found.value, expected.value)
        assert torch.equal(found.coefficients, expected.coefficients)


def test_writing_in_place_leaves_plain_tensors_alone():
    values, coefficients, frame = curve([(3, 4), (3, 4)])
    before = [t.clone() for t in (*values, *coefficients)]
    x, y = (Taylor(v, c, frame) for v, c in zip(values, coefficients, strict=True))
    x[1].add_(y[0])
    x.copy_(y)[0] = 1.0
    assert torch.equal(x.value[1:], values[1][1:])
    assert all(torch.equal(now, then) for now, then in zip((*values, *coefficients), before, strict=True))


def test_a_long_scan_does_not_nest_without_end():
    """As deep as the text is long, it would exceed Python's recursion limit."""
    values, coefficients, frame = curve([(3, 4)])
    x = state = Taylor(values[0], coefficients[0], frame)
    states = []
    for _ in range(1500):
        state = state * 0.5 + x
        states.append(state)
    last = torch.stack(states)[-1]
    torch.testing.assert_close(last.coefficients, 2 * coefficients[0])


@pytest.mark.parametrize("at_once", [1, 2**21])
@pytest.mark.parametrize("way", ["all", "tensors"])
def test_a_scan_is_run_many_steps_at_once(monkeypatch, way, at_once):
    """Not step by step; however many steps, this changes rounding only."""
    runs, run = [], scan._run
    monkeypatch.setattr(scan, "STEPS", at_once)
    values, coefficients, frame = curve([*SCAN, (2, 3, 2)])
    x = [Taylor(v, c, frame) for v, c in zip(values, coefficients, strict=True)]
    with monkeypatch.context() as patch:
        patch.setattr(scan, "_readings", lambda tensors: None)
        expected = selective(*x, way=way).coefficients
    monkeypatch.setattr(scan, "_run", lambda readings: runs.append(len(readings)) or run(readings))
    monkeypatch.setattr(elementwise, "_next", lambda *_: pytest.fail("a single step"))
    torch.testing.assert_close(selective(*x, way=way).coefficients, expected, rtol=1e-12, atol=1e-12)
    assert runs == [5]


def test_a_scan_whose_last_state_is_asked_for_does_not_nest_without_end():
    values, coefficients, frame = curve([(2, 1500), (2, 1500)])
    a, u = (Taylor(v, c, frame) for v, c in zip(values, coefficients, strict=True))
    a, last = a.sigmoid(), []
    for asked in (False, True):
        state = u[:, 0]
        for t in range(1, 1500):
            state = a[:, t] * state + u[:, t]
            if asked:
                _ = state.coefficients
        last.append(state.coefficients)
    assert torch.equal(*last)


def test_the_steps_of_a_scan_lie_together():
    """Only the layout changes."""
    values, coefficients, frame = curve([(2, 3, 8, 2)])
    x = Taylor(values[0], coefficients[0], frame)
    steps = [x[:, :, t].exp() for t in range(8)]
    assert x.coefficients.stride(3) == x.coefficients[0].numel() // 8
    assert torch.equal(x.coefficients, coefficients[0])
    torch.testing.assert_close(torch.stack(steps, 2).coefficients, x.exp().coefficients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_grouped_product(dtype):
    """PyTorch has none in float64: like the products with each matrix, one of the groups being empty."""
    values, coefficients, frame = curve([(7, 8)])
    x = Taylor(values[0].to(dtype), coefficients[0].to(dtype), frame)
    weight = torch.randn(3, 16, 8, generator=_random).to(dtype).mT
    result = F.grouped_mm(x, weight, offs=torch.tensor([3, 3, 7], dtype=torch.int32))
    expected = torch.cat([x[:3] @ weight[0], x[3:] @ weight[2]])
    torch.testing.assert_close(result.value, expected.value)
    torch.testing.assert_close(result.coefficients, expected.coefficients)
    ends, moving = torch.tensor([3, 3, 7], dtype=torch.int32), torch.zeros(PROBES + GROUPS, *weight.shape)
    with pytest.raises(UnsupportedOperation, match="grouped_mm"):  # weights that move
        F.grouped_mm(torch.zeros(7, 8, dtype=dtype), Taylor(weight, moving, frame), offs=ends)
    with pytest.raises(UnsupportedOperation, match="grouped_mm"):  # one matrix, whose columns are grouped
        F.grouped_mm(x, torch.zeros(8, 16, dtype=dtype), offs=ends)


# Questions that a value alone answers, or whose derivative is zero almost everywhere.
PLAIN_ANSWERS = {
    "comparisons": lambda x: (x == 0) | (x != 1) | (x < 0) | (x <= 0) | (x > 0) | (x >= 0),
    "finite": lambda x: x.isnan() | x.isinf() | aten.isfinite(x) | x.logical_not(),
    "sign": lambda x: x.sign() + x.argmax(-1, keepdim=True) + x.argmin(-1, keepdim=True),
    "indices": lambda x: x.topk(2).indices + torch.zeros_like(x, dtype=torch.long)[:, :2],
    "casts": lambda x: x.bool() | (x.long() > 0),
    "detach": lambda x: x.detach(),
}


@pytest.mark.parametrize("name", PLAIN_ANSWERS)
def test_plain_answers(name):
    values, coefficients, frame = curve([(3, 4)])
    answer = PLAIN_ANSWERS[name](Taylor(values[0], coefficients[0], frame))
    assert type(answer) is Tensor
    assert torch.equal(answer, PLAIN_ANSWERS[name](values[0]))


# Constants into which something that depends on the probes may be written.
CONSTANTS = {
    "new": lambda x: x.new_zeros(3, 4) + x.new_ones(3, 4) + x.new_full((3, 4), 2) + x.new_empty(3, 4).zero_(),
    "like": lambda x: torch.zeros_like(x) + torch.ones_like(x) + torch.full_like(x, 2) + torch.empty_like(x).zero_(),
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants(name):
    values, coefficients, frame = curve([(3, 4)])
    constant = CONSTANTS[name](Taylor(values[0], coefficients[0], frame))
    assert torch.equal(constant.value, CONSTANTS[name](values[0]))
    assert not constant.coefficients.any()


def test_shape_and_type():
    values, coefficients, frame = curve([(3, 4)])
    x = Taylor(values[0], coefficients[0], frame)
    assert (x.shape, x.dtype, x.device, len(x)) == ((3, 4), torch.float64, values[0].device, 3)
    assert "4 probes" in repr(x)


def test_casts():
    """Coefficients follow the value's type, or keep the one chosen for them; weights are cast once."""
    values, coefficients, _ = curve([(3, 4)])
    x = Taylor(values[0], coefficients[0], Frame(PROBES, GROUPS))
    assert x.float().coefficients.dtype is torch.float32
    assert (x.float() * x).coefficients.dtype is torch.float64
    frame = Frame(PROBES, GROUPS, torch.bfloat16)
    x = Taylor(values[0].float(), coefficients[0].bfloat16(), frame)
    weight = randn_weight.float()
    for y in (
        x.double(),
        F.linear(x, weight),
        F.silu(x) * x,
        x * PLAIN[0],
        x.softmax(-1),
        attention(x[None], x[None], x[None]),
        x.topk(2).values,
        F.conv1d(x[None], KERNEL[:3].float(), groups=3),
        torch.zeros_like(x).index_add_(0, ROWS, F.silu(x)),
        torch.linalg.solve_triangular(x[:, :3], x, upper=False, unitriangular=True),
    ):
        assert y.coefficients.dtype is torch.bfloat16
        assert y.value.dtype in (torch.float32, torch.float64)
    assert frame.weight(weight, torch.bfloat16) is frame.weight(weight, torch.bfloat16)


def test_every_rule_is_tested(monkeypatch):
    """A rule that no case above reaches would be untested."""
    reached = set()

    class Watched(dict):
        def get(self, key, default=None):
            reached.add(key)
            return super().get(key, default)

    monkeypatch.setattr(taylor_tensor, "RULES", Watched(taylor_tensor.RULES))
    monkeypatch.setattr(taylor_tensor, "FUNCTIONS", Watched(taylor_tensor.FUNCTIONS))
    answers = {name: (function, [(3, 4)]) for name, function in (PLAIN_ANSWERS | CONSTANTS).items()}
    for function, arguments in (CASES | answers).values():
        values, coefficients, frame = curve(arguments)
        function(*(Taylor(v, c, frame) for v, c in zip(values, coefficients, strict=True)))
    test_casts()
    test_grouped_product(torch.float32)
    refused = {Tensor.data.__get__}  # tested below
    assert {*taylor_tensor.RULES, *taylor_tensor.FUNCTIONS} - reached - refused == set()


@pytest.mark.parametrize(
    "function",
    [
        torch.special.i0,
        lambda x: [x.detach(), x.add_(1)],  # a plain tensor would have to change too
        lambda x: x[:1].add_(x),
        lambda x: x.mT.reshape(-1)[0].add_(1) + x.mT.flatten().view(3, 4).add_(1) + x.uniform_(),
        lambda x: solve(x[:, :3], x.mT[:3], upper=False, left=False),
        lambda x: F.conv1d(PLAIN, x[:, None], groups=3),
        lambda x: torch.zeros(3, 4, dtype=torch.float64).copy_(x),
        lambda x: torch.zeros(3, 4, dtype=torch.float64).__setitem__(0, x[0]),
        lambda x: float(x.sum()),
        lambda x: x.data,
        lambda x: 2**x,
        lambda x: x**x,
        lambda x: x // 1,
        lambda x: x.kthvalue(2),
        lambda x: F.linear(PLAIN, x),
        lambda x: attention(BATCHED, BATCHED, BATCHED, attn_mask=x[:, :3]),
        lambda x: torch.mul(x, 2, out=torch.empty(3, 4, dtype=torch.float64)),
    ],
    ids=[
        "i0",
        "in-place after detach",
        "in-place of another shape",
        "random",
        "solve from the right",
        "kernel",
        "copy_",
        "setitem",
        "float",
        "data",
        "exponent",
        "power",
        "floor",
        "kthvalue",
        "weight",
    ]
    + ["attention mask", "out"],
)
def test_without_a_rule_it_raises(function):
    values, coefficients, frame = curve([(3, 4)])
    with pytest.raises(UnsupportedOperation, match=r"no Taylor rule for .*method='hvp'"):
        function(Taylor(values[0], coefficients[0], frame))


def test_attention_in_blocks_of_rows(monkeypatch):
    """Blocks change rounding only; with a causal mask later blocks see more keys."""
    from symnoise.curvature.taylor.rules import attention as rules

    values, coefficients, frame = curve([(2, 2, 40, 4)] * 3)
    mask = torch.ones(40, 40, dtype=torch.bool).tril()
    taylors = [Taylor(v, c, frame) for v, c in zip(values, coefficients, strict=True)]
    whole = attention(*taylors).coefficients
    causal = attention(*taylors, is_causal=True).coefficients
    monkeypatch.setattr(rules, "_BLOCK", 1)  # 16 rows, the least
    torch.testing.assert_close(attention(*taylors).coefficients, whole)
    torch.testing.assert_close(attention(*taylors, is_causal=True).coefficients, causal)
    torch.testing.assert_close(attention(*taylors, attn_mask=mask).coefficients, causal)
