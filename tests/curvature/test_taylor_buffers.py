"""Writing Taylor tensors into plain ones that the model has just made, against dense Hessians in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from symnoise.core import generator
from symnoise.curvature.taylor import UnsupportedOperation, taylor_quadratics
from symnoise.curvature.taylor.buffers import Buffers
from symnoise.curvature.taylor.tensor import Frame, Taylor
from symnoise.models import EmbeddingLoss, float64_throughout
from tests.curvature.plain_quadratics import plain_quadratics
from tests.tiny import tiny

ROWS, DOUBLE = torch.tensor([2, 0, 2]), {"dtype": torch.float64}
COLUMNS = torch.tensor([[0, 1, 1, 0], [2, 2, 0, 1], [1, 0, 2, 2]])
X = torch.randn(3, 4, generator=generator(0, "buffers"), **DOUBLE)


def slices(x: Tensor) -> Tensor:
    out = torch.zeros(3, 5, **DOUBLE)
    for i in range(4):
        out[:, i] = x[:, i].exp()
    return out


def again(x: Tensor) -> Tensor:
    """The last write counts."""
    out = torch.empty(3, 4, **DOUBLE)
    out[:] = x.exp()
    out[1:] = x[:2] * out[1:].clone()
    out[0, 0] = 2.0
    out += x
    return out.sin()


def before_and_after(x: Tensor) -> Tensor:
    out = torch.full((3, 4), 2.0, **DOUBLE)
    read, lazily = out + 1, x * out
    out[1] = x[0] * x[1]
    kept = out * x
    out[1] = x[2].sin()
    out.add_(x)
    return read * lazily + kept * out


def before_and_after_at_once(x: Tensor) -> Tensor:
    """The same: reverse mode refuses it, since `out` is still needed as it was."""
    two = torch.full((1, 4), 2.0, **DOUBLE)
    first, last = (torch.cat([two, row[None], two]) for row in (x[0] * x[1], x[2].sin()))
    return 3.0 * (x * 2.0) + first * x * (last + x)


def constants_written_later(x: Tensor) -> Tensor:
    """What was multiplied by a constant keeps the value that it then had."""
    factor = torch.full((3, 4), 2.0, **DOUBLE)
    one = x * factor
    factor.mul_(5)
    two = x.exp() * factor
    torch.add(factor, 1, out=factor)
    three = x.sin() * factor
    torch.nn.functional.relu(factor.neg_(), inplace=True)
    return one * two * three + x * factor


def constants_at_once(x: Tensor) -> Tensor:
    """The same: reverse mode refuses it too."""
    return x * 2.0 * (x.exp() * 10.0) * (x.sin() * 11.0)


def moved(x: Tensor) -> Tensor:
    """Experts' results into their tokens' rows."""
    out = torch.zeros_like(X)
    out.index_add_(0, ROWS, x.tanh())
    other = X.new_zeros(3, 4).scatter_(0, COLUMNS, x.exp())
    third = X.new_empty(3, 4).copy_(x * x)
    third.index_put_((ROWS, ROWS), x[0, :3], accumulate=True)
    return out * other + third * out


def constant_parts(x: Tensor) -> Tensor:
    """Filled by constants before and after."""
    out = torch.ones(3, 4, **DOUBLE)
    out[0] = 3.0
    out.mul_(2)
    out[1] = x[1] ** 3
    out[2] = X[2]
    return out * x + torch.cat([out, out]).view(2, 3, 4)[1] * out.T.mT


def two(x: Tensor) -> Tensor:
    one, other = torch.zeros(3, 4, **DOUBLE), torch.zeros(3, 4, **DOUBLE)
    one[0], other[2] = x[0].exp(), x[2].sin()
    other[0] = one[0].clone() * x[1]
    one += other
    return one * other


def added(x: Tensor) -> Tensor:
    """Sums over layers start from zeros."""
    total = torch.zeros(3, 4, **DOUBLE)
    for _ in range(3):
        total += (total + x).tanh()
    return total


def views_afterwards(x: Tensor) -> Tensor:
    out = torch.zeros(3, 4, **DOUBLE)
    out[:, 0] = x[:, 1]
    out[:, 1].copy_(x[:, 2].exp())
    rows = out[0], out[1:]
    out[0] = x[0] ** 2
    return rows[0] * rows[1]


def chosen(x: Tensor) -> Tensor:
    out = torch.zeros(3, 4, **DOUBLE)
    out[X > 0] = x[X > 0].exp()
    return out * x


WRITERS = (
    slices,
    again,
    before_and_after,
    constants_written_later,
    moved,
    constant_parts,
    two,
    added,
    views_afterwards,
    chosen,
)


def second_order(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient and diagonal of the Hessian of a weighted sum of what `function` returns."""
    n = X.numel()
    frame = Frame(n, n)
    c = torch.cat([torch.eye(n, **DOUBLE), torch.zeros(n, n, **DOUBLE)]).view(2 * n, *X.shape)
    with torch.no_grad(), Buffers(frame):
        y = total(function(Taylor(X, c, frame)))
    return y.value, y.coefficients[:n], y.coefficients[n:]


def total(y: Tensor) -> Tensor:
    return (y * torch.arange(1.0, y.numel() + 1, **DOUBLE).view_as(y).cos()).sum()


@pytest.mark.parametrize("function", WRITERS)
def test_dense_hessian(function):
    value, gradient, diagonal = second_order(function)
    assert torch.equal(value, total(function(X)))
    at_once = {before_and_after: before_and_after_at_once, constants_written_later: constants_at_once}
    oracle = at_once.get(function, function)

    def plain(x: Tensor) -> Tensor:
        return total(oracle(x.view_as(X)))

    torch.testing.assert_close(gradient, torch.autograd.functional.jacobian(plain, X.flatten()))
    H = torch.autograd.functional.hessian(plain, X.flatten())
    assert H.diagonal().count_nonzero() > 3
    torch.testing.assert_close(diagonal, H.diagonal())


OUTSIDE = torch.zeros(3, 4, **DOUBLE)


def view_before(x: Tensor) -> Tensor:
    out = torch.zeros(3, 4, **DOUBLE)
    first = out[0]
    out[0] = x[0]
    return first * 2


def read_by_a_list(x: Tensor) -> Tensor:
    out = torch.zeros(3, 4, **DOUBLE)
    first = out.view(3, 4)
    out[0] = x[0]
    return torch.cat([x, first])


def outside(x: Tensor) -> Tensor:
    OUTSIDE[0] = x[0]
    return OUTSIDE


REFUSED = {
    "made outside": outside,
    "made outside, out=": lambda x: torch.zeros(3, 4, out=OUTSIDE, **DOUBLE).copy_(x),
    "a view of what was made": lambda x: torch.zeros(3, 4, **DOUBLE)[0].copy_(x[0]),
    "from values": lambda x: torch.tensor([1.0, 2.0], **DOUBLE).copy_(x[0, :2]),
    "integers": lambda x: torch.zeros(3, 4, dtype=torch.long).copy_(x),
    "a view made before": view_before,
    "a view made before, in a list": read_by_a_list,
    "out=": lambda x: torch.mul(x, 2, out=torch.empty(3, 4, **DOUBLE)),
    "its data": lambda x: torch.zeros(3, 4, **DOUBLE).copy_(x).data,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused(name):
    with pytest.raises(UnsupportedOperation, match=r"no Taylor rule for [^\n]*method='hvp'"):
        second_order(REFUSED[name])
    assert not OUTSIDE.any()


def test_a_buffer_that_a_pass_left_is_refused_by_the_next_and_holds_its_value():
    kept = []

    def lazily_made(x: Tensor) -> Tensor:
        if not kept:
            kept.append(torch.zeros(3, 4, **DOUBLE))
        kept[0][1] = x[0].exp()
        return kept[0] * x

    second_order(lazily_made)
    assert type(kept[0]) is Tensor
    assert torch.equal(kept[0][1], X[0].exp())
    assert not kept[0][::2].any()
    with pytest.raises(UnsupportedOperation, match="copy_"):
        second_order(lazily_made)


def test_memory_that_is_read_behind_the_calls_is_not_finite():
    """Through NumPy, of which PyTorch sees nothing."""

    def hidden(x: Tensor) -> Tensor:
        out = torch.zeros(3, 4, **DOUBLE)
        behind = out.numpy()
        out[0] = x[0]
        return x * torch.from_numpy(behind)

    assert second_order(hidden)[0].isnan()


class _ByToken(nn.Module):
    """As models with buffers of hidden states."""

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros(x.shape, dtype=x.dtype)
        for t in range(x.shape[1]):
            out[:, t] = torch.nn.functional.silu(x[:, t])
        return out


def test_a_model():
    model = tiny("llama", torch.float64)
    model.model.layers[0].mlp.act_fn = _ByToken()
    ids = torch.tensor([[5, 9, 23, 4], [7, 8, 11, 30]])
    loss = EmbeddingLoss(model, {"input_ids": ids, "labels": ids})
    V = torch.randn(4, *loss.shape, generator=generator(1, "buffers"), **DOUBLE)
    with float64_throughout():
        found, expected = (one(loss, V, groups=2) for one in (taylor_quadratics, plain_quadratics))
    for name in ("loss", "hessian", "gauss_newton"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9)
