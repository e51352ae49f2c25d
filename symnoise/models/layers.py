"""Hidden states as the variable: a model run with X in place of what enters one of its layers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from symnoise.core import InputError
from symnoise.models.inlet import Inlet, replaced


class LayerInlet:
    """Runs a model on its token ids with X in place of the hidden states that enter layer `layer`.

    They are the output of block number `layer`, counted from 1; after the last one they enter the final norm. Blocks
    before run, and what they compute is not used.

    Raises `InputError` for a layer that is not there, and for a model whose blocks are not one list (ALBERT repeats a
    single one); from `states` for blocks that do not hand on one (batch, token, dim) tensor; and from `given` if
    a forward does not run the block.
    """

    def __init__(self, inlet: Inlet, layer: int) -> None:
        self._name, self._layer = type(inlet.model).__name__, layer
        blocks = _blocks(inlet)
        if isinstance(layer, bool) or not isinstance(layer, int) or not 0 < layer <= len(blocks):
            raise InputError(
                f"{self._name} has no layer {layer!r}: give a number from 0 (the embeddings) to {len(blocks)} (what "
                "enters the final norm)"
            )
        self._block = blocks[layer - 1]

    def states(self, run: Callable[[], Any], shape: torch.Size) -> Tensor:
        """What enters the layer in `run()`, without gradient; shape: (batch, token)."""
        found: list[Any] = []
        hook = self._block.register_forward_hook(lambda block, arguments, output: found.append(_first(output)))
        try:
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # compiled code would pass the hook by
                run()
        finally:
            hook.remove()
        if len(found) != 1 or not isinstance(found[0], Tensor) or found[0].shape[:-1] != shape:
            raise InputError(
                f"what enters layer {self._layer} of {self._name} is not one (batch, token, dim) tensor; measure at "
                "layer 0, the embeddings"
            )
        return found[0].detach()

    @contextmanager
    def given(self, X: Tensor) -> Iterator[None]:
        """The layer receives X in a forward within this context."""
        missed = f"{self._name} does not run the block before layer {self._layer}"
        with replaced(self._block, X, missed, first=True):  # recorded hidden states have X at this layer
            yield


def _blocks(inlet: Inlet) -> nn.ModuleList:
    """The blocks that the embeddings go through: the list next to the table that is as long as the config says."""
    modules = dict(inlet.stack.named_modules())
    place = next((name for name, module in modules.items() if module is inlet.table), "")
    depth = getattr(inlet.stack.config.get_text_config(), "num_hidden_layers", None)
    while place:
        place = place.rpartition(".")[0]
        for module in modules[place].modules():
            if isinstance(module, nn.ModuleList) and len(module) == depth:
                return module
    raise InputError(f"the layers of {type(inlet.model).__name__} are not one list of blocks; measure at layer 0")


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output
