"""Noise on a model's text embedding, in any training loop."""

import inspect
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from symnoise.core import InputError, generator
from symnoise.models.evaluation import evaluation_mode
from symnoise.noise import Noise
from symnoise.training.documents import has_media, noised_lengths
from symnoise.training.draws import draw
from symnoise.training.options import NoiseOptions
from symnoise.training.pairs import first_side, join_sides, layout
from symnoise.training.reference import Policy
from symnoise.training.target import find_target

_IN_FLIGHT = 64  # forwards whose backward may still come; each keeps a few numbers per token

_occupied: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


@dataclass(frozen=True)
class NoisePlan:
    """The noise that one forward gets.

    lengths: each token's L, 0 where there is no noise, of the batch before doubling; None to read it from the forward's
             own arguments, if a Trainer builds the model's batch itself (GRPO, KTO, ORPO).
    key:     (optimizer step, micro-step), and the number of the forward if there are several: keys the draw.
    side:    "single" draw; "rows" or "tokens" for both sides of a doubled batch (see `pairs.layout`); "first" or
             "second" side alone; "none".
    """

    lengths: Int[Tensor, "batch token"] | None
    key: tuple[int, ...]
    side: str = "single"


class Attached:
    """Handle of the noise on a model, until `remove()`; made by `attach`, also a context manager.

    Attributes:
        fired: Number of forwards that got noise.
        on_draw: Called as on_draw(epsilon, embeddings, lengths) after each draw, without gradients; for tracking.
        resting: Whether forwards get noise only inside `using`. The Trainers set it, since their other forwards
            (generation, log-probabilities of the sampling policy) are not training steps.
    """

    def __init__(self, model: nn.Module, noise: Noise | None, seed: int, options: NoiseOptions, rank: int) -> None:
        self.noise, self.seed, self.options, self.rank = noise, seed, options, rank
        self.fired = 0
        self.on_draw: Callable[[Tensor, Tensor, Tensor], None] | None = None
        self.resting = False
        self._key: tuple[int, ...] = (0, 0)
        self._given: NoisePlan | None = None  # set by a Trainer, which knows more than the forward does
        self._forwards = 0  # since then
        self._stepped = False  # whether `at` was called
        self._running = False  # whether a forward of the model is in progress
        self._plan: NoisePlan | None = None  # of the forward in progress, until the embedding has run
        self._drawn: dict[int, NoisePlan] = {}  # of forwards whose backward may run them again
        self._handles: list[Any] = []
        self._warned = False
        self._apart: bool | None = None  # whether the model keeps the documents of a row apart
        if noise is None:
            return
        self._target = find_target(model)
        self._policy = Policy(self._target.model)
        embedding = self._target.embedding
        self._refuse(embedding)
        if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
            torch.compiler.reset()  # code compiled before would run without the hooks
        _occupied.add(embedding)
        outside = torch.compiler.disable  # the hooks count and draw; only they stay out of the compiled graph
        self._handles = [
            self._target.model.register_forward_pre_hook(outside(self._before), with_kwargs=True),
            embedding.register_forward_hook(outside(self._on_embedding), with_kwargs=True),
            self._target.model.register_forward_hook(outside(self._after)),
        ]

    def _refuse(self, embedding: nn.Module) -> None:
        if embedding in _occupied:
            raise InputError("this model already has noise attached; call remove() on the first handle before a second")
        names = [getattr(hook, "__name__", "") for hook in embedding._forward_hooks.values()]
        if hasattr(embedding, "neftune_noise_alpha") or "neftune_post_forward_hook" in names:
            raise InputError("neftune_noise_alpha is already on for this model; switch one of the two noises off")
        if self.options.where != "all" and self._seq2seq:
            raise InputError(
                "where must be 'all' for encoder-decoder models: their labels are not on the noised tokens"
            )

    @property
    def model(self) -> nn.Module:
        """The module whose forwards get noise, without the wrappers of distributed training."""
        return self._target.model

    @property
    def _seq2seq(self) -> bool:
        return bool(getattr(getattr(self._target.model, "config", None), "is_encoder_decoder", False))

    def __enter__(self) -> "Attached":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the noise from the model. Safe to call twice."""
        for handle in self._handles:
            handle.remove()
        if self._handles:
            _occupied.discard(self._target.embedding)
        self._handles, self._plan, self._given = [], None, None
        self._drawn.clear()

    def at(self, step: int) -> None:
        """Set the optimizer step: the next forward is its first micro-step.

        Call it once a step, before its first micro-batch (called again, it begins the step again, with the same draws),
        if draws must be the same after a restart, or if α has a schedule. Without it all forwards count as micro-steps
        of step 0.

        Args:
            step: Number of the optimizer step, from 0.
        """
        self._key, self._stepped = (step, 0), True
        self._drawn.clear()

    def plan(self, batch: Mapping[str, Any], key: tuple[int, ...], side: str = "single") -> NoisePlan:
        """The `NoisePlan` of a batch before doubling."""
        return NoisePlan(self._lengths(batch), key, side)

    def _lengths(self, batch: Mapping[str, Any]) -> Int[Tensor, "batch token"]:
        placeholders = self._target.placeholders
        if not placeholders and has_media(batch):
            raise InputError(
                f"the configuration of {type(self._target.model).__name__} does not say which token ids stand for "
                "images, so noise cannot be kept to the text: train it on text alone"
            )
        return noised_lengths(batch, self.options.length, self.options.where, placeholders)

    def next_plan(self, batch: Mapping[str, Any]) -> NoisePlan:
        """The `NoisePlan` of the next micro-step; advances the count."""
        return self.plan(batch, self._next_key())

    def _next_key(self) -> tuple[int, int]:
        step, micro = self._key
        if micro and not self._stepped and self.options.schedule != "constant":
            raise InputError(
                f"the {self.options.schedule} schedule of α needs to know the step: call at(step) before each"
            )
        self._key = (step, micro + 1)
        return step, micro

    @contextmanager
    def using(self, plan: NoisePlan) -> Iterator[None]:
        """Forwards in the block get `plan`'s noise, the same each time, instead of counting micro-steps."""
        if plan.key[0] != self._key[0]:
            self._drawn.clear()
            self._key = (plan.key[0], 0)
        self._forwards = 0
        before = self._given, self.resting
        self._given, self.resting = plan, False
        try:
            yield
        finally:
            self._given, self.resting = before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Forwards in the block get no noise and do not count as micro-steps: for a reference, a teacher, a clean loss.

        A forward with PEFT's adapters disabled, or without gradients and with another adapter active, belongs to the
        reference and never gets noise.
        """
        before, self.resting = self.resting, True
        given, self._given = self._given, None
        try:
            yield
        finally:
            self.resting, self._given = before, given

    def require_documents_apart(self, batch: Mapping[str, Any]) -> None:
        """`InputError` for a model in which documents packed into one row see each other, as a pair's sides would.

        Such as OPT, whose attention ignores `position_ids`, and models with convolutions. Tested once, on two documents
        of two tokens; not possible with `cu_seq_lens_q` alone.
        """
        if self._apart is None and batch.get("position_ids") is not None:
            row = torch.tensor([[1, 2, 1, 2], [2, 1, 1, 2]], device=batch["input_ids"].device)
            more = {"position_ids": torch.tensor([[0, 1, 0, 1]], device=row.device), "use_cache": False}
            if batch.get("seq_idx") is not None:
                more["seq_idx"] = torch.tensor([[0, 0, 1, 1]], device=row.device).to(batch["seq_idx"].dtype)
            with torch.no_grad(), evaluation_mode(self._target.model, twice=False):
                one, other = (self._target.model(input_ids=ids[None], **more)[0][:, 2:].float() for ids in row)
            self._apart = float((one - other).norm()) <= 1e-3 * float(one.norm())
        if self._apart is False:
            raise InputError(
                f"{type(self._target.model).__name__} lets the documents of a packed row see each other, and so would "
                "the two sides of a pair: do not pack, or use pair_mode='two-pass'"
            )

    def epsilon(self, plan: NoisePlan, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """The noise of `plan`, as added: depends only on (seed, rank, plan), on one kind of device."""
        assert self.noise is not None
        lengths = plan.lengths
        assert lengths is not None
        step, *within = plan.key
        noise = replace(self.noise, alpha=self.noise.alpha * self.options.fraction(step))
        padded = self.options.length == "padded"
        random = generator(self.seed, "noise", self.rank, step, *within, device=lengths.device)
        exact = torch.promote_types(dtype, torch.float32)

        def one() -> Tensor:
            drawn = draw(noise, lengths, dim, generator=random, dtype=exact, padded=padded)
            return drawn if padded else drawn.div_(self._target.multiplier)

        first = one()
        if plan.side in ("single", "first"):
            return first.to(dtype)
        second = one() if noise.independent else -first
        return (second if plan.side == "second" else join_sides(first, second, plan.side)).to(dtype)

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._plan, self._running = None, True
        if _in_backward() or self.resting or not self._policy.passes():
            return
        if not model.training:
            self._warn_of_evaluation(model)
            return
        batch = dict(kwargs)
        if args:
            batch.update(zip(inspect.signature(model.forward).parameters, args, strict=False))
        if batch.get("inputs_embeds") is not None or batch.get("input_ids") is None:
            raise InputError("noise needs input_ids: with inputs_embeds the embedding table never runs")
        if self._given is not None:
            self._plan = self._given
            if self._plan.lengths is None:
                lengths = self._lengths(batch)
                self._plan = replace(self._plan, lengths=lengths, key=(*self._plan.key, self._forwards))
                self._forwards += 1
            return
        side = "single"
        if self.noise is not None and self.noise.paired:
            side = layout(batch)
            lengths = first_side(self._lengths(batch), side)
            first_side(batch["input_ids"], side)
            if side == "tokens":
                self.require_documents_apart(batch)
                self._running = True  # it ran forwards of its own
            self._plan = NoisePlan(lengths, self._next_key(), side)
        else:
            self._plan = self.next_plan(batch)

    def _warn_of_evaluation(self, model: nn.Module) -> None:
        """Warn once of gradients in evaluation mode, in which `from_pretrained` leaves models."""
        if self._warned or not torch.is_grad_enabled() or not any(p.requires_grad for p in model.parameters()):
            return
        self._warned = True
        warnings.warn(
            "the model is in evaluation mode, so this forward with gradients got no noise: call model.train() before "
            "training, or evaluate under torch.no_grad()",
            stacklevel=2,
        )

    def _on_embedding(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        ids = args[0] if args else kwargs["input"]
        if not self._handles or not isinstance(ids, Tensor) or ids.is_floating_point():
            return None
        plan = self._plan
        if _in_backward():  # gradient checkpointing runs the forward again: the same tokens get the same draw
            plan = self._drawn.get(ids.data_ptr())
        elif plan is None and not self._running:
            self._refuse_part(module)
        if plan is None:  # evaluation, or a decoder that shares the encoder's table
            return None
        self._plan = None
        self._drawn[ids.data_ptr()] = plan
        while len(self._drawn) > _IN_FLIGHT:
            del self._drawn[next(iter(self._drawn))]
        if plan.side == "none":
            return None
        with torch.no_grad():
            epsilon = self.epsilon(plan, output.shape[-1], output.dtype)
        if epsilon.shape != output.shape:
            raise InputError(f"noise of shape {tuple(epsilon.shape)} met embeddings of {tuple(output.shape)}")
        if not _in_backward():
            self.fired += 1
            if self.on_draw is not None and plan.lengths is not None:
                here = self._target.multiplier  # report the noise as the first layer receives it
                self.on_draw(here * epsilon.detach(), here * output.detach(), plan.lengths)
        return output + epsilon

    def _refuse_part(self, module: nn.Module) -> None:
        """`InputError` for a training step that calls a part of the model, past the hook that plans the noise."""
        if module.training and torch.is_grad_enabled() and not self.resting and self._policy.passes():
            name = type(self._target.model).__name__
            raise InputError(
                f"the text embedding ran outside a forward of {name}, where it gets no noise: let the loss call {name} "
                "itself (in TRL without use_liger_kernel), or run the part within paused() if it is to have none"
            )

    def _after(self, model: nn.Module, args: Any, output: Any) -> None:
        self._running = False
        if self._plan is not None and self._handles:
            self._plan = None
            raise InputError(
                f"a training step of {type(model).__name__} passed without a draw: its text embedding "
                f"({type(self._target.embedding).__name__}) did not run; attach noise to the model that the loop calls"
            )


def require_noise(noise: Any, *, given: bool = True) -> None:
    """`InputError` unless `noise` is a `Noise` or None, and if it was not `given`."""
    if not given or not isinstance(noise, Noise | None):
        what = f"got {noise!r}" if given else "nothing was given"
        raise InputError(f"noise must be a Noise, such as Noise.symnoise(5.0), or None for plain training; {what}")


def attach(
    model: nn.Module,
    noise: Noise | None,
    seed: int = 0,
    options: NoiseOptions | None = None,
    *,
    rank: int | None = None,
) -> Attached:
    """Add embedding noise to a model: to the output of its text embedding in every training-mode forward.

    Use it as `with attach(model, noise, seed=0): …` or as a handle with `remove()`. ε is added after any scaling inside
    the embedding (Gemma's √d), and is divided by the model's later multiplier (Granite), so that α refers to the
    embeddings as the first layer receives them. `length="padded"`, Transformers' noise, is multiplied, too.

    Draws are keyed by (seed, rank, step, micro-step), made in float32, and independent of the global generator. They
    use the device's own generator, so CPU and GPU runs draw differently. Paired noise expects each example twice in the
    batch: see `PairedCollator`, or use a SymNoise Trainer, which doubles batches itself. If the whole model is within
    `torch.utils.checkpoint`, give each forward token ids of its own: they tell its draw when it is run again.

    Args:
        model: A Transformers model, bare or within PEFT, DDP, FSDP or torch.compile. Attach to the object that the loop
            calls, and to a compiled model before its first forward.
        noise: The noise; None for plain training.
        seed: Random seed of the draws.
        options: Length, tokens and schedule of the noise.
        rank: Rank of this process among those with different data; default its rank in torch.distributed.

    Returns:
        The handle.

    Raises:
        InputError: For DataParallel, a model without embedding table, a second attach to the same table, and
            `neftune_noise_alpha`. The forward raises it for inputs_embeds and for a training forward without a draw.

    Examples:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from symnoise import Noise, attach
        >>> sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).train()
        >>> ids = torch.arange(8)[None]
        >>> plain = model(input_ids=ids).logits
        >>> with attach(model, Noise.neftune(5.0), seed=0) as handle:
        ...     noisy = model(input_ids=ids).logits
        >>> handle.fired, torch.equal(noisy, plain), torch.equal(model(input_ids=ids).logits, plain)
        (1, False, True)
    """
    if rank is None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
    require_noise(noise)
    return Attached(model, noise, seed, options or NoiseOptions(), rank)


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
