"""Which outputs of a model are scored, and against which class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from symnoise.core import InputError, lengths


def task_of(model: Any) -> str:
    """What a model predicts, by its class: "causal", "seq2seq" or "masked" language, or classes by "token" or
    "sequence"."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = type(inner).__name__
    for ending, task in (
        ("ForMaskedLM", "masked"),
        ("ForTokenClassification", "token"),
        ("ForSequenceClassification", "sequence"),
    ):
        if name.endswith(ending):
            return task
    return "seq2seq" if getattr(model.config, "is_encoder_decoder", False) else "causal"


@dataclass(frozen=True)
class Targets:
    """The scored outputs of a batch, row by row.

    rows, positions: (scored,) place of each in the model's output; positions are 0 for a sequence classifier.
    classes:         (scored,) class to predict.
    averages:        (batch, scored) matrix that averages over each example's, float64.
    """

    rows: Int[Tensor, " scored"]
    positions: Int[Tensor, " scored"]
    classes: Int[Tensor, " scored"]
    averages: Float[Tensor, "batch scored"]

    @property
    def count(self) -> Int[Tensor, " batch"]:
        """Number of scored outputs per example."""
        return (self.averages != 0).sum(1)


def targets(task: str, ids: Tensor, mask: Tensor, labels: Tensor, model: Any) -> Targets:
    """The `Targets` of a batch: labels[t] at output t − 1 of causal models, at output t of all others.

    Raises `InputError` for shapes that do not match, for a row that is too short or has nothing scored and, for a
    sequence classifier, unless there is one class per row.
    """
    _check_shapes(task, ids, mask, labels, model)
    if task == "sequence":
        labels = labels[:, None]
    scored = labels != -100
    if task in ("masked", "token"):
        scored = scored & (mask != 0)
    if task == "causal":  # a real token that a real one comes before
        scored = F.pad(scored[:, 1:] & (mask[:, 1:] != 0) & (mask[:, :-1] != 0), (0, 1))
        labels = F.pad(labels[:, 1:], (0, 1), value=-100)
    for row in range(len(ids)):
        if task == "causal" and int(lengths(mask)[row]) < 2:
            raise InputError(f"example {row} has length 1 or less: nothing can be predicted; give longer rows")
        if not bool(scored[row].any()):
            raise InputError(f"example {row} has no scored token (all labels are -100); check labels and truncation")
    rows, positions = scored.nonzero(as_tuple=True)
    averages = F.one_hot(rows, len(ids)).T.double() / scored.sum(1)[:, None]
    return Targets(rows, positions, labels[scored], averages)


def _check_shapes(task: str, ids: Tensor, mask: Tensor, labels: Tensor, model: Any) -> None:
    if ids.is_floating_point() or (labels.is_floating_point() and task != "sequence"):
        raise InputError("input_ids and labels must be integers")
    if not len(ids):
        raise InputError("the batch has no rows; give one or more")
    if ids.ndim != 2 or mask.shape != ids.shape:
        raise InputError(f"input_ids {tuple(ids.shape)} and attention_mask {tuple(mask.shape)} must be (batch, token)")
    if task == "sequence":
        kind = getattr(model.config, "problem_type", None)
        if kind not in (None, "single_label_classification") or model.config.num_labels < 2:
            raise InputError(
                "a sequence classifier needs one class per example; regression and several labels have none"
            )
        if labels.shape != ids.shape[:1] or labels.is_floating_point():
            raise InputError(f"labels {tuple(labels.shape)} must be one class per example, {tuple(ids.shape[:1])}")
    elif labels.shape != ids.shape and not (task == "seq2seq" and labels.ndim == 2 and len(labels) == len(ids)):
        raise InputError(f"labels {tuple(labels.shape)} must have the shape of input_ids {tuple(ids.shape)}")


def selected(batch: Mapping[str, Tensor], indices: Tensor, longest: int | None, task: str) -> dict[str, Tensor]:
    """Some rows of a batch, their tokens cut at `longest`; classes and a decoder's tokens are kept whole."""
    whole = ("labels", "decoder_input_ids") if task in ("sequence", "seq2seq") else ()
    kept = {name: tensor[indices.to(tensor.device)] for name, tensor in batch.items()}
    return {name: tensor if name in whole else tensor[:, :longest] for name, tensor in kept.items()}
