"""Where embeddings enter a model: the output of its text embedding, to which training adds noise."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from symnoise.core import InputError, Mask, is_right_padded, positions
from symnoise.models.evaluation import evaluation_mode
from symnoise.models.multiplier import embedding_multiplier

_TRIED: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
_TRIED_PADDING: "weakref.WeakKeyDictionary[nn.Module, set[str]]" = weakref.WeakKeyDictionary()  # model -> where
_TOKENS = 6  # of the row of a trial: enough for a convolution to reach back
_SAME = 1e-3  # relative; kernels may round otherwise


class Inlet:
    """Runs a model on its token ids with X in place of the text embedding's output.

    Models may also use the ids elsewhere (per-layer embeddings in Gemma 3n and 4, positions in RoBERTa) and compute
    something else from `inputs_embeds`. This is the function that noise on the embedding perturbs, in every model.

    stack:      the model; for encoder-decoder models its encoder.
    table:      the stack's embedding module.
    multiplier: as in `embedding_multiplier`; X are the embeddings after it.
    Raises `InputError` for a model without embedding table, and from `given` if a forward does not call it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.stack: Any = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model
        try:
            table = self.stack.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            table = None
        if not isinstance(getattr(table, "weight", None), Tensor):
            raise InputError(f"{type(model).__name__} has no token-embedding table; symnoise needs a text model")
        self.table: Any = table
        self.multiplier = embedding_multiplier(self.stack, self.table)

    def embeddings(self, ids: Tensor) -> Tensor:
        """X of `ids` (batch, token), without gradient."""
        with torch.no_grad(), evaluation_mode(self.model):
            return self.table(ids) * self.multiplier

    @contextmanager
    def given(self, X: Tensor) -> Iterator[None]:
        """The first call of the table in a forward in the block returns X, before the model multiplies it."""
        output = X if self.multiplier == 1 else X / self.multiplier
        kind = type(self.table).__name__
        with replaced(self.table, output, f"{type(self.model).__name__} does not call its text embedding ({kind})"):
            yield

    def try_once(self, row: Tensor, inputs: dict[str, Any], *, causal: bool) -> None:
        """Check the forward with embeddings against the forward with ids on the first use of a model, at X and off it.

        row: real token ids (token,), of which the first few are tried. inputs: the model's other inputs.
        Raises `InputError` if the output differs from that with ids, does not depend on X or, for a `causal` model,
        depends on later tokens.
        """
        if self.model in _TRIED:
            return
        ids, name = row[None, :_TOKENS], type(self.model).__name__
        X = self.embeddings(ids)
        with torch.no_grad(), evaluation_mode(self.model):
            expected = self._output(ids, inputs)
            with self.given(X):
                found = self._output(ids, inputs)
            with self.given(X + X.std() * torch.ones_like(X[..., :1]) * torch.linspace(-1, 1, X.shape[-1]).to(X)):
                moved = self._output(ids, inputs)
            other = ids.clone()
            other[:, -1] = ids[:, 0] if int(ids[0, 0]) != int(ids[0, -1]) else (ids[:, 0] + 1) % len(self.table.weight)
            later = self._output(other, inputs)
        if not bool(expected.isfinite().all()):
            return  # which is said where the loss is taken, with the token's place
        if not _near(found, expected):
            raise InputError(f"{name} computes something else with its embeddings in place than from input_ids")
        if bool((moved == found).all()) and not bool((later == expected).all()):  # on the ids alone
            raise InputError(f"the output of {name} does not depend on its text embedding; symnoise needs a text model")
        # Weights unpacked by a method are quantised with the range of the whole row, which all tokens share.
        ranges = any(callable(getattr(part, "weight", None)) for part in self.model.modules())
        if causal and not ranges and not _near(later[:, :-1], expected[:, :-1]):
            raise InputError(f"{name} sees the tokens that it is to predict: give a causal language model")
        _TRIED.add(self.model)

    def try_padding(self, row: Tensor, mask: Mask, *, causal: bool) -> None:
        """Check once per model that it passes over padding where `mask` has it: some recurrent ones read it on the
        left or in the midst of a row, FNet everywhere.

        row: real token ids (token,), of which the first few are tried. Raises `InputError` if outputs change.
        """
        where = "right" if is_right_padded(mask) else "left" if is_right_padded(mask.flip(1)) else "middle"
        tried = _TRIED_PADDING.setdefault(self.model, set())
        if where in tried:
            return
        ids = row[None, :_TOKENS]
        place = {"left": 0, "middle": (ids.shape[1] + 1) // 2, "right": ids.shape[1]}[where]
        real = torch.ones(1, ids.shape[1] + _TOKENS, dtype=torch.long, device=ids.device)
        real[:, place : place + _TOKENS] = 0
        padded = torch.cat([ids[:, :place], ids[:, :1].expand(-1, _TOKENS), ids[:, place:]], 1)
        inputs: dict[str, Any] = {"attention_mask": real}
        alone: dict[str, Any] = {}
        if causal:
            alone = {"use_cache": False}
            inputs |= alone | {"position_ids": positions(real)}
        with torch.no_grad(), evaluation_mode(self.model):
            expected = self._output(ids, alone)
            found = self._output(padded, inputs)[:, real[0] != 0]
        if bool(expected.isfinite().all()) and not _near(found, expected):
            advice = "pad rows on the right" if causal else "give rows of one length, without padding"
            raise InputError(f"{type(self.model).__name__} reads padding on the {where} as text: {advice}")
        tried.add(where)

    def _output(self, ids: Tensor, inputs: dict[str, Any]) -> Tensor:
        return self.model(input_ids=ids, **inputs).logits.float()


@contextmanager
def replaced(module: nn.Module, X: Tensor, missed: str, *, first: bool = False) -> Iterator[None]:
    """The first call of `module` in a forward in the block returns X in place of its output, or of its first part.

    first: whether other hooks on the module, such as those that record its output, see X. Raises `InputError`,
    beginning with `missed`, if the module is not called.
    """
    # CTRL scales in place what it is given. A Taylor tensor is not touched by that, and a copy would cost it precision.
    left = [X.clone() if type(X) is Tensor else X]

    def put(module: nn.Module, arguments: Any, output: Any) -> Any:
        if not left:  # a decoder may look up in the same table afterwards
            return None
        return (left.pop(), *output[1:]) if isinstance(output, tuple) else left.pop()

    hook = module.register_forward_hook(put, prepend=first)
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code would pass the hook by
            yield
    finally:
        hook.remove()
    if left:
        raise InputError(f"{missed}, so its loss as a function of the embeddings cannot be measured")


def _near(one: Tensor, other: Tensor) -> bool:
    return float((one - other).norm()) <= _SAME * float(other.norm())
