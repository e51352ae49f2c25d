"""Conversations as token ids: which tokens a model reads, and which of them are scored.

With the tokenizer's own chat template where it has one, else with the template of Stanford Alpaca (Taori et al. 2023,
train.py). A template may add text of its own, which the model reads, and which noise perturbs, like any other:
SmolLM2's puts "You are a helpful AI assistant named SmolLM, trained by Hugging Face" as a system message before
conversations that bring none (21 tokens with its marks).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from symnoise.core import InputError, reason
from symnoise.data.load import Example

IGNORED = -100

_PREAMBLE = (
    "Below is an instruction that describes a task{more}. Write a response that appropriately completes the request."
)
_MORE = ", paired with an input that provides further context"
_INSTRUCTION = "\n\n### Instruction:\n{text}"
_INPUT = "\n\n### Input:\n{text}"
_RESPONSE = "\n\n### Response:"
# Llama 3's template writes today's date where none is given; its own default makes runs repeatable.
_DATE = "26 Jul 2024"


def encode(
    examples: Iterable[Example], tokenizer: Any, *, max_length: int, model: Any = None
) -> dict[str, torch.Tensor]:
    """A batch: `input_ids`, `attention_mask` and `labels`, int64, right-padded to the longest row.

    input_ids, attention_mask: (batch, token); the mask is 1 at real tokens, so its row sums are the true lengths.
    labels: (batch, token); the token ids of every assistant reply, its end-of-turn mark included, and -100 elsewhere,
            padding included.

    Labels are not shifted: like Transformers, a causal model predicts the label at t from the tokens before t.

    `model` says whether the text is for an encoder-decoder, and is checked for room for the tokens. There the last
    reply alone, ended by EOS, is the decoder's target, `labels` (batch, target), and what comes before it is the input.

    Rows longer than `max_length` (the target too) keep their beginning. Raises `InputError` naming the row where that
    leaves nothing to score; `usable` picks the examples where it does not.
    """
    rows = [encode_row(example, tokenizer, max_length=max_length, model=model) for example in examples]
    if not rows:
        raise InputError("there are no examples to encode")
    return collate(rows, tokenizer)


def encode_row(example: Example, tokenizer: Any, *, max_length: int, model: Any = None) -> dict[str, list[int]]:
    """`input_ids` and `labels` of one example, as `encode` has them before padding."""
    if max_length < 2:
        raise InputError(f"the maximum length is {max_length}: a row needs at least 2 tokens")
    seq2seq = _is_seq2seq(model)
    ids, labels = _tokens(example, tokenizer, seq2seq)
    first = _first_scored(labels, seq2seq)
    if first is None:
        raise InputError(f"row {example.row}: no token of its reply can be scored; leave it out")
    if first >= max_length:
        raise InputError(
            f"row {example.row}: its reply begins after {first} tokens and is cut off entirely at {max_length}; "
            f"set the maximum length (--max-length) to {first + 1} or more, or leave the row out"
        )
    ids, labels = ids[:max_length], labels[:max_length]
    if model is not None:
        _check_room(example, ids, labels, model)
    return {"input_ids": ids, "labels": labels}


def collate(rows: Sequence[dict[str, list[int]]], tokenizer: Any) -> dict[str, torch.Tensor]:
    """Rows of `encode_row` as one batch; any padding token does, since the mask and the labels hide it."""
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    ids = [row["input_ids"] for row in rows]
    return {
        "input_ids": _padded(ids, pad),
        "attention_mask": _padded([[1] * len(row) for row in ids], 0),
        "labels": _padded([row["labels"] for row in rows], IGNORED),
    }


def usable(examples: Iterable[Example], tokenizer: Any, *, max_length: int, model: Any = None) -> list[Example]:
    """The examples, in order, of which `max_length` tokens leave something to score; say how many were left out."""
    seq2seq = _is_seq2seq(model)
    kept = []
    for example in examples:
        first = _first_scored(_tokens(example, tokenizer, seq2seq)[1], seq2seq)
        if first is not None and first < max_length:
            kept.append(example)
    return kept


def _is_seq2seq(model: Any) -> bool:
    return model is not None and bool(model.config.is_encoder_decoder)


def _first_scored(labels: list[int], seq2seq: bool) -> int | None:
    """Position of the first label that counts. A causal model predicts from position 1 on."""
    return next((t for t, label in enumerate(labels) if label != IGNORED and (t > 0 or seq2seq)), None)


def _padded(rows: Sequence[list[int]], value: int) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=torch.int64)


def _check_room(example: Example, ids: list[int], labels: list[int], model: Any) -> None:
    longest, room = max(len(ids), len(labels)), getattr(model.config, "max_position_embeddings", None)
    if room is not None and longest > room:
        raise InputError(f"row {example.row} has {longest} tokens but the model room for {room}: lower --max-length")
    if max(*ids, *labels) >= model.get_input_embeddings().num_embeddings:
        raise InputError(f"row {example.row}: a token id is not in the model's embedding table; use its own tokenizer")


def _tokens(example: Example, tokenizer: Any, seq2seq: bool) -> tuple[list[int], list[int]]:
    """Token ids and labels, whole. For an encoder-decoder, those of the input and of the target."""
    chat = bool(tokenizer.chat_template)
    text, replies = _chat(example, tokenizer) if chat else _alpaca(example, tokenizer.eos_token or "")

    def ids_of(part: str) -> list[int]:
        # A chat template writes BOS itself; to plain text the tokenizer adds what it is used to.
        return list(tokenizer(part, add_special_tokens=not chat, verbose=False)["input_ids"])

    if seq2seq:
        target = ids_of(example.messages[-1][1])
        eos = tokenizer.eos_token_id
        return ids_of(text[: replies[-1][0]]), target if eos in (None, target[-1]) else [*target, eos]
    ids = ids_of(text)
    if ids[-2:] == [tokenizer.eos_token_id] * 2:  # once from the template, once from the tokenizer
        ids.pop()
    labels = [IGNORED] * len(ids)
    for start, end in replies:
        # Tokens are matched from the left, not counted: a token that straddles the boundary is the reply's at its
        # start, and is not at its end.
        a, b = _shared(ids, ids_of(text[:start])), _shared(ids, ids_of(text[:end]))
        labels[a:b] = ids[a:b]
    return ids, labels


def _shared(ids: list[int], others: list[int]) -> int:
    """Length of the common beginning."""
    return next((t for t, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b), min(len(ids), len(others)))


Spans = list[tuple[int, int]]


def _alpaca(example: Example, eos: str) -> tuple[str, Spans]:
    """The text, and where each reply with its EOS stands in it.

    Stanford Alpaca defines one instruction and one response. Later turns follow the EOS as FastChat has them, without
    the preamble, and a system message takes the preamble's place.
    """
    text = ""
    replies: Spans = []
    for role, content in example.messages:
        if role == "system":
            text += content
        elif role == "user":
            text = text or _PREAMBLE.format(more=_MORE if example.input else "")
            text += _INSTRUCTION.format(text=content)
            text += _INPUT.format(text=example.input) if example.input and not replies else ""
        else:
            text += _RESPONSE
            replies.append((len(text), len(text) + len(content) + len(eos)))
            text += content + eos
    return text, replies


def _chat(example: Example, tokenizer: Any) -> tuple[str, Spans]:
    """The text, and where each reply with its end-of-turn mark stands in it.

    A reply is what the conversation up to and with it has more than its prompt, which is the turns before it and the
    mark that asks for a reply. White space after the end-of-turn mark is the template's and not the reply's.
    """
    messages = [{"role": role, "content": content} for role, content in example.messages]
    if example.input:
        messages[0]["content"] += "\n\n" + example.input
    render = _renderer(example, tokenizer)
    text = render(messages, False)
    replies: Spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, through = render(messages[:i], True), render(messages[: i + 1], False)
        if not (text.startswith(through) and through.startswith(prompt)):
            raise InputError(
                f"row {example.row}: the model's chat template rewrites earlier turns as the conversation grows, so "
                "its replies cannot be told apart; use single-turn data, or set tokenizer.chat_template to another"
            )
        bare = through.rstrip()
        marked = not bare.endswith(message["content"].rstrip())
        replies.append((len(prompt), max(len(bare) if marked else len(through), len(prompt))))
    return text, replies


def _renderer(example: Example, tokenizer: Any) -> Callable[[list[dict[str, str]], bool], str]:
    def render(messages: list[dict[str, str]], prompt: bool) -> str:
        try:
            return str(
                tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt, date_string=_DATE)
            )
        except Exception as error:  # templates raise what they like
            raise InputError(
                f"row {example.row}: the model's chat template does not take it: {reason(error)}; leave it out"
            ) from error

    return render
