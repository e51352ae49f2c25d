"""The rows of a run: those to train on and those held out."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from symnoise.core import InputError, track
from symnoise.data import Example, Source, fitting
from symnoise.finetune.settings import TrainSettings


@dataclass(frozen=True)
class Rows:
    """Tokenized rows, for training and held out, with their provenance."""

    training: list[dict[str, list[int]]]
    held_out: list[dict[str, list[int]]]
    provenance: dict[str, Any]


def read_rows(settings: TrainSettings, loaded: Any) -> Rows:
    """Rows that have something to score within `max_length` tokens; the first ones are held out.

    No more rows are read than needed. If all are, they are read before they are encoded, so that there is a bar.

    Raises:
        InputError: If the form is not the required one, or no row is left to train on.
    """
    wanted = settings.rows + settings.held_out(settings.rows) if settings.rows else None
    source = Source(settings.data, strict=settings.strict, whole=wanted is None)
    examples: Iterable[Example] = source if wanted else track(tuple(source), "reading rows")
    limits = {"max_length": settings.max_length, "model": loaded.model}
    chosen = list(islice(fitting(examples, source.leave_out, loaded.tokenizer, **limits), wanted))
    data = source.data([example for example, _ in chosen])
    require("form", settings.form, data.form)
    kept = [row for _, row in chosen]
    count = settings.held_out(settings.rows if wanted == len(kept) else len(kept))
    if wanted and len(kept) < wanted:
        warnings.warn(
            f"{settings.data}: {len(kept)} rows can be used, of {wanted} asked for: {len(kept) - count} to train on, "
            f"{count} held out",
            stacklevel=2,
        )
    held_out, training = kept[:count], kept[count:]
    if not training:
        raise InputError(
            f"{settings.data}: of its rows {len(kept)} fit {settings.max_length} tokens and {count} are "
            "held out, so none is left to train on; raise max_length or lower eval_rows"
        )
    return Rows(training, held_out, data.provenance())


def require(what: str, wanted: str, found: str) -> None:
    """`InputError` if `found` is not what is `wanted`; an empty `wanted` accepts anything."""
    if wanted and wanted != found:
        raise InputError(f"the run asks for the {what} {wanted!r}, but this is {found!r}; change one of the two")
