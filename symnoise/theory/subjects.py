"""Two functions with known derivatives: an analytic one, and a tiny transformer with its dense Hessian."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from symnoise.core import generator
from symnoise.curvature import HessianProducts, dense_hessian, even_and_odd
from symnoise.models import EmbeddingLoss, float64_throughout
from symnoise.noise import Law


@dataclass(frozen=True)
class Subject:
    """A function ℓ of n coordinates, its derivatives at a point, and how to evaluate it at many points.

    name: "analytic" or "tiny", of `SUBJECTS`.  where: the same for readers.
    evaluate: (points, n) -> (points,).  fourth: (n,) ∂⁴ℓ/∂x_i⁴.  All float64.
    """

    name: str
    where: str
    evaluate: Callable[[Float[Tensor, "points n"]], Float[Tensor, " points"]]
    x: Float[Tensor, " n"]
    value: float
    gradient: Float[Tensor, " n"]
    hessian: Float[Tensor, "n n"]
    fourth: Float[Tensor, " n"]

    @property
    def facts(self) -> dict[str, Any]:
        """What its ledger rows have in common."""
        return {"subject": self.name, "where": self.where}

    def pair(self, steps: Float[Tensor, "points n"]) -> Float[Tensor, " points"]:
        """½[ℓ(x+ε) + ℓ(x−ε)] − ℓ(x) for each step ε."""
        return even_and_odd(self.evaluate, self.x, steps, self.value)[0]

    def forms(self, z: Float[Tensor, "points n"]) -> Float[Tensor, " points"]:
        """zᵀHz for each z."""
        return ((z @ self.hessian) * z).sum(1)


@dataclass(frozen=True)
class Ridges:
    """ℓ(x) = Σ_m a_m cos(w_m·x + b_m): every derivative, and every smoothed value, in closed form.

    For independent coordinates with characteristic function φ, E cos(w·(x + σz) + b) = cos(w·x + b) Π_i φ(σw_i)
    (φ is real for symmetric laws; `Law.characteristic_less_1`).
    """

    a: Float[Tensor, " ridge"]
    w: Float[Tensor, "ridge n"]
    b: Float[Tensor, " ridge"]
    x: Float[Tensor, " n"]

    @staticmethod
    def drawn(n: int = 6, ridges: int = 5, seed: int = 0) -> "Ridges":
        """Standard normal weights, phases and point, from their own generator."""
        owner = generator(seed, "ridges")
        a, b = (torch.randn(ridges, generator=owner, dtype=torch.float64) for _ in range(2))
        w = torch.randn((ridges, n), generator=owner, dtype=torch.float64)
        return Ridges(a, w, b, torch.randn(n, generator=owner, dtype=torch.float64))

    def __call__(self, points: Float[Tensor, "points n"]) -> Float[Tensor, " points"]:
        return (points @ self.w.T + self.b).cos() @ self.a

    @property
    def _cosines(self) -> Tensor:
        return self.a * (self.w @ self.x + self.b).cos()

    def smoothed(self, law: Law, sigma: float) -> float:
        """E ℓ(x + σz) − ℓ(x), z of the standardised law; exact but for rounding."""
        factors = law.characteristic_less_1(sigma * self.w)
        # log1p and expm1 keep the digits that Π φ − 1 would lose for small σ.
        return float((self._cosines * torch.log1p(factors).sum(1).expm1()).sum())

    @property
    def trace(self) -> float:
        """tr H = −Σ_m a_m ‖w_m‖² cos(·)."""
        return float(-(self._cosines * self.w.square().sum(1)).sum())

    @property
    def fourth(self) -> Float[Tensor, " n"]:
        """ℓ_iiii = Σ_m a_m w_mi⁴ cos(·)."""
        return self._cosines @ self.w**4

    @property
    def mixed_fourth(self) -> float:
        """Σ_{i≠j} ℓ_iijj = Σ_m a_m (‖w_m‖⁴ − Σ_i w_mi⁴) cos(·)."""
        return float((self._cosines * (self.w.square().sum(1) ** 2 - (self.w**4).sum(1))).sum())

    def subject(self) -> Subject:
        """As a `Subject`, with its closed-form derivatives."""
        angles = self.w @ self.x + self.b
        return Subject(
            name="analytic",
            where="analytic function",
            evaluate=self,
            x=self.x,
            value=float(self(self.x[None])[0]),
            gradient=-(self.a * angles.sin()) @ self.w,
            hessian=-(self.w.T * (self.a * angles.cos())) @ self.w,
            fourth=self.fourth,
        )


def tiny_llama(tokens: int = 4, dim: int = 8, seed: int = 0) -> tuple[Any, dict[str, Tensor]]:
    """A random two-layer float64 Llama and a batch of one example, small enough for a dense Hessian.

    Weights are normal with standard deviation 0.5, so that attention and gates are far from linear.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=16,
        hidden_size=dim,
        intermediate_size=2 * dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):  # Transformers draws initial weights from the global generator
        model = LlamaForCausalLM(config).double().eval()
    owner = generator(seed, "tiny llama")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.5, generator=owner)
    ids = torch.randint(0, config.vocab_size, (1, tokens), generator=owner)
    labels = ids.clone()
    labels[:, 0] = -100
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


class ScaleInvariant:
    """ℓ(‖X₀‖·X/‖X‖) for each example: the same loss at X₀, with the premise of N3, ℓ(cX) = ℓ(X), made true.

    loss: an `EmbeddingLoss`; X₀ its embeddings.
    """

    def __init__(self, loss: EmbeddingLoss) -> None:
        self._loss = loss
        self.embeddings, self.mask, self.ids = loss.embeddings, loss.mask, loss.ids

    def __call__(self, X: Float[Tensor, "batch token dim"]) -> Float[Tensor, " batch"]:
        size = self.embeddings.flatten(1).norm(dim=1) / X.flatten(1).norm(dim=1)
        return self._loss(size[:, None, None] * X)


def tiny_transformer(seed: int = 0) -> Subject:
    """`tiny_llama` as a `Subject`: its dense Hessian by Hessian products, fourth derivatives by differences."""
    model, batch = tiny_llama(seed=seed)
    one = EmbeddingLoss(model, batch)
    shape = one.embeddings.shape[1:]

    rows = 1024
    many = EmbeddingLoss(model, {key: value.repeat(rows, 1) for key, value in batch.items()})

    def evaluate(points: Tensor) -> Tensor:
        values = []
        with torch.no_grad(), float64_throughout():
            for chunk in points.split(rows):
                full = torch.cat([chunk, chunk[:1].expand(rows - len(chunk), -1)])
                values.append(many(full.unflatten(1, shape))[: len(chunk)])
        return torch.cat(values)

    x = one.embeddings.flatten()
    with float64_throughout():
        products = HessianProducts(one)
        hessian = dense_hessian(one)[0]
    # Fourth central differences with step h err by h²ℓ⁽⁶⁾/6 and rounding 16·1e-16/h⁴; 0.02 leaves both near 1e-7
    # of derivatives that are of order 1 to 100.
    h, eye = 0.02, torch.eye(len(x), dtype=torch.float64)
    at = [evaluate(x + k * h * eye) for k in (-2, -1, 0, 1, 2)]
    fourth = (at[0] - 4 * at[1] + 6 * at[2] - 4 * at[3] + at[4]) / h**4
    return Subject(
        name="tiny",
        where="tiny transformer (float64)",
        evaluate=evaluate,
        x=x,
        value=float(products.values[0]),
        gradient=products.gradient.flatten(),
        hessian=hessian,
        fourth=fourth,
    )
