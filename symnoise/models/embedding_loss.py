"""`EmbeddingLoss`: one example's loss as a function of its token embeddings."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from symnoise.core import InputError, is_right_padded, lengths, positions
from symnoise.models.evaluation import evaluation_mode
from symnoise.models.inlet import Inlet
from symnoise.models.layers import LayerInlet
from symnoise.models.targets import Targets, selected, targets, task_of

_READ = ("input_ids", "attention_mask", "labels", "decoder_input_ids", "token_type_ids", "mm_token_type_ids")


class EmbeddingLoss:
    """Loss of each example as a function of its token embeddings.

    ℓ_b(X) = mean over the scored tokens t of example b of −log p(label_t | X), in nats, b = 1 … batch.

    X (batch, token, dim) are the embeddings as the model's layers receive them: the output of the embedding table (for
    Gemma after scaling by √d, for Granite after its multiplier), before positions are added. For encoder-decoder models
    X are the encoder's embeddings, and the labels are the decoder's targets. Examples do not interact in the model, so
    the Hessian of the batch is block-diagonal with one (L·d × L·d) block per example.

    The model runs on the token ids with X in place of the embedding's output, so ℓ is the function that training noise
    perturbs. This is checked against the forward with ids on the first use of a model (`Inlet.try_once`). Logits are
    computed at scored positions only, cross-entropy in float32 or better, means in float64. The model runs in
    evaluation mode with frozen weights, and its state is restored.

    With `layer` k > 0 the variable is the hidden states that enter layer k instead: `embeddings` are then the model's
    own states there, with the same shape, mask and probes. Everything measured of the loss (tr H, tr G, spectra, C(σ))
    is of that layer, per squared unit of its states. Layers differ in the size of their states: between layers compare
    tr H times `mean_square`.

    Args:
        model: A Transformers causal, encoder-decoder or masked language model, or a sequence or token classifier.
        batch: input_ids (batch, token); attention_mask (batch, token), default all ones; labels, −100 where nothing is
            scored. Labels are (batch, token), aligned with input_ids, for causal models, which predict label t from the
            tokens before t, and for masked models and token classifiers, which predict it at t. They are
            (batch, target) for encoder-decoder models and (batch,) for sequence classifiers. token_type_ids and
            decoder_input_ids are passed on.
        ids: One number per example, default 0 … batch − 1, all different. Random probes are keyed by it, so an example
            gets the same probes in any batch and on any rank; give batches whose estimates are averaged different ones.
        layer: Where X enters, counted as in `hidden_states`: 0 is the embeddings (before positions are added), k the
            output of block k, counted from 1; after the last block, what enters the final norm. For encoder-decoder
            models, in the encoder.

    Raises:
        InputError: For a model without embedding table or head, or that sees the tokens it predicts; for rows of one
            token, rows without a scored token, labels of the wrong shape, token ids outside the vocabulary, labels
            outside the model's outputs, or ids that are not one per row, or the same twice; for padding that the model
            reads, and rows of different scaled positions (`_refuse_shared_positions`); for a
            layer that is not there, or a model whose layers are not one list; and for other model inputs (position_ids,
            pixel_values), without which the loss would differ.

    Examples:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from symnoise import EmbeddingLoss
        >>> sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))
        >>> ids = torch.arange(8)[None]
        >>> loss = EmbeddingLoss(model, {"input_ids": ids, "labels": ids})
        >>> loss.shape
        torch.Size([1, 8, 16])
        >>> bool((loss(loss.embeddings) - model(input_ids=ids, labels=ids).loss).abs() < 1e-4)
        True
    """

    def __init__(
        self, model: Any, batch: Mapping[str, Tensor], ids: Sequence[int] | None = None, *, layer: int = 0
    ) -> None:
        _require_model_and_batch(model, batch)
        self.model = model
        self.task = task_of(model)
        self.batch = {name: batch[name] for name in _READ if batch.get(name) is not None}
        self._head = _head(model, self.task)
        _refuse_other_inputs(model, batch)
        device = next(model.parameters()).device
        tokens, labels = batch["input_ids"].to(device), batch["labels"].to(device)
        self.mask: Int[Tensor, "batch token"] = self.batch.get("attention_mask", torch.ones_like(tokens)).to(device)
        self.targeted: Targets = targets(self.task, tokens, self.mask, labels, model)
        self.lengths: Int[Tensor, " batch"] = lengths(self.mask)
        self.ids = tuple(range(len(tokens)) if ids is None else map(int, ids))
        if len(self.ids) != len(tokens):
            raise InputError(f"ids must be one number for each of {len(tokens)} examples; got {len(self.ids)}")
        if len(set(self.ids)) < len(self.ids):  # an average would take them for independent
            raise InputError("ids must differ: two examples with one id would get the same probes")

        _require_between("label", self.targets, _outputs(model, self._head), "outputs")
        self._inlet = Inlet(model)
        _require_between("token id", tokens, len(self._inlet.table.weight), "embeddings")
        self.embeddings: Float[Tensor, "batch token dim"] = self._inlet.embeddings(tokens)
        self._inputs = self._other_inputs(tokens, labels)
        row = {"decoder_input_ids": self._inputs["decoder_input_ids"][:1]} if self.task == "seq2seq" else {}
        first = tokens[0][self.mask[0] != 0]
        self._inlet.try_once(first, row, causal=self.task == "causal")
        if self.task == "causal":
            _refuse_shared_positions(model, self.mask)
        # What comes after a token is nothing to a causal model.
        padded = not is_right_padded(self.mask) if self.task == "causal" else bool((self.mask == 0).any())
        if padded and self.task in ("causal", "masked", "token"):
            self._inlet.try_padding(first, self.mask, causal=self.task == "causal")
        self.layer = layer
        self._entrance: Inlet | LayerInlet = self._inlet
        if layer != 0:
            self._entrance = LayerInlet(self._inlet, layer)
            self.embeddings = self._entrance.states(self._forward, self.mask.shape)

    def _other_inputs(self, tokens: Tensor, labels: Tensor) -> dict[str, Any]:
        given = {k: self.batch[k].to(tokens.device) for k in _READ[3:] if k in self.batch}
        inputs = {"input_ids": tokens, "attention_mask": self.mask, **given}
        if self.task == "seq2seq":
            inputs.setdefault("decoder_input_ids", self.model.prepare_decoder_input_ids_from_labels(labels=labels))
        elif self.task == "causal" and not is_right_padded(self.mask):
            inputs["position_ids"] = positions(self.mask)
        if self.task in ("causal", "seq2seq"):
            inputs["use_cache"] = False  # type: ignore[assignment]
        return inputs

    @property
    def scored_tokens(self) -> Int[Tensor, " batch"]:
        """Number of scored tokens per example; 1 for a sequence classifier."""
        return self.targeted.count

    @property
    def targets(self) -> Int[Tensor, " scored"]:
        """Class to predict at each scored position."""
        return self.targeted.classes

    @property
    def averages(self) -> Float[Tensor, "batch scored"]:
        """Matrix that averages over the scored tokens of each example."""
        return self.targeted.averages

    @property
    def mean_square(self) -> Float[Tensor, " batch"]:
        """Mean square of a coordinate of each example's X, over its real tokens, in float64."""
        per_token = self.embeddings.double().square().mean(-1) * (self.mask != 0)
        return per_token.sum(1) / self.lengths

    @property
    def shape(self) -> torch.Size:
        """(batch, token, dim)."""
        return self.embeddings.shape

    def example(self, index: int) -> "EmbeddingLoss":
        """Loss of one example alone, without right padding.

        Args:
            index: Its place in the batch.
        """
        return self.rows([index])

    def rows(self, indices: Sequence[int]) -> "EmbeddingLoss":
        """Loss of some examples, with their ids; right padding that none of them needs is removed.

        Args:
            indices: Their places in the batch, from 0 on.

        Raises:
            InputError: For a place outside the batch, and for none at all.
        """
        if not len(indices):
            raise InputError("there are no examples to choose; name one or more")
        for i in indices:
            if not 0 <= i < len(self.ids):
                raise InputError(f"there is no example {i}: the batch has {len(self.ids)}, counted from 0")
        chosen = torch.as_tensor(indices, dtype=torch.long)
        mask = self.mask[chosen.to(self.mask.device)]
        longest = int(lengths(mask).max()) if is_right_padded(mask) else None
        some = EmbeddingLoss(self.model, selected(self.batch, chosen, longest, self.task), layer=self.layer)
        some.ids = tuple(self.ids[i] for i in indices)  # of copies the same
        return some

    def __call__(self, X: Tensor) -> Float[Tensor, " batch"]:
        """ℓ(X), one float64 value per example."""
        return self.mean_over_tokens(F.cross_entropy(self.logits(X), self.targets, reduction="none"))

    def plain(self) -> Float[Tensor, " batch"]:
        """ℓ(X) without gradients, with PyTorch's default attention kernel: the unit of cost is this pass."""
        with torch.no_grad():
            logits = self.logits(self.embeddings, twice=False)
        return self.mean_over_tokens(F.cross_entropy(logits, self.targets, reduction="none"))

    def logits(self, X: Tensor, *, twice: bool = True) -> Float[Tensor, "scored vocabulary"]:
        """Logits at the scored positions, row by row; float32 or better.

        Args:
            X: The embeddings, (batch, token, dim).
            twice: Whether a second derivative will be taken (`evaluation_mode`).
        """
        rows, positions = self.targeted.rows, self.targeted.positions
        if self._head is None:  # a classifier, whose outputs are few
            logits = self._run(X, twice).logits
            logits = logits if self.task == "sequence" else logits[rows, positions]
        else:
            kept, self._called = self._head.register_forward_pre_hook(self._keep_scored), False
            try:
                logits = self._run(X, twice).logits[0]
            finally:
                kept.remove()
            if not self._called:
                raise InputError(f"{type(self.model).__name__} does not call its head: its logits cannot be told apart")
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _keep_scored(self, head: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        states, *others = arguments
        self._called = True
        along = self._inputs["decoder_input_ids"] if self.task == "seq2seq" else self.mask
        if states.shape[:2] != along.shape:
            raise InputError(
                f"{type(self.model).__name__} computes {states.shape[1]} outputs for {along.shape[1]} tokens (virtual "
                "tokens, or images): which of them belong to the labels is not known"
            )
        return states[self.targeted.rows, self.targeted.positions][None], *others

    def hidden_states(self, X: Tensor) -> Float[Tensor, "layer batch token dim"]:
        """Hidden states of every layer (for encoder-decoder models, the encoder's), without gradients.

        Args:
            X: The embeddings, (batch, token, dim).

        Returns:
            Layer 0 is the input of the first block, layer l the output of block l; the last one is after the final
            norm, as in Transformers.
        """
        with torch.no_grad():
            output = self._run(X, output_hidden_states=True)
        return torch.stack(output["encoder_hidden_states" if "encoder_hidden_states" in output else "hidden_states"])

    def _run(self, X: Tensor, twice: bool = True, **options: Any) -> Any:
        with self._entrance.given(X):
            return self._forward(twice, **options)

    def _forward(self, twice: bool = True, **options: Any) -> Any:
        with evaluation_mode(self.model, twice=twice):
            return self.model(**self._inputs, **options)

    def mean_over_tokens(self, per_token: Tensor) -> Float[Tensor, "batch"]:
        """Mean over each example's scored tokens, in float64.

        Args:
            per_token: One value per scored token.
        """
        return self.averages @ per_token.double()

    def token_losses(self) -> Float[Tensor, " scored"]:
        """Loss −log p of every scored token at the model's own embeddings.

        Raises:
            InputError: If one is NaN or infinite, naming example and token.
        """
        with torch.no_grad():
            losses = F.cross_entropy(self.logits(self.embeddings), self.targets, reduction="none")
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            first = int(bad[0])
            raise InputError(
                f"loss is {float(losses[first])} at example {int(self.targeted.rows[first])}, token "
                f"{int(self.targeted.positions[first])}; look at that row, or load the model in float32"
            )
        return losses


def _refuse_shared_positions(model: Any, mask: Tensor) -> None:
    """`InputError` where the model scales positions by the longest row of a batch, so that an example's loss depends on
    the others: "dynamic" also on what was measured before."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    limit = scaling.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    limit = limit or getattr(config, "max_position_embeddings", None)
    if kind not in ("dynamic", "longrope") or limit is None:
        return
    longest = mask.shape[1] if is_right_padded(mask) else int(lengths(mask).max())  # padding on the right is counted
    if longest > limit and (kind == "dynamic" or not bool((lengths(mask) > limit).all())):
        raise InputError(
            f"{type(model).__name__} scales the positions of all rows by the longest one beyond {limit} tokens "
            f"({kind}) and its padding, so an example's loss depends on the others: give rows of at most {limit} tokens"
        )


def _outputs(model: Any, head: Any) -> int:
    """Number of classes that the model tells apart; of a packed head as it says, since its weight has another shape."""
    if head is None:
        return int(model.config.num_labels)
    return int(getattr(head, "out_features", None) or head.weight.shape[0])


def _require_between(name: str, found: Tensor, size: int, of: str) -> None:
    """`InputError` unless every entry is an integer from 0 to size − 1."""
    for outside in (int(found.min()), int(found.max())):
        if not 0 <= outside < size:
            raise InputError(f"{name} {outside} is outside the model's {size} {of}")


def _head(model: Any, task: str) -> Any:
    """The language-model head; None for a classifier."""
    if task in ("token", "sequence"):
        return None
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        raise InputError(f"{type(model).__name__} has no language-model head; load a causal or seq2seq model")
    return head


def _require_model_and_batch(model: Any, batch: Any) -> None:
    """`InputError` for what is near a model or a batch, such as the pair that `load_model` returns, or rows."""
    if not isinstance(model, torch.nn.Module):
        advice = "; give its .model" if isinstance(getattr(model, "model", None), torch.nn.Module) else ""
        raise InputError(f"EmbeddingLoss takes a model, not {type(model).__name__}{advice}")
    if not (isinstance(batch, Mapping) and {"input_ids", "labels"} <= set(batch)):
        raise InputError(
            "EmbeddingLoss takes a batch with input_ids and labels, such as encode(rows, tokenizer, max_length=128), "
            f"not {type(batch).__name__}"
        )


def _refuse_other_inputs(model: Any, batch: Mapping[str, Any]) -> None:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    known = inspect.signature(inner.forward).parameters
    for name, value in batch.items():
        if name in known and name not in _READ and isinstance(value, Tensor):
            raise InputError(
                f"the batch has {name!r}, which a loss of embeddings cannot take into account; leave it out"
            )
