"""Replies of a model to AlpacaEval's instructions, in its format."""

import hashlib
import json
from pathlib import Path

from experiments.alpaca_eval.files import Row, add, kept
from experiments.study.generate import BATCH, greedy, prompt_ids
from symnoise.core import InputError, track, write_json
from symnoise.data import Example
from symnoise.models import LoadedModel


def write_replies(
    source: LoadedModel, rows: list[Row], output: Path, *, generator: str, penalty: float, new_tokens: int
) -> None:
    """Write instruction, output, generator and dataset of every row to `output`, in the order of the rows.

    Greedy, with the repetition penalty (1: none). Finished replies are in a hidden file next to `output` until all are
    done; a rerun resumes from them with the same batches, and so with the same replies.
    """
    if output.exists():
        raise InputError(f"{output} exists already; delete it, or choose another --output")
    # A prompt must not depend on the reference, so a placeholder takes the place of the reply.
    prompts = prompt_ids(source, [Example((("user", row["instruction"]), ("assistant", "Yes"))) for row in rows])
    room = getattr(source.model.config, "max_position_embeddings", None)
    longest = max(map(len, prompts))
    if room is not None and longest + new_tokens > room:
        raise InputError(
            f"{source.name} has a context length of {room} tokens: lower --max-new-tokens to {room - longest}"
        )
    digest = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
    settings = {"model": source.provenance(), "prompts": digest, "penalty": penalty, "new_tokens": new_tokens}
    part = output.with_name(f".{output.name}.part")
    before = kept(part)
    if not before:
        add(part, [settings])
    elif before[0] != settings:
        raise InputError(f"{part} was started with other settings; delete it, or choose another --output")
    done = {line["index"]: line["reply"] for line in before[1:]}
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for chosen in track([order[at : at + BATCH] for at in range(0, len(order), BATCH)], "replies"):
        if all(i in done for i in chosen):
            continue
        made = greedy(source, [prompts[i] for i in chosen], new_tokens, penalty)
        texts = [source.tokenizer.decode(reply, skip_special_tokens=True).strip() for reply in made]
        add(part, [{"index": i, "reply": text} for i, text in zip(chosen, texts, strict=True)])
        done |= dict(zip(chosen, texts, strict=True))
    facts = [{"generator": generator, "dataset": row.get("dataset", "alpaca_eval")} for row in rows]
    write_json(
        output, [{"instruction": row["instruction"], "output": done[i]} | facts[i] for i, row in enumerate(rows)]
    )
    part.unlink()
