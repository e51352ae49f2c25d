"""`SymNoiseMixin`: noise and exact pairs for any Transformers Trainer."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from symnoise.core import Diverged, InputError, saving, unknown
from symnoise.training.attach import Attached, NoisePlan, attach, require_noise
from symnoise.training.checkpoints import (
    last_whole_checkpoint,
    loading,
    resolve,
    setting,
    warn_if_other,
    write_setting,
)
from symnoise.training.coupled import couples_rows, one_after_the_other, sides_apart, unrecorded
from symnoise.training.dials import CleanLoss, Dials, objective, passes, side_weights
from symnoise.training.options import NoiseOptions
from symnoise.training.pairs import double_batch, layout
from symnoise.training.recompute import adds_gradients, recomputed

PAIR_MODES = ("doubled", "two-pass")
_NOT_GIVEN: Any = object()  # None means plain training, so it cannot stand for a missing argument
_ARGUMENTS = ("noise", "noise_seed", "noise_options", "pair_mode", "dials")


class SymNoiseMixin:
    """Embedding noise and exact pairs in any Trainer class: `class MyTrainer(SymNoiseMixin, Trainer)`.

    With paired noise the loss of a training step, and so the gradient, is the mean over the two sides, regardless of
    gradient accumulation, padding and the number of processes: each micro-batch goes through the model twice, and the
    number of scored tokens that divides the loss counts both sides. Evaluation is unchanged. With dropout the sides
    differ by more than the sign of the noise; set it to 0 to avoid that. TRL's `num_tokens` counts what goes through
    the model, so twice the data for a pair.

    In three cases the sides go through the model one after the other within the step, whatever `pair_mode`: if the loss
    has a term over the rows of a batch (router losses, DPO's "aot", or a loss of your own, which a trial on the first
    step detects and a warning reports), if the Trainer builds the model's batch (GRPO, KTO, ORPO), and if examples have
    images. In preference training every forward of the policy within the loss gets noise. Forwards of the reference and
    forwards outside the loss (generation, the sampling policy's log-probabilities) get none; see `Attached.paused`.

    With `dials` their objective is the training loss, logged as `loss`, and is as exact. If ℓ(X) has a weight in it,
    its mean is logged as `clean_loss`. Such a step costs up to three forward and backward passes.

    Args:
        args: Positional arguments of the Trainer.
        noise: `Noise`, paired or not, or None for plain training.
        noise_seed: Random seed of the draws.
        noise_options: Length, tokens and schedule of the noise; the number of steps is filled in.
        pair_mode: "doubled", one batch of twice the rows (with `dials` all sides in one backward pass), or "two-pass",
            one side after the other with the memory of one. If the first side leaves gradients that plain training
            would not hold yet, later sides recompute their activations to make room (a third more time for those; same
            values).
        dials: Weights of the even and odd part, instead of the noise's own pairing.
        kwargs: Keyword arguments of the Trainer.

    Raises:
        InputError: If `noise` is missing or not a `Noise`; for unknown arguments, `neftune_noise_alpha`, DataParallel,
            and dials without noise or with independent pairs.
        Diverged: In training, on every process, if a loss on any process is not finite, before the weights change.
    """

    def __init__(
        self,
        *args: Any,
        noise: Any = _NOT_GIVEN,  # Noise or None; checked in `require_noise`
        noise_seed: int = 0,
        noise_options: NoiseOptions | None = None,
        pair_mode: str = "doubled",
        dials: Dials | None = None,
        **kwargs: Any,
    ) -> None:
        known = list(inspect.signature(super().__init__).parameters)
        for name in kwargs:
            if name not in known and "kwargs" not in known:
                raise unknown("trainer argument", name, [*known, *_ARGUMENTS])
        require_noise(None if noise is _NOT_GIVEN else noise, given=noise is not _NOT_GIVEN)
        if pair_mode not in PAIR_MODES:
            raise unknown("pair mode", pair_mode, PAIR_MODES)
        self.noise, self.noise_seed, self.pair_mode = noise, noise_seed, pair_mode
        self.dials = objective(noise, dials)
        self.noise_options = noise_options or NoiseOptions()
        self._attached: Attached | None = None
        self._micro = (-1, -1)  # optimizer step, and micro-step within it
        self.observer: Any = None  # a NoiseTracker while it watches a step
        self.resumed_from: str | None = None  # the checkpoint from which `train` resumes, for the trackers
        self._coupled: bool | None = None  # whether the loss was found to have a term over the rows of a batch
        self._side: str | None = None  # in two-pass mode: the side whose turn it is
        self._clean = CleanLoss()
        super().__init__(*args, **kwargs)
        self._check_arguments()
        for callback in self.callback_handler.callbacks:  # type: ignore[attr-defined]
            self._introduce(callback)

    def _check_arguments(self) -> None:
        trainer: Any = self
        if trainer.args.neftune_noise_alpha is not None:
            raise InputError(
                "neftune_noise_alpha is set as well; leave it out and give noise=Noise.neftune(alpha) instead"
            )
        if trainer.args.n_gpu > 1:
            raise InputError(
                "DataParallel is not supported; launch with torchrun or accelerate, or show one device only"
            )
        if self.noise is None:
            return
        if trainer.get_cp_size() > 1 or trainer.get_sp_size() > 1:
            raise InputError("noise does not support context or sequence parallelism; set cp_size and sp_size to 1")
        if self.pair_mode == "two-pass" and trainer.is_deepspeed_enabled:
            raise InputError("two-pass pairs do not work with DeepSpeed; use pair_mode='doubled'")

    def _introduce(self, callback: Any) -> None:
        if hasattr(callback, "watch"):
            callback.trainer = self

    def add_callback(self, callback: Any) -> None:
        """As in the Trainer; also connects trackers to this Trainer."""
        super().add_callback(callback)  # type: ignore[misc]
        self._introduce(self.callback_handler.callbacks[-1])  # type: ignore[attr-defined]

    @property
    def noise_setting(self) -> dict[str, Any]:
        """Noise settings that are written as symnoise.json into every checkpoint."""
        even, odd = (self.dials.even, self.dials.odd) if self.dials else (None, None)
        return setting(self.noise, self.noise_seed, self.noise_options, even=even, odd=odd)

    def attached(self, model: nn.Module) -> Attached:
        """The handle of the noise on `model`, attached on first use and removed when `train` ends."""
        trainer: Any = self
        if self._attached is None:
            options = replace(self.noise_options, steps=self.noise_options.steps or trainer.state.max_steps or None)
            rank = trainer.accelerator.process_index // trainer.get_tp_size()  # tensor-parallel ranks share a batch
            self._attached = attach(model, self.noise, self.noise_seed, options, rank=rank)
            self._attached.on_draw = self._show
            self._attached.resting = True  # but within a loss
        return self._attached

    def _show(self, *draw: Tensor) -> None:
        if self.observer is not None:
            self.observer.draw(*draw)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Train, as in the Trainer.

        Args:
            resume_from_checkpoint: As in the Trainer; True skips an incomplete checkpoint. A checkpoint with another
                noise setting is used, with a warning that reports both.
            kwargs: As in the Trainer.

        Returns:
            As in the Trainer.
        """
        self._detach()
        self._coupled = None
        self.resumed_from = folder = resolve(resume_from_checkpoint, self.args.output_dir)  # type: ignore[attr-defined]
        if folder is not None:
            warn_if_other(folder, self.noise_setting)
        try:
            return super().train(resume_from_checkpoint=folder, **kwargs)  # type: ignore[misc]
        finally:
            self._detach()
            for callback in self.callback_handler.callbacks:  # type: ignore[attr-defined]
                if hasattr(callback, "watch"):
                    callback.close()

    def _detach(self) -> None:
        if self._attached is not None:
            self._attached.remove()
        self._attached, self._micro = None, (-1, -1)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in the Trainer, with symnoise.json next to the weights."""
        super().save_model(output_dir, _internal_call)  # type: ignore[misc]
        trainer: Any = self
        if trainer.args.should_save:
            write_setting(output_dir or trainer.args.output_dir, self.noise_setting)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As in the Trainer; before its last file, which says that it is whole, come those of the trackers."""
        trainer: Any = self
        folder = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
        with saving(folder):
            for callback in trainer.callback_handler.callbacks:
                if hasattr(callback, "watch"):
                    callback.save(trainer.args, trainer.state)
            super()._save_checkpoint(*args, **kwargs)  # type: ignore[misc]

    def _save_rng_state(self, output_dir: str) -> None:
        """Of all processes, before the first writes the last file."""
        super()._save_rng_state(output_dir)  # type: ignore[misc]
        self.accelerator.wait_for_everyone()  # type: ignore[attr-defined]

    def _load_from_checkpoint(self, checkpoint: str, *args: Any, **kwargs: Any) -> None:
        with loading(Path(checkpoint)):
            super()._load_from_checkpoint(checkpoint, *args, **kwargs)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with loading(Path(checkpoint or "")):
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with loading(Path(checkpoint or "")):
            super()._load_rng_state(checkpoint)  # type: ignore[misc]

    def floating_point_ops(self, inputs: Any) -> int:
        """As in the Trainer, over all sides."""
        return passes(self.noise, self.dials) * super().floating_point_ops(inputs)  # type: ignore[misc]

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of all sides of one micro-batch; returns its loss, checked to be finite."""
        trainer: Any = self
        step = trainer.state.global_step
        self._micro = (step, self._micro[1] + 1 if self._micro[0] == step else 0)
        one_pass = partial(super().training_step, model, inputs, num_items_in_batch)  # type: ignore[misc]
        # Batches that a Trainer generates itself (GRPO) must not be made twice.
        whole = self.pair_mode == "doubled" or "input_ids" not in inputs
        loss = one_pass() if self.noise is None or whole else self._in_turn(model, one_pass)
        self._require_finite(loss)
        return loss

    def _require_finite(self, loss: Tensor) -> None:
        """`Diverged` on all processes: otherwise the others would wait for the one that stopped."""
        trainer: Any = self
        found = trainer.accelerator.gather(loss.detach().reshape(1)) if trainer.args.world_size > 1 else loss.reshape(1)
        bad = (~found.isfinite()).nonzero().flatten().tolist()
        if bad:
            raise Diverged(self._not_finite(float(found[bad[0]]), bad[0] if len(found) > 1 else None))

    def _in_turn(self, model: nn.Module, one_pass: Callable[[], Tensor]) -> Tensor:
        """`one_pass()` for one side after the other; gradients are exchanged once, with the last."""
        trainer: Any = self
        sides = list(side_weights(self.attached(model), self.dials, self._micro))
        room = recomputed(trainer.model) if len(sides) > 1 and adds_gradients(trainer.model) else nullcontext()
        first, *others = sides
        try:
            losses = [self._one_side(first, model, one_pass, last=not others)]
            with room:
                losses += [self._one_side(side, model, one_pass, last=side == sides[-1]) for side in others]
        finally:
            self._side = None
        return torch.stack(losses).sum()

    def _one_side(self, side: str, model: nn.Module, one_pass: Callable[[], Tensor], *, last: bool) -> Tensor:
        trainer: Any = self
        self._side = side
        with nullcontext() if last else trainer.accelerator.no_sync(model):
            return one_pass()

    def _not_finite(self, loss: float, process: int | None) -> str:
        kept = last_whole_checkpoint(self.args.output_dir)  # type: ignore[attr-defined]
        where = f"step {self._micro[0]}, micro-step {self._micro[1]}"
        where += "" if process is None else f" on process {process}"
        advice = f"the last checkpoint is {kept}" if kept else "there is no checkpoint yet"
        return (
            f"loss is {loss} at {where}: stopped before the weights were changed; {advice}; "
            "lower the learning rate or alpha"
        )

    def compute_loss(
        self, model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The Trainer's loss under the noise; of a pair, the mean over both sides; with dials, their objective."""
        plain = partial(super().compute_loss, model, return_outputs=return_outputs)  # type: ignore[misc]
        trainer: Any = self
        if self.noise is None or not trainer.model.training:
            return plain(inputs, num_items_in_batch=num_items_in_batch)
        if "inputs_embeds" in inputs:
            raise InputError("noise needs input_ids: with inputs_embeds the embedding table never runs")
        noise = self.attached(model)
        one_batch = "input_ids" in inputs and "KL_input_ids" not in inputs
        plan = noise.plan(inputs, self._micro) if one_batch else NoisePlan(None, self._micro)
        sides = side_weights(noise, self.dials, self._micro)
        clean = None
        if self.observer is not None and "none" not in sides and self._side in (None, *list(sides)[:1]):
            quiet = noise.using(replace(plan, side="none"))
            with torch.no_grad(), torch.random.fork_rng(), quiet, unrecorded(self):
                clean = _loss_of(plain(dict(inputs), num_items_in_batch=num_items_in_batch))
        if self._side is not None:
            sides = {self._side: sides[self._side]}
        results = list(self._passes(plain, noise, plan, inputs, num_items_in_batch, sides))
        for side, _, found in results:
            if side == "none":
                clean = _loss_of(found).detach()
                self._clean.add(clean, self._micro, averaged=num_items_in_batch is None)
        result = _weighted_sum([(weight, found) for _, weight, found in results])
        if self.observer is not None:
            self.observer.losses(_loss_of(result).detach(), clean, averaged=num_items_in_batch is None)
        return result

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in the Trainer, with the clean loss next to the loss if steps compute it."""
        if "loss" in logs and (clean := self._clean.take()) is not None:
            logs["clean_loss"] = float(self.accelerator.reduce(clean, "mean"))  # type: ignore[attr-defined]
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _passes(
        self,
        plain: partial[Any],
        noise: Attached,
        plan: NoisePlan,
        inputs: Mapping[str, Any],
        count: Any,
        sides: dict[str, float],
    ) -> Iterator[tuple[str, float, Any]]:
        """(side, weight, the Trainer's loss) of each of `sides`; "both", in one batch, for two of equal weight."""
        rest = dict(sides)
        if "first" in sides and sides["first"] == sides.get("second"):
            yield "both", rest.pop("first") + rest.pop("second"), self._doubled(plain, noise, plan, inputs, count)
        for side, weight in rest.items():
            # Each side gets its own copy of the ids: they identify the draw when the backward pass reruns the forward.
            own = inputs
            if len(sides) > 1:
                own = {key: value.clone() if key == "input_ids" else value for key, value in inputs.items()}
            with noise.using(replace(plan, side=side)):
                loss = plain(own, num_items_in_batch=count)
            yield side, weight, loss

    def _doubled(self, plain: Any, noise: Attached, plan: NoisePlan, inputs: Mapping[str, Any], count: Any) -> Any:
        trainer: Any = self
        apart = partial(one_after_the_other, plain, noise, plan, inputs, count)
        if self._coupled or sides_apart(self, inputs):
            return apart()
        if layout(inputs) == "tokens" and not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            noise.require_documents_apart(inputs)  # sharded, a forward on one process would wait for the others

        def doubled() -> Any:
            with noise.using(replace(plan, side=layout(inputs))):
                return plain(double_batch(inputs), num_items_in_batch=None if count is None else 2 * count)

        if self._coupled is None:
            with unrecorded(self):
                self._coupled = couples_rows(trainer.model, noise, doubled, apart, trainer.args.device)
            if trainer.args.world_size > 1:  # all processes call the model equally often
                found = torch.tensor(float(self._coupled), device=trainer.args.device)
                self._coupled = bool(trainer.accelerator.reduce(found) > 0)
        return apart() if self._coupled else doubled()


def _loss_of(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def _weighted_sum(passes: list[tuple[float, Any]]) -> Any:
    """Σ weight · loss, with the outputs of the only pass if they were requested."""
    outputs = [found[1:] for _, found in passes if isinstance(found, tuple)]
    if len(outputs) > 1:
        raise InputError("several passes have no single output to return; call compute_loss with return_outputs=False")
    loss = sum(weight * _loss_of(found) for weight, found in passes)
    return (loss, *outputs[0]) if outputs else loss
