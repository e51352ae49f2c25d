"""Conversations as token ids: which tokens a model reads, and which of them are scored.

Uses the tokenizer's own chat template if it has one, else the template of Stanford Alpaca (Taori et al. 2023,
train.py). A template may add its own text, which the model reads and noise perturbs like any other. SmolLM2's puts "You
are a helpful AI assistant named SmolLM, trained by Hugging Face" as a system message before conversations without one
(21 tokens with its markers).
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch

from symnoise.core import InputError
from symnoise.data.example import Example, RowError, is_text
from symnoise.data.rendering import Spans
from symnoise.data.templates import render

IGNORED = -100

_PREAMBLE = (
    "Below is an instruction that describes a task{more}. Write a response that appropriately completes the request."
)
_MORE = ", paired with an input that provides further context"
_INSTRUCTION = "\n\n### Instruction:\n{text}"
_INPUT = "\n\n### Input:\n{text}"
_RESPONSE = "\n\n### Response:"


class ReplyCutOffError(RowError):
    """Truncation leaves nothing to score in this row; a larger maximum length would."""


def encode(
    examples: Iterable[Example], tokenizer: Any, *, max_length: int, model: Any = None
) -> dict[str, torch.Tensor]:
    """Tokenize examples as one batch, right-padded to the longest row.

    Every assistant reply is scored, including its end-of-turn marker. Plain text is tokenized as it is, with EOS at its
    end, and its completion is scored. Labels are not shifted: as in Transformers, a causal model predicts the label at
    t from the tokens before t.

    For an encoder-decoder the target is the last reply alone, ended by EOS, and the input is everything before it.

    Args:
        examples: As from `load_data`.
        tokenizer: A Transformers tokenizer.
        max_length: Longer rows (and targets) are truncated to this many tokens.
        model: Tells whether the text is for an encoder-decoder, and is checked for room for the tokens.

    Returns:
        `input_ids` and `attention_mask`, (batch, token), and `labels`, (batch, token) or (batch, target) for an
        encoder-decoder; all int64. The mask is 1 at real tokens, so its row sums are the true lengths. Labels are -100
        where nothing is scored, padding included.

    Raises:
        RowError: If truncation leaves nothing to score in a row; `usable` filters such examples out.
        InputError: For no examples, or for something else than examples.
    """
    examples = list(examples)
    if strange := [type(example).__name__ for example in examples if not isinstance(example, Example)]:
        raise InputError(f"encode takes examples, such as those of load_data; got {strange[0]}")
    rows = [encode_row(example, tokenizer, max_length=max_length, model=model) for example in examples]
    if not rows:
        raise InputError("there are no examples to encode")
    return collate(rows, tokenizer)


def encode_row(example: Example, tokenizer: Any, *, max_length: int, model: Any = None) -> dict[str, list[int]]:
    """`input_ids` and `labels` of one example, as in `encode` before padding."""
    if max_length < 2:
        raise InputError(f"the maximum length is {max_length}: a row needs at least 2 tokens")
    seq2seq = model is not None and bool(model.config.is_encoder_decoder)
    ids, labels = _tokens(example, tokenizer, seq2seq)
    # A causal model predicts from position 1 on.
    first = next((t for t, label in enumerate(labels) if label != IGNORED and (t > 0 or seq2seq)), None)
    if first is None:
        raise RowError(example.row, "no token of its reply can be scored")
    if first >= max_length:
        raise ReplyCutOffError(
            example.row,
            f"its reply is cut off entirely at {max_length} tokens",
            advice=f"set the maximum length (--max-length) to {first + 1} or more, or leave it out",
        )
    ids, labels = ids[:max_length], labels[:max_length]
    if model is not None:
        _check_room(example, ids, labels, model)
    return {"input_ids": ids, "labels": labels}


def prompt_format(tokenizer: Any, form: str) -> str:
    """Prompt format as text: a conversation of one turn, rendered with {question} and {reply} instead of its texts.

    Args:
        tokenizer: A Transformers tokenizer.
        form: Form of the data; rows of "text" and "prompt-completion" are tokenized as they are.
    """
    if form in ("text", "prompt-completion"):
        return "{prompt}{completion}" + (tokenizer.eos_token or "")
    try:
        text, _, _ = _text_and_replies(Example((("user", "{question}"), ("assistant", "{reply}"))), tokenizer)
    except RowError:
        return "the chat template in this folder"
    return text


def fitting(
    examples: Iterable[Example], leave_out: Callable[[RowError], None], tokenizer: Any, *, max_length: int, model: Any
) -> Iterator[tuple[Example, dict[str, list[int]]]]:
    """Encode examples one by one, skipping those that cannot be encoded.

    Args:
        examples: As from `load_data`.
        leave_out: Called with the error of each skipped example.
        tokenizer: A Transformers tokenizer.
        max_length: Longer rows are truncated to this many tokens.
        model: As in `encode`.

    Returns:
        An iterator over (example, its `input_ids` and `labels`).
    """
    for example in examples:
        try:
            row = encode_row(example, tokenizer, max_length=max_length, model=model)
        except RowError as error:
            leave_out(error)
        else:
            yield example, row


def collate(rows: Sequence[dict[str, list[int]]], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Pad encoded rows to one batch; any padding token will do, since the mask and the labels hide it.

    Args:
        rows: `input_ids` and `labels` of each row.
        tokenizer: Gives the padding token.

    Returns:
        `input_ids`, `attention_mask` and `labels`, as from `encode`.
    """
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    ids = [row["input_ids"] for row in rows]
    return {
        "input_ids": _padded(ids, pad),
        "attention_mask": _padded([[1] * len(row) for row in ids], 0),
        "labels": _padded([row["labels"] for row in rows], IGNORED),
    }


def usable(examples: Iterable[Example], tokenizer: Any, *, max_length: int, model: Any = None) -> list[Example]:
    """Examples that `encode` accepts, in order; callers should report how many were skipped.

    Args:
        examples: As from `load_data`.
        tokenizer: A Transformers tokenizer.
        max_length: Longer rows are truncated to this many tokens.
        model: As in `encode`.

    Returns:
        The examples; empty if truncation leaves nothing to score in any.

    Raises:
        RowError: If none is accepted for another reason than its length.
    """
    errors: list[RowError] = []
    kept = [example for example, _ in fitting(examples, errors.append, tokenizer, max_length=max_length, model=model)]
    if not kept and (others := [error for error in errors if not isinstance(error, ReplyCutOffError)]):
        raise others[0]
    return kept


def _padded(rows: Sequence[list[int]], value: int) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=torch.int64)


def _check_room(example: Example, ids: list[int], labels: list[int], model: Any) -> None:
    longest, room = max(len(ids), len(labels)), getattr(model.config, "max_position_embeddings", None)
    if room is not None and longest > room:
        advice = f"set the maximum length (--max-length) to {room} or less"
        raise RowError(example.row, f"it has more tokens than the {room} that the model has room for", advice=advice)
    if max(*ids, *labels) >= model.get_input_embeddings().num_embeddings:
        raise InputError(f"row {example.row}: a token id is not in the model's embedding table; use its own tokenizer")


def _tokens(example: Example, tokenizer: Any, seq2seq: bool) -> tuple[list[int], list[int]]:
    """Untruncated token ids and labels. For an encoder-decoder, those of the input and of the target."""
    text, replies, written = _text_and_replies(example, tokenizer)
    if not is_text(text):
        raise RowError(example.row, "it has a lone surrogate, which no tokenizer reads")
    if seq2seq:
        return _input_and_target(example, tokenizer, text[: replies[-1][0]], written)
    ids, places = _ids_and_places(tokenizer, text, replies, written)
    if ids[-2:] == [tokenizer.eos_token_id] * 2:  # once from the template, once from the tokenizer
        ids.pop()
    if ids[:2] == [tokenizer.bos_token_id] * 2:  # once from the text, once from the tokenizer
        ids, places = ids[1:], [(max(start - 1, 0), end - 1) for start, end in places]
    labels = [IGNORED] * len(ids)
    for start, end in places:
        labels[start:end] = ids[start:end]
    return ids, labels


def _text_and_replies(example: Example, tokenizer: Any) -> tuple[str, Spans, bool]:
    """The text, the span of each reply with its end-of-turn marker, and whether special tokens are already in the text.

    A chat template writes BOS itself; to other text the tokenizer adds its usual special tokens.
    """
    eos = tokenizer.eos_token or ""
    if example.plain:
        prompt = "".join(text for role, text in example.messages if role == "prompt")
        text = prompt + example.messages[-1][1]
        text += eos if eos and not text.rstrip().endswith(eos) else ""
        return text, [(len(prompt), len(text))], False
    if tokenizer.chat_template:
        return *render(example, tokenizer), True
    return *_alpaca(example, eos), False


def _input_and_target(example: Example, tokenizer: Any, text: str, written: bool) -> tuple[list[int], list[int]]:
    reply = example.messages[-1][1]
    if not (text and reply):
        raise RowError(example.row, f"an encoder-decoder needs {'a text to read' if reply else 'a reply in words'}")
    options = {"add_special_tokens": not written, "verbose": False}
    ids = list(tokenizer(text, **options)["input_ids"])
    # The language, or the vocabulary, of a translator's target is another (NLLB, mBART, Marian).
    target = list(tokenizer(text_target=reply, **options)["input_ids"])
    eos = tokenizer.eos_token_id
    return ids, target if eos in (None, target[-1]) else [*target, eos]


def _ids_and_places(tokenizer: Any, text: str, replies: Spans, written: bool) -> tuple[list[int], Spans]:
    """Token ids, and the span of each reply in them.

    A token that straddles a boundary belongs to the reply at its start, but not at its end.
    """
    options = {"add_special_tokens": not written, "verbose": False}
    if tokenizer.is_fast:
        found = tokenizer(text, return_offsets_mapping=True, **options)
        # End of each token. Tokens of white space and EOS may have no offsets; they follow the previous token.
        ends = list(accumulate((end for _, end in found["offset_mapping"]), max))
        places = [(bisect_right(ends, start), bisect_right(ends, end)) for start, end in replies]
        return list(found["input_ids"]), places

    def ids_of(part: str) -> list[int]:
        return list(tokenizer(part, **options)["input_ids"])

    ids = ids_of(text)
    return ids, [(_shared(ids, ids_of(text[:start])), _shared(ids, ids_of(text[:end]))) for start, end in replies]


def _shared(ids: list[int], others: list[int]) -> int:
    """Length of the common prefix."""
    return next((t for t, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), min(len(ids), len(others)))


def _alpaca(example: Example, eos: str) -> tuple[str, Spans]:
    """The text, and the span of each scored reply with its EOS.

    Stanford Alpaca defines one instruction and one response. Further turns follow the EOS as in FastChat, without the
    preamble, and a system message replaces the preamble.
    """
    text = ""
    replies: Spans = []
    last_user = max(i for i, (role, _) in enumerate(example.messages) if role == "user")
    for i, (role, content) in enumerate(example.messages):
        if role == "tool" or "tool_calls" in example.extra(i):
            advice = "leave it out, or give a chat template that has them (--chat-template)"
            raise RowError(example.row, "the Alpaca template has no tools", turn=i + 1, advice=advice)
        if role == "system":
            text += content
        elif role == "user":
            text = text or _PREAMBLE.format(more=_MORE if example.input else "")
            text += _INSTRUCTION.format(text=content)
            text += _INPUT.format(text=example.input) if example.input and i == last_user else ""
        else:
            text += _RESPONSE
            if i not in example.unscored:
                replies.append((len(text), len(text) + len(content) + len(eos)))
            text += content + eos
    return text, replies
