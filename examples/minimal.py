"""The method in one file, with PyTorch alone: tr H in two ways, and training on mirrored pairs of noise.

    python examples/minimal.py

equation                                         here                       shape, B examples of L tokens of width d
X, embeddings of an example                      X                          (B, L, d)
ℓ(X), mean cross-entropy of its next tokens      Toy.loss                   (B,)
H = ∇²ℓ(X)                                       dense_hessian              (L·d, L·d), of one example
v_k, random signs: E[vvᵀ] = I, E[vᵀHv] = tr H    V                          (K, B, L, d)
v_kᵀHv_k = v_kᵀ∇(∇ℓ·v_k)                         hessian_products           (K, B)
x(t) = x0 + t x1_k + ½ t² x2_k along probe k     Jet(x0, x1, Σ_k x2_k)      (…), (K, …), (…)
Σ_k v_kᵀHv_k, which is x2 of the loss            taylor                     (B,)
ε = σz, z random signs, σ = α/√(3 L d)           mirrored_pair              (B, L, d)
½[ℓ(X+ε) + ℓ(X−ε)] = ℓ + ½ εᵀHε + O(‖ε‖⁴)        pair_loss                  (B,)

Taylor mode takes one forward pass for all probes and builds no graph. It is called collapsed because x2 is carried
as its sum over probes (Dangel et al. 2025, arXiv 2505.13644). The library has the same for any Transformers model.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --- a causal transformer ---------------------------------------------------------------------------------------


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * gain


class Block(nn.Module):
    """Attention and a gated MLP, each after a norm and added to its input."""

    def __init__(self, d: int, heads: int, draw: Callable[..., nn.Parameter]) -> None:
        super().__init__()
        self.heads = heads
        self.gain_1, self.gain_2 = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))
        self.query, self.key, self.value, self.out = (draw(d, d) for _ in range(4))
        self.gate, self.up, self.down = draw(2 * d, d), draw(2 * d, d), draw(d, 2 * d)

    def split(self, x: Tensor) -> Tensor:
        """(…, token, d) → (…, head, token, d/heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)

    def join(self, x: Tensor) -> Tensor:
        return x.transpose(-3, -2).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        h = rms_norm(x, self.gain_1)
        q, k, v = (self.split(F.linear(h, W)) for W in (self.query, self.key, self.value))
        p = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]) + causal(x), -1)
        x = x + F.linear(self.join(p @ v), self.out)
        h = rms_norm(x, self.gain_2)
        return x + F.linear(F.silu(F.linear(h, self.gate)) * F.linear(h, self.up), self.down)


def causal(x: Tensor) -> Tensor:
    """(token, token): −∞ at later tokens, else 0."""
    L = x.shape[-2]
    return torch.full((L, L), -math.inf).triu(1).to(x)


class Toy(nn.Module):
    """Embeddings, positions, blocks, norm and head; tied: the head is the embedding table."""

    def __init__(self, vocabulary: int = 11, length: int = 10, d: int = 16, *, tied: bool = True, seed: int = 0):
        super().__init__()
        random = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=random) / math.sqrt(shape[-1]))

        self.table, self.positions = draw(vocabulary, d), draw(length, d)
        self.blocks = nn.ModuleList(Block(d, 2, draw) for _ in range(2))
        self.gain = nn.Parameter(torch.ones(d))
        self.head = self.table if tied else draw(vocabulary, d)

    def logits(self, X: Tensor) -> Tensor:
        x = X + self.positions
        for block in self.blocks:
            x = block(x)
        return F.linear(rms_norm(x, self.gain), self.head)

    def loss(self, X: Tensor, ids: Tensor) -> Tensor:
        """ℓ(X) of each example: mean over its tokens but the first of −log p(token | tokens before it)."""
        logits = self.logits(X)[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1).mean(1)


# --- tr H by Hessian products (reverse over reverse), and the whole Hessian to check them ------------------------


def signs(shape: tuple[int, ...], random: torch.Generator, dtype: torch.dtype) -> Tensor:
    return torch.randint(0, 2, shape, generator=random).to(dtype) * 2 - 1


def hessian_products(model: Toy, X: Tensor, ids: Tensor, V: Tensor) -> Tensor:
    """v_kᵀHv_k, (K, B); one graph for all probes."""
    X = X.detach().requires_grad_()
    # Examples do not influence each other, so the gradient of the sum holds each example's own.
    (gradient,) = torch.autograd.grad(model.loss(X, ids).sum(), X, create_graph=True)
    products = [torch.autograd.grad(gradient, X, v, retain_graph=True)[0] for v in V]
    return torch.stack([(v * Hv).flatten(1).sum(1) for v, Hv in zip(V, products, strict=True)])


def dense_hessian(model: Toy, X: Tensor, ids: Tensor) -> Tensor:
    """H of one example, X (1, L, d), entry by entry."""
    H = torch.autograd.functional.hessian(lambda x: model.loss(x, ids).sum(), X.detach())
    return H.reshape(X.numel(), X.numel())


# --- tr H by collapsed Taylor mode: a rule for every operation of the model ---------------------------------------


class Jet(NamedTuple):
    """Value, first-order coefficient of each probe, and second-order coefficients summed over probes."""

    x0: Tensor
    x1: Tensor
    x2: Tensor


def linear(x: Jet, f: Callable[[Tensor], Tensor]) -> Jet:
    """A linear map acts on all coefficients alike: weights, sums, means, reshapes, a constant factor."""
    return Jet(f(x.x0), f(x.x1), f(x.x2))


def add(x: Jet, y: Jet) -> Jet:
    return Jet(x.x0 + y.x0, x.x1 + y.x1, x.x2 + y.x2)


def shift(x: Jet, constant: Tensor) -> Jet:
    return x._replace(x0=x.x0 + constant)


def product(x: Jet, y: Jet, times: Callable[[Tensor, Tensor], Tensor]) -> Jet:
    """Leibniz: (xy)″ = x″y + 2x′y′ + xy″, for torch.mul and torch.matmul."""
    first = times(x.x1, y.x0) + times(x.x0, y.x1)
    second = times(x.x2, y.x0) + 2 * times(x.x1, y.x1).sum(0) + times(x.x0, y.x2)
    return Jet(times(x.x0, y.x0), first, second)


def entrywise(x: Jet, y: Tensor, first: Tensor, second: Tensor) -> Jet:
    """y = f(x): y″ = f′(x) x″ + f″(x) x′²."""
    return Jet(y, first * x.x1, first * x.x2 + second * x.x1.square().sum(0))


def jet_silu(x: Jet) -> Jet:
    s = torch.sigmoid(x.x0)
    return entrywise(x, x.x0 * s, s * (1 + x.x0 * (1 - s)), s * (1 - s) * (2 + x.x0 * (1 - 2 * s)))


def jet_rms_norm(x: Jet, gain: Tensor) -> Jet:
    square = shift(linear(product(x, x, torch.mul), lambda c: c.mean(-1, keepdim=True)), torch.tensor(1e-6))
    r = square.x0.rsqrt()
    inverse_root = entrywise(square, r, -(r**3) / 2, 3 * r**5 / 4)
    return linear(product(x, inverse_root, torch.mul), lambda c: c * gain)


def jet_log_sum_exp(x: Jet) -> Jet:
    """Its gradient is p = softmax(x), its Hessian diag(p) − ppᵀ: y″ = E_p[x″] + Var_p[x′]."""
    p = torch.softmax(x.x0, -1)
    mean = (p * x.x1).sum(-1, keepdim=True)
    variance = (p * (x.x1 - mean).square()).sum(-1, keepdim=True)
    return Jet(x.x0.logsumexp(-1, keepdim=True), mean, (p * x.x2).sum(-1, keepdim=True) + variance.sum(0))


def jet_softmax(x: Jet) -> Jet:
    """exp(x − log Σ exp x)."""
    log_p = add(x, linear(jet_log_sum_exp(x), torch.neg))
    p = log_p.x0.exp()
    return entrywise(log_p, p, p, p)


def jet_block(block: Block, x: Jet) -> Jet:
    """`Block.forward`, line by line."""
    h = jet_rms_norm(x, block.gain_1)
    q, k, v = (linear(h, lambda c, W=W: block.split(c @ W.T)) for W in (block.query, block.key, block.value))
    scores = product(q, linear(k, lambda c: c.mT / math.sqrt(q.x0.shape[-1])), torch.matmul)
    p = jet_softmax(shift(scores, causal(x.x0)))
    x = add(x, linear(product(p, v, torch.matmul), lambda c: block.join(c) @ block.out.T))
    h = jet_rms_norm(x, block.gain_2)
    gated = product(jet_silu(linear(h, lambda c: c @ block.gate.T)), linear(h, lambda c: c @ block.up.T), torch.mul)
    return add(x, linear(gated, lambda c: c @ block.down.T))


@torch.no_grad()
def taylor(model: Toy, X: Tensor, ids: Tensor, V: Tensor) -> Jet:
    """The loss along all probes: ℓ (B,), ∇ℓ·v_k (K, B) and Σ_k v_kᵀHv_k (B,)."""
    x = shift(Jet(X, V, torch.zeros_like(X)), model.positions)
    for block in model.blocks:
        x = jet_block(block, x)
    logits = linear(jet_rms_norm(x, model.gain), lambda c: (c @ model.head.T)[..., :-1, :])
    chosen = linear(logits, lambda c: c.gather(-1, ids[:, 1:, None].expand(*c.shape[:-1], 1)))
    token_losses = add(jet_log_sum_exp(logits), linear(chosen, torch.neg))
    return linear(token_losses, lambda c: c.mean((-2, -1)))


# --- training on mirrored pairs -----------------------------------------------------------------------------------


def mirrored_pair(X: Tensor, alpha: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """ε and −ε, random signs of NEFTune's mean square norm: ‖ε‖² = α²/3 for each example."""
    epsilon = alpha / math.sqrt(3 * X[0].numel()) * signs(tuple(X.shape), random, X.dtype)
    return epsilon, -epsilon


def pair_loss(model: Toy, ids: Tensor, alpha: float, random: torch.Generator) -> Tensor:
    X = model.table[ids]
    plus, minus = mirrored_pair(X, alpha, random)
    return (model.loss(X + plus, ids) + model.loss(X + minus, ids)) / 2


def train(model: Toy, ids: Tensor, *, alpha: float, steps: int, seed: int) -> tuple[float, float]:
    """The clean loss (without noise) before and after."""
    random, optimizer = torch.Generator().manual_seed(seed), torch.optim.AdamW(model.parameters(), lr=3e-3)
    before = model.loss(model.table[ids], ids).mean().item()
    for _ in range(steps):
        optimizer.zero_grad()
        pair_loss(model, ids, alpha, random).mean().backward()
        optimizer.step()
    return before, model.loss(model.table[ids], ids).mean().item()


def counting(vocabulary: int, length: int, examples: int) -> Tensor:
    """Token ids (examples, length): example b counts in steps of b + 1, modulo the vocabulary."""
    return (torch.arange(length) * (torch.arange(examples)[:, None] + 1)) % vocabulary


def main(probes: int = 256, steps: int = 40) -> tuple[float, float]:
    model, ids = Toy().double(), counting(vocabulary=11, length=10, examples=4)
    X = model.table[ids].detach()
    V = signs((probes, *X.shape), torch.Generator().manual_seed(1), X.dtype)
    forms, by_taylor = hessian_products(model, X, ids, V), taylor(model, X, ids, V).x2 / probes
    print("tr H      dense   Hessian products      Taylor mode, same probes")
    for b in range(len(ids)):
        exact = dense_hessian(model, X[b : b + 1], ids[b : b + 1]).trace()
        error = forms[:, b].std() / math.sqrt(probes)
        print(f"row {b}  {exact:9.4f}  {forms[:, b].mean():9.4f} ± {error:.4f}  {by_taylor[b]:15.4f}")
    before, after = train(model, ids, alpha=1.0, steps=steps, seed=2)
    print(f"clean loss before and after {steps} steps on pairs: {before:.3f}, {after:.3f} nats per token")
    return before, after


if __name__ == "__main__":
    main()
