"""`Noise`: a law at NEFTune's scale, calibrated or raw, one draw or a pair."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from symnoise.core import InputError, Mask, lengths, unknown
from symnoise.noise import laws
from symnoise.noise.moments import Moments, closed_form_moments

Setting = tuple[str, bool, bool, bool]  # (law, calibrated, paired, mirrored)
# Names that are not derived from the law's.
_OWN: dict[str, Setting | None] = {
    "none": None,
    "gaussian-raw": ("gaussian", False, False, True),
    "symnoise": ("rademacher", True, True, True),
    "independent-pair": ("rademacher", True, True, False),
}


def noise_names() -> dict[str, Setting | None]:
    """Command-line and config names of noises: each law's name (one calibrated draw), LAW-pair, and special ones."""
    single = {law: (law, True, False, True) for law in laws.LAWS}
    pairs = {f"{law}-pair": (law, True, True, True) for law in laws.LAWS}
    named = {name: setting for name, setting in pairs.items() if setting not in _OWN.values()}
    return {"none": None, **single, **_OWN, **named}


def single_draws() -> list[str]:
    """Names of the single-draw noises: each law calibrated, then raw ones."""
    return [name for name, setting in noise_names().items() if setting and not setting[2]]


def scale_of(
    amount: float, lengths: Int[Tensor, "*shape"], dim: int, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "*shape"]:
    """NEFTune's scale amount/√(L·d), 0 for L = 0, computed in `dtype`; used in measuring and in training.

    Lengths are not checked here, since that would make an accelerator wait; `Noise.scale` checks them.
    """
    return (amount / (lengths.to(dtype) * dim).sqrt()).masked_fill(lengths == 0, 0.0)


@dataclass(frozen=True)
class Noise:
    """Embedding noise (NEFTune, SymNoise and others): ε = s·u, u from a law of variance v, s = c·α/√(L·d).

    L is the true (unpadded) length of the row, d the embedding width (Jain et al. 2023, arXiv 2310.05914, §2).
    Calibration sets c = √(1/(3v)), so that E‖ε‖² = α²/3 for every law: 1 for uniform, 1/√3 for Gaussian and
    Rademacher (Yadav 2026, arXiv 2605.23171). Uncalibrated, c = 1.

    Attributes:
        law: A name in `LAWS`: "uniform", "gaussian", "rademacher".
        alpha: α ≥ 0, finite.
        calibrated: Whether the law gets the mean square norm of NEFTune's uniform noise.
        paired: Whether training uses two sides, drawn by `sample_pair`.
        mirrored: Whether the second side of a pair is −ε (SymNoise) or a second independent draw (its control).

    Raises:
        InputError: For an unknown law, or if α is negative or not finite.

    Examples:
        >>> from symnoise import Noise
        >>> noise = Noise.neftune(5.0)
        >>> round(noise.sigma(16, 64).item(), 6)  # 5 / √(3 · 16 · 64)
        0.090211
        >>> Noise.symnoise(5.0)
        Noise(law='rademacher', alpha=5.0, calibrated=True, paired=True, mirrored=True)
    """

    law: str
    alpha: float
    calibrated: bool = True
    paired: bool = False
    mirrored: bool = True

    def __post_init__(self) -> None:
        laws.law(self.law)
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise InputError(f"alpha must be a finite number, 0 or larger; got {self.alpha}")

    @classmethod
    def neftune(cls, alpha: float) -> "Noise":
        """NEFTune: one draw of uniform noise (Jain et al. 2023).

        Args:
            alpha: α.
        """
        return cls("uniform", alpha)

    @classmethod
    def symnoise(cls, alpha: float) -> "Noise":
        """SymNoise: a mirrored pair of calibrated Rademacher noise (Singh & Yadav 2023, arXiv 2312.01523).

        Args:
            alpha: α.
        """
        return cls("rademacher", alpha, calibrated=True, paired=True)

    @classmethod
    def named(cls, name: str, alpha: float) -> "Noise | None":
        """The noise called `name` on the command line and in configs.

        Args:
            name: Such as "uniform" (NEFTune), "gaussian", "symnoise", "uniform-pair" or "none".
            alpha: α.

        Returns:
            The noise; None for "none".

        Raises:
            InputError: For an unknown name.
        """
        known = noise_names()
        if name not in known:
            raise unknown("noise", name, known)
        setting = known[name]
        return cls(setting[0], alpha, *setting[1:]) if setting else None

    @property
    def independent(self) -> bool:
        """Whether the second side is an independent draw and not −ε; mirroring means nothing for a single draw."""
        return self.paired and not self.mirrored

    @property
    def name(self) -> str:
        """The command-line name, or a description if this combination has none."""
        setting = (self.law, self.calibrated or self.law == "uniform", self.paired, not self.independent)
        for name, known in noise_names().items():
            if known == setting:
                return name
        return "-".join(
            [
                self.law,
                *["raw"] * (not setting[1]),
                *["pair"] * self.paired,
                *["independent"] * self.independent,
            ]
        )

    @property
    def calibration(self) -> float:
        """c: √(1/(3v)) if calibrated, else 1."""
        return math.sqrt(1 / (3 * laws.law(self.law).variance)) if self.calibrated else 1.0

    def scale(self, lengths: Int[Tensor, " batch"] | int, dim: int) -> Float[Tensor, " batch"]:
        """Scale s = c·α/√(L·d) of each row.

        Args:
            lengths: True lengths L, (batch,) or one number.
            dim: Embedding width d.

        Returns:
            s, (batch,), float64. The standard deviation of a coordinate is σ = s·√v.

        Raises:
            InputError: For a row without a real token, or a width below 1.
        """
        length = torch.as_tensor(lengths).reshape(-1)
        if bool((length < 1).any()) or dim < 1:
            raise InputError("every row needs at least one real token, and the width must be at least 1")
        return scale_of(self.calibration * self.alpha, length, dim)

    def sigma(self, lengths: Int[Tensor, " batch"] | int, dim: int) -> Float[Tensor, " batch"]:
        """Standard deviation σ = s·√v of one coordinate of ε, for each row.

        Args:
            lengths: True lengths L, (batch,) or one number.
            dim: Embedding width d.

        Returns:
            σ in embedding units, (batch,), float64.

        Raises:
            InputError: As in `scale`.
        """
        return self.scale(lengths, dim) * math.sqrt(laws.law(self.law).variance)

    def sample(
        self,
        embeddings: Float[Tensor, "batch token dim"],
        mask: Mask,
        *,
        generator: torch.Generator,
    ) -> Float[Tensor, "batch token dim"]:
        """Draw ε for a batch, exactly 0 at padding.

        Drawn and scaled in float32 (float64 for float64 embeddings) and only then cast to the embeddings' dtype, so
        that half precision rounds the finished noise once.

        Args:
            embeddings: (batch, token, dim); only shape, dtype and device matter.
            mask: (batch, token), 1 at real tokens.
            generator: Source of all randomness.

        Returns:
            ε, (batch, token, dim).

        Raises:
            InputError: For a row without a real token.
        """
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        draw = laws.law(self.law).sample(embeddings.shape, generator=generator, dtype=dtype, device=embeddings.device)
        scale = self.scale(lengths(mask), embeddings.shape[-1]).to(embeddings.device, dtype)
        per_token = scale[:, None] * (mask != 0)
        return (draw * per_token[:, :, None]).to(embeddings.dtype)

    def sample_pair(
        self,
        embeddings: Float[Tensor, "batch token dim"],
        mask: Mask,
        *,
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, "batch token dim"], Float[Tensor, "batch token dim"]]:
        """Draw the two sides of a pair: (ε, −ε), or two independent draws if the noise is `independent`.

        Args:
            embeddings: (batch, token, dim); only shape, dtype and device matter.
            mask: (batch, token), 1 at real tokens.
            generator: Source of all randomness.

        Returns:
            Two tensors of (batch, token, dim), as from `sample`.

        Raises:
            InputError: For a row without a real token.
        """
        first = self.sample(embeddings, mask, generator=generator)
        return first, self.sample(embeddings, mask, generator=generator) if self.independent else -first

    def moments(self, length: int, dim: int) -> Moments:
        """Closed-form moments of one draw over n = length·dim coordinates.

        Args:
            length: True length L of the row.
            dim: Embedding width d.

        Returns:
            The moments; formulas in `Moments`.
        """
        law = laws.law(self.law)
        return closed_form_moments(law, float(self.scale(length, dim)), length * dim)
