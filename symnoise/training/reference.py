"""Which forwards belong to the trained policy when a reference model shares its weights (PEFT)."""

from typing import Any

import torch
from torch import nn


class Policy:
    """The adapters of a model when noise was attached; without adapters every forward belongs to the policy.

    Preference training of an adapter (DPO, KTO, GRPO in TRL) uses the same model as reference: with adapters disabled
    by `disable_adapter()`, or with another one, called "ref", active in a forward without gradients.
    """

    def __init__(self, model: nn.Module) -> None:
        # PEFT's layers carry the flag and the names; prompt tuning has no layers, and keeps the flag on the model.
        self._places = [model] if hasattr(model, "_adapters_disabled") else []
        self._places += [part for part in model.modules() if hasattr(part, "_disable_adapters")][:1]
        self._trained = self._active()

    def passes(self) -> bool:
        """Whether a forward now belongs to the policy: its adapters are on, and active unless gradients are taken."""
        disabled, names = self._active()
        if disabled and not self._trained[0]:
            return False
        return names == self._trained[1] or torch.is_grad_enabled()

    def _active(self) -> tuple[bool, list[Any]]:
        flags = ("_adapters_disabled", "_disable_adapters")
        disabled = any(getattr(place, flag, False) is True for place in self._places for flag in flags)
        return disabled, [getattr(place, "active_adapters", None) for place in self._places]
