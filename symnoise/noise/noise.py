"""`Noise`: a law at NEFTune's scale, calibrated or not, one draw or a pair."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from symnoise.core import InputError, Mask, lengths, unknown
from symnoise.noise import laws
from symnoise.noise.moments import Moments, closed_form_moments

Setting = tuple[str, bool, bool, bool]  # (law, calibrated, paired, mirrored)
# Names that do not follow from the law's.
_OWN: dict[str, Setting | None] = {
    "none": None,
    "gaussian-raw": ("gaussian", False, False, True),
    "symnoise": ("rademacher", True, True, True),
    "independent-pair": ("rademacher", True, True, False),
}


def noise_names() -> dict[str, Setting | None]:
    """Command-line and config names of noises: each law's own (one calibrated draw), LAW-pair, and special ones."""
    single = {law: (law, True, False, True) for law in laws.LAWS}
    pairs = {f"{law}-pair": (law, True, True, True) for law in laws.LAWS}
    named = {name: setting for name, setting in pairs.items() if setting not in _OWN.values()}
    return {"none": None, **single, **_OWN, **named}


def single_draws() -> list[str]:
    """Names of the noises that are one draw: each law calibrated, then raw ones."""
    return [name for name, setting in noise_names().items() if setting and not setting[2]]


def scale_of(
    amount: float, lengths: Int[Tensor, "*shape"], dim: int, dtype: torch.dtype = torch.float64
) -> Float[Tensor, "*shape"]:
    """NEFTune's scale amount/√(L·d), 0 where L is 0, computed in `dtype`: measuring and training use this one.

    Without a check of the lengths, which would make an accelerator wait; `Noise.scale` checks.
    """
    return (amount / (lengths.to(dtype) * dim).sqrt()).masked_fill(lengths == 0, 0.0)


@dataclass(frozen=True)
class Noise:
    """Embedding noise ε = s·u with u from a law of variance v and s = c·α/√(L·d).

    L is the true (unpadded) length of the row, d the embedding width (Jain et al. 2023, arXiv 2310.05914, §2).
    Calibration sets c = √(1/(3v)), so that E‖ε‖² = α²/3 for every law: 1 for uniform, 1/√3 for Gaussian and
    Rademacher (Yadav 2026, arXiv 2605.23171); uncalibrated, c = 1.

    law:        a name in `LAWS`: "uniform", "gaussian", "rademacher".
    alpha:      α ≥ 0, finite.
    calibrated: whether every law gets the mean square norm of NEFTune's uniform noise.
    paired:     whether two sides are trained on; `sample_pair` draws them.
    mirrored:   whether the second side of a pair is −ε (SymNoise) or a second independent draw (its control).

    Raises `InputError` for an unknown law, and for α below 0 or not finite.
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
        """One draw of uniform noise (Jain et al. 2023)."""
        return cls("uniform", alpha)

    @classmethod
    def symnoise(cls, alpha: float) -> "Noise":
        """A mirrored pair of calibrated Rademacher noise (Singh & Yadav 2023, arXiv 2312.01523)."""
        return cls("rademacher", alpha, calibrated=True, paired=True)

    @classmethod
    def named(cls, name: str, alpha: float) -> "Noise | None":
        """The noise that the command line and configs call `name`; None for "none". `InputError` if there is none."""
        known = noise_names()
        if name not in known:
            raise unknown("noise", name, known)
        setting = known[name]
        return cls(setting[0], alpha, *setting[1:]) if setting else None

    @property
    def name(self) -> str:
        """The command-line name, or a description where this combination has none."""
        mirrored = self.mirrored or not self.paired  # mirroring says nothing of a single draw
        setting = (self.law, self.calibrated or self.law == "uniform", self.paired, mirrored)
        for name, known in noise_names().items():
            if known == setting:
                return name
        return "-".join(
            [
                self.law,
                *["raw"] * (not setting[1]),
                *["pair"] * self.paired,
                *["independent"] * (not mirrored),
            ]
        )

    @property
    def calibration(self) -> float:
        """c: √(1/(3v)) where calibrated, else 1."""
        return math.sqrt(1 / (3 * laws.law(self.law).variance)) if self.calibrated else 1.0

    def scale(self, lengths: Int[Tensor, " batch"] | int, dim: int) -> Float[Tensor, " batch"]:
        """s = c·α/√(L·d) of each row, (batch,), float64; the standard deviation of a coordinate is σ = s·√v.

        lengths: true lengths L, (batch,) or one number.
        dim:     the embedding width d.

        Raises `InputError` for a row without a real token and for a width below 1.
        """
        length = torch.as_tensor(lengths).reshape(-1)
        if bool((length < 1).any()) or dim < 1:
            raise InputError("every row needs at least one real token, and the width must be at least 1")
        return scale_of(self.calibration * self.alpha, length, dim)

    def sigma(self, lengths: Int[Tensor, " batch"] | int, dim: int) -> Float[Tensor, " batch"]:
        """σ = s·√v of each row, (batch,), float64, in embedding units: the standard deviation of one coordinate of ε.

        Arguments and errors as in `scale`.
        """
        return self.scale(lengths, dim) * math.sqrt(laws.law(self.law).variance)

    def sample(
        self,
        embeddings: Float[Tensor, "batch token dim"],
        mask: Mask,
        *,
        generator: torch.Generator,
    ) -> Float[Tensor, "batch token dim"]:
        """One draw ε, (batch, token, dim), exactly 0 at padding.

        Drawn and scaled in float32 (float64 for float64 embeddings) and only then cast to the embeddings' dtype,
        so that half precision rounds the finished noise once. Only shape, dtype and device of `embeddings` matter.
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
        """The two sides: (ε, −ε) where mirrored, else two independent draws."""
        first = self.sample(embeddings, mask, generator=generator)
        return first, -first if self.mirrored else self.sample(embeddings, mask, generator=generator)

    def moments(self, length: int, dim: int) -> Moments:
        """Closed-form moments of one draw over n = length·dim coordinates; see `Moments`."""
        law = laws.law(self.law)
        return closed_form_moments(law, float(self.scale(length, dim)), length * dim)
