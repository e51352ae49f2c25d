"""The model every run of a study starts from: loaded, or a micro model pretrained here.

python -m experiments.study.base STUDY.yaml
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.study.command import study_command
from experiments.study.results import records
from experiments.study.spec import MICRO, Pretraining, Study
from experiments.study.texts import split
from symnoise.core import InputError, generator, made_in_one_step, provenance, saving, track, write_json
from symnoise.data import Example, collate, encode_row, load_data, usable
from symnoise.models import LoadedModel, load_model
from symnoise.models.muted import muted

MARKS = ("<pad>", "<eos>", "<user>", "<assistant>")
# One token per turn: a template made of words would be most of what a model of this size reads.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<assistant>"
    "{% generation %}{{ message['content'] }}<eos>{% endgeneration %}"
    "{% else %}<user>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def base_model(study: Study, folder: Path) -> LoadedModel:
    """The model before fine-tuning; one that the study pretrained is in a folder next to `folder`."""
    return load_model(str(folder.parent / study.base) if study.model == MICRO else study.model)


def base(study: Study, folder: Path) -> None:
    """Write base.json. A study with its own model pretrains it first, unless another study already has.

    `InputError` where that one was pretrained on other rows under the same name.
    """
    place = folder.parent / study.base
    record = place / "pretraining.json"
    found: dict[str, Any] = {}
    if study.pretraining:
        other = study.pretraining.data
        data = load_data(other) if other else split(study).data
        if not place.is_dir():
            with made_in_one_step(place) as fresh:
                losses = pretrain(study.pretraining, list(data) if other else split(study).rest, fresh)
                write_json(fresh / record.name, {"pretrained_on": data.sha256, **losses})
        found = records(record)
        if found.get("pretrained_on") != data.sha256:
            raise InputError(f"{place} was not pretrained on {data.name} as it is now; remove it, and it is made anew")
    write_json(folder / "base.json", {**found, **base_model(study, folder).provenance(), **provenance()})


def pretrain(options: Pretraining, text: list[Example], folder: Path) -> dict[str, Any]:
    """Pretrain by next-token prediction, with AdamW and a cosine schedule, and save the model in `folder`.

    The text is plain, with a prompt and its reply on one line each; unless `options.chat`, only fine-tuning teaches the
    chat template. Returns the mean loss of the first 50 and of the last 50 steps.
    """
    text = text[: options.rows]
    if len(text) < options.batch:
        raise InputError(f"{len(text)} rows are left for pretraining; lower training.pool or measuring.held_out")
    tokenizer = vocabulary(text, options.vocabulary, TEMPLATE if options.chat else None)
    model = _untrained(options, tokenizer)
    losses = _train(model, tokenizer, _token_ids(text, tokenizer, model, options), options)
    with muted(), saving(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    first, last = losses[:50], losses[-50:]
    return {"pretraining_loss": [sum(first) / len(first), sum(last) / len(last)]}


def _untrained(options: Pretraining, tokenizer: Any) -> Any:
    """A Llama with initial weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 8 // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        max_position_embeddings=4 * options.max_length,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # Transformers draws initial weights from the global generator
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    if options.embeddings:
        start_from_table(model, borrowed_table(tokenizer, options.embeddings, options.hidden))
    return model


def _token_ids(text: list[Example], tokenizer: Any, model: Any, options: Pretraining) -> list[dict[str, list[int]]]:
    """The rows as plain text, truncated to `max_length`, or as conversations of at most that many tokens."""
    if not options.chat:
        lines = ["\n".join(content for _, content in example.messages) for example in text]
        ended = [ids + [tokenizer.eos_token_id] for ids in tokenizer(lines, add_special_tokens=False)["input_ids"]]
        return [{"input_ids": ids[: options.max_length]} for ids in ended]
    limits = {"max_length": options.max_length, "model": model}
    rows = [encode_row(example, tokenizer, **limits) for example in usable(text, tokenizer, **limits)]
    if len(rows) < options.batch:
        raise InputError(f"only {len(rows)} conversations fit; raise pretraining.max_length")
    return rows


def _train(model: Any, tokenizer: Any, rows: list[dict[str, list[int]]], options: Pretraining) -> list[float]:
    """Train on all tokens of randomly drawn rows; return the loss of each step."""
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, weight_decay=0.1, betas=(0.9, 0.95))
    warm_up = max(1, options.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * s / options.steps)))
    )
    owner, losses = generator(0, "pretraining"), []
    model.train()
    for _ in track(range(options.steps), "pretraining"):
        chosen = torch.randint(len(rows), (options.batch,), generator=owner).tolist()
        batch = collate([rows[i] | {"labels": rows[i]["input_ids"]} for i in chosen], tokenizer)
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def borrowed_table(tokenizer: Any, name: str, width: int) -> Tensor:
    """Embeddings for `tokenizer`'s tokens with the geometry of the model `name`, (vocabulary, `width`), float32.

    A token's row is the mean of that model's embeddings of its text, projected onto the `width` leading principal
    directions of all such rows and rescaled to its original norm. So at a given α and length ‖ε_t‖/‖x_t‖ is that of
    the other model, whatever the widths. Special tokens without text get the mean norm in a random direction.
    """
    source = load_model(name)
    table = source.model.get_input_embeddings().weight.detach().float()
    texts = ["" if i in tokenizer.all_special_ids else tokenizer.decode([i]) for i in range(len(tokenizer))]
    found = [source.tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in texts]
    rows = torch.stack([table[ids].mean(0) if ids else torch.zeros(table.shape[1]) for ids in found])
    known = rows.norm(dim=1) > 0
    _, _, directions = torch.linalg.svd(rows[known], full_matrices=False)
    projected = rows @ directions[:width].T
    random = torch.randn(len(rows), width, generator=generator(0, "rows without text"))
    projected = torch.where(known[:, None], projected, random)
    sizes = torch.where(known, rows.norm(dim=1), rows[known].norm(dim=1).mean())
    return projected / projected.norm(dim=1, keepdim=True) * sizes[:, None]


def start_from_table(model: Any, table: Tensor) -> None:
    """Copy in the embeddings; the gain of the final norm keeps the initial logits of a tied head as small as usual."""
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(table)
        model.model.norm.weight.fill_(0.02 * table.shape[1] ** 0.5 / float(table.norm(dim=1).mean()))


def vocabulary(text: list[Example], size: int, template: str | None = None) -> Any:
    """A byte-level BPE tokenizer of `size` tokens, trained on the text, with a chat template if one is given."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(MARKS if template else MARKS[:2]),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((content for example in text for _, content in example.messages), trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=MARKS[0], eos_token=MARKS[1])
    made.chat_template = template
    return made


if __name__ == "__main__":
    study_command(base)()
