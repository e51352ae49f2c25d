"""`EmbeddingLoss`: one example's loss as a function of its token embeddings."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from symnoise.core import InputError, is_right_padded, lengths
from symnoise.models.borrowed import borrowed
from symnoise.models.multiplier import embedding_multiplier, given_multiplier


class EmbeddingLoss:
    """ℓ_b(X) = mean over the scored tokens t of example b of −log p(label_t | X), in nats, b = 1 … batch.

    X (batch, token, dim) are the embeddings as the model's layers receive them: the output of its embedding
    table (for Gemma after its scaling by √d, for Granite after its multiplier), before positions are added. For
    encoder-decoder models X are the encoder's, and the labels are the decoder's targets. Examples do not meet in
    the model, so the Hessian of the batch is block-diagonal with one (L·d × L·d) block an example.

    Logits are formed at scored positions only, cross-entropy in float32 or better, means in float64. The model
    computes in evaluation mode with frozen weights and is left exactly as found.

    model: a Transformers causal or encoder-decoder language model.
    batch: input_ids (batch, token); attention_mask (batch, token), default all ones; labels, −100 where a token
           is not scored: (batch, token) aligned with input_ids for causal models, which predict label t from the
           tokens before t; (batch, target) for encoder-decoder models.
    ids:   one number an example, 0 … batch − 1 unless given; random probes are keyed by it, so an example gets
           the same probes in any batch, on any rank.
    Raises `InputError` for a model without embedding table or language-model head, for rows of one token, rows
    without a scored token, labels of another shape, token ids outside the vocabulary, and a model that multiplies
    its embeddings and computes something else from `inputs_embeds` than from `input_ids`.
    """

    def __init__(self, model: Any, batch: Mapping[str, Tensor], ids: Sequence[int] | None = None) -> None:
        self.model = model
        self.batch = {name: batch[name] for name in ("input_ids", "attention_mask", "labels") if name in batch}
        head = getattr(model, "get_output_embeddings", lambda: None)()
        if head is None:
            raise InputError(f"{type(model).__name__} has no language-model head; load a causal or seq2seq model")
        self._head: nn.Module = head
        seq2seq = bool(getattr(model.config, "is_encoder_decoder", False))
        device = next(model.parameters()).device
        tokens = batch["input_ids"].to(device)
        labels = batch["labels"].to(device)
        self.mask: Int[Tensor, "batch token"] = batch.get("attention_mask", torch.ones_like(tokens)).to(device)
        self.lengths: Int[Tensor, " batch"] = lengths(self.mask)
        self.ids = tuple(range(len(tokens)) if ids is None else ids)
        _check(tokens, self.mask, labels, seq2seq)

        stack = model.get_encoder() if seq2seq else model
        table = _embedding_table(stack)
        if int(tokens.max()) >= len(table.weight):
            raise InputError(f"token id {int(tokens.max())} is outside the model's {len(table.weight)} embeddings")
        with torch.no_grad(), borrowed(model):
            self.embeddings: Float[Tensor, "batch token dim"] = table(tokens) * embedding_multiplier(stack, table)
            real = tokens[self.mask != 0][None]
            self._multiplied = given_multiplier(stack, table, real)  # by the model, once more
        self._inputs: dict[str, Any] = {"attention_mask": self.mask, "use_cache": False}
        if seq2seq:
            self._inputs["decoder_input_ids"] = model.prepare_decoder_input_ids_from_labels(labels=labels)
            scored = labels != -100
        else:
            if not is_right_padded(self.mask):
                self._inputs["position_ids"] = (self.mask.long().cumsum(1) - 1).clamp(min=0)
            scored = F.pad(_scored(labels, self.mask), (0, 1))  # position t predicts token t + 1
            labels = F.pad(labels[:, 1:], (0, 1), value=-100)
        self.scored_tokens: Int[Tensor, " batch"] = scored.sum(1)
        self._rows, self._positions = scored.nonzero(as_tuple=True)
        self.targets: Int[Tensor, " scored"] = labels[scored]
        # (batch, scored): averages the scored tokens of each example.
        self.averages: Float[Tensor, "batch scored"] = (
            F.one_hot(self._rows, len(tokens)).T.double() / self.scored_tokens[:, None]
        )

    @property
    def shape(self) -> torch.Size:
        """(batch, token, dim)."""
        return self.embeddings.shape

    def example(self, index: int) -> "EmbeddingLoss":
        """The loss of one example alone, with right padding cut away."""
        return self.rows([index])

    def rows(self, indices: Sequence[int]) -> "EmbeddingLoss":
        """The loss of some examples, with their ids; right padding that none of them needs is cut away."""
        chosen = torch.as_tensor(indices)
        batch = {name: tensor[chosen.to(tensor.device)] for name, tensor in self.batch.items()}
        mask = self.mask[chosen.to(self.mask.device)]
        if is_right_padded(mask):
            longest = int(lengths(mask).max())
            # The labels of encoder-decoder models lie along the decoder's tokens.
            seq2seq = bool(getattr(self.model.config, "is_encoder_decoder", False))
            batch |= {k: v[:, :longest] for k, v in batch.items() if k != "labels" or not seq2seq}
        return EmbeddingLoss(self.model, batch, [self.ids[i] for i in indices])

    def __call__(self, X: Tensor) -> Float[Tensor, " batch"]:
        """ℓ(X), one float64 value an example."""
        return self.mean_over_tokens(F.cross_entropy(self.logits(X), self.targets, reduction="none"))

    def plain(self) -> Float[Tensor, " batch"]:
        """ℓ(X) without gradients, by the attention kernel of PyTorch's choice: the pass that costs are told in."""
        with torch.no_grad():
            logits = self.logits(self.embeddings, twice=False)
        return self.mean_over_tokens(F.cross_entropy(logits, self.targets, reduction="none"))

    def logits(self, X: Tensor, *, twice: bool = True) -> Float[Tensor, "scored vocabulary"]:
        """Logits at the scored positions of all examples, row by row; float32 or better. twice: as in `borrowed`."""
        kept = self._head.register_forward_pre_hook(
            lambda _, arguments: (arguments[0][self._rows, self._positions][None], *arguments[1:])
        )
        try:
            logits = self._run(X, twice).logits[0]
        finally:
            kept.remove()
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def hidden_states(self, X: Tensor) -> Float[Tensor, "layer batch token dim"]:
        """States of every layer (for encoder-decoder models, the encoder's), without gradients.

        Layer 0 is what enters the first block, layer l what leaves block l; the last one is taken, as
        Transformers does, after the final norm.
        """
        with torch.no_grad():
            output = self._run(X, output_hidden_states=True)
        return torch.stack(output["encoder_hidden_states" if "encoder_hidden_states" in output else "hidden_states"])

    def _run(self, X: Tensor, twice: bool = True, **options: Any) -> Any:
        with borrowed(self.model, twice=twice):
            given = X if self._multiplied == 1 else X / self._multiplied
            return self.model(inputs_embeds=given, **self._inputs, **options)

    def mean_over_tokens(self, per_token: Tensor) -> Float[Tensor, "batch"]:
        """Means over each example's scored tokens, in float64."""
        return self.averages @ per_token.double()

    def token_losses(self) -> Float[Tensor, " scored"]:
        """−log p of every scored token at the model's own embeddings.

        Raises `InputError` naming example and token where one is NaN or infinite.
        """
        with torch.no_grad():
            losses = F.cross_entropy(self.logits(self.embeddings), self.targets, reduction="none")
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            first = int(bad[0])
            raise InputError(
                f"loss is {float(losses[first])} at example {int(self._rows[first])}, token "
                f"{int(self._positions[first])}; look at that row, or load the model in float32"
            )
        return losses


def _embedding_table(model: Any) -> Any:
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        table = None
    if not isinstance(getattr(table, "weight", None), Tensor):
        raise InputError(f"{type(model).__name__} has no token-embedding table; symnoise needs a text model")
    return table


def _scored(labels: Tensor, mask: Tensor) -> Tensor:
    """(batch, token − 1): whether token t + 1 is scored, a real token that a real one comes before."""
    return (labels[:, 1:] != -100) & (mask[:, 1:] != 0) & (mask[:, :-1] != 0)


def _check(ids: Tensor, mask: Tensor, labels: Tensor, seq2seq: bool) -> None:
    if ids.ndim != 2 or mask.shape != ids.shape:
        raise InputError(f"input_ids {tuple(ids.shape)} and attention_mask {tuple(mask.shape)} must be (batch, token)")
    if labels.shape != ids.shape and not (seq2seq and labels.ndim == 2 and len(labels) == len(ids)):
        raise InputError(f"labels {tuple(labels.shape)} must have the shape of input_ids {tuple(ids.shape)}")
    scored = (labels != -100).any(1) if seq2seq else _scored(labels, mask).any(1)
    for row in range(len(ids)):
        if not seq2seq and int(lengths(mask)[row]) < 2:
            raise InputError(f"example {row} has length 1 or less: nothing can be predicted; give longer rows")
        if not bool(scored[row]):
            raise InputError(f"example {row} has no scored token (all labels are -100); check labels and truncation")
