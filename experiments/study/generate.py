"""Replies of one run to held-out prompts: greedy, with each repetition penalty of the study.

    python -m experiments.study.generate STUDY.yaml symnoise_a10_s3

NEFTune's authors generate greedily with repetition penalty 1.2; 1 is without.
"""

import time
from pathlib import Path
from typing import Any

import torch

from experiments.study.command import run_command
from experiments.study.results import best_is_end, processor, records, weights
from experiments.study.spec import Run, Study
from experiments.study.texts import held_out
from symnoise.core import provenance, write_json
from symnoise.data import Example, encode_row
from symnoise.models import LoadedModel

BATCH = 64


def generate(study: Study, run: Run, folder: Path) -> None:
    """Write replies.json: prompt, reference and reply for each decoding, at the best point and at the end.

    seconds: of the whole step, with loading the model and the data.
    """
    place, options, started = folder / run.name, study.generating, time.perf_counter()
    found: list[dict[str, Any]] = []
    tokens = 0
    if records(place / "train.json")["status"] == "done":
        for when in ("best", "end"):
            if when == "end" and best_is_end(place):
                found += [{**reply, "when": when} for reply in found]
                continue
            source = weights(place, when)
            examples = held_out(study, source.tokenizer, source.model)[: options.prompts]
            prompts = prompt_ids(source, examples)
            for penalty in options.repetition_penalties:
                replies = greedy(source, prompts, options.max_new_tokens, penalty)
                tokens += sum(len(reply) for reply in replies)
                found += [
                    {"when": when, "decoding": decoding(penalty), **first_turn(example), "tokens": len(reply)}
                    | {"reply": source.tokenizer.decode(reply, skip_special_tokens=True).strip()}
                    for example, reply in zip(examples, replies, strict=True)
                ]
    seconds = time.perf_counter() - started
    facts = {"seconds": seconds, "tokens_per_second": tokens / seconds, "processor": processor()}
    record = {"run": run.name, "measured_by": study.measured_by, "replies": found}
    write_json(place / "replies.json", record | facts | provenance())


def first_turn(example: Example) -> dict[str, str]:
    """The first prompt of a conversation and the reply to it, which is what is asked for here; plain text has one."""
    texts = dict(reversed(example.messages))  # role -> its first text
    if example.plain:
        return {"prompt": texts.get("prompt", ""), "reference": texts["completion"]}
    return {"prompt": texts["user"], "reference": texts["assistant"]}


def decoding(penalty: float) -> str:
    """What a repetition penalty is called in tables."""
    return "greedy" if penalty == 1 else f"repetition penalty {penalty:g}"


def prompt_ids(source: LoadedModel, examples: list[Example]) -> list[list[int]]:
    """The tokens of each conversation before its first reply."""
    rows = [encode_row(example, source.tokenizer, max_length=10**6, model=None) for example in examples]
    return [row["input_ids"][: _first_scored(row["labels"])] for row in rows]


def _first_scored(labels: list[int]) -> int:
    return next(t for t, label in enumerate(labels) if label != -100)


def greedy(source: LoadedModel, prompts: list[list[int]], new_tokens: int, penalty: float) -> list[list[int]]:
    """The reply to each prompt, up to the end mark; prompts of like length share a batch, padded on the left."""
    tokenizer, model = source.tokenizer, source.model
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    replies: dict[int, list[int]] = {}
    for at in range(0, len(order), BATCH):
        chosen = order[at : at + BATCH]
        width = max(len(prompts[i]) for i in chosen)
        padded = [[pad] * (width - len(prompts[i])) + prompts[i] for i in chosen]
        mask = [[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen]
        made = model.generate(
            input_ids=torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=penalty,
            max_new_tokens=new_tokens,
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
        )
        for i, reply in zip(chosen, made[:, width:].tolist(), strict=True):
            end = reply.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in reply else len(reply)
            replies[i] = reply[:end]
    return [replies[i] for i in range(len(prompts))]


if __name__ == "__main__":
    run_command(generate)()
