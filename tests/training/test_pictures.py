"""Vision-language models: noise on the text, whose length alone counts, and none where an image's features go."""

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    TrainingArguments,
)

from symnoise.core import InputError
from symnoise.models import EmbeddingLoss
from symnoise.noise import Noise
from symnoise.training import SymNoiseTrainer, attach
from symnoise.training.documents import document_lengths
from tests.training.ragged import PLAIN_SGD, Gradients, difference, in_order
from tests.training.test_attach import noised

IMAGE = 96


def model() -> LlavaForConditionalGeneration:
    """A tiny LLaVA: four patches per image."""
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2}
    seen = CLIPVisionConfig(hidden_size=16, intermediate_size=16, image_size=16, patch_size=8, **sizes)
    text = LlamaConfig(vocab_size=97, hidden_size=32, intermediate_size=48, **sizes)
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=seen, text_config=text, image_token_index=IMAGE))


def example(row: int, texts: int) -> dict[str, torch.Tensor]:
    """An image between one token and `texts` others."""
    random = torch.Generator().manual_seed(row)
    ids = torch.cat([torch.tensor([5]), torch.full((4,), IMAGE), torch.randint(6, 90, (texts,), generator=random)])
    return {
        "input_ids": ids,
        "labels": ids.masked_fill(ids == IMAGE, -100),
        "pixel_values": torch.randn(3, 16, 16, generator=random),
    }


def collate(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    pad = torch.nn.utils.rnn.pad_sequence
    ids = [torch.as_tensor(e["input_ids"]) for e in examples]
    return {
        "input_ids": pad(ids, batch_first=True),
        "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad([torch.as_tensor(e["labels"]) for e in examples], batch_first=True, padding_value=-100),
        "pixel_values": torch.stack([torch.as_tensor(e["pixel_values"]) for e in examples]),
    }


def test_noise_is_on_the_text_and_its_length_alone_counts() -> None:
    batch = collate([example(0, 7), example(1, 3)])
    epsilon = noised(model(), batch, Noise("rademacher", 5.0))
    text = (batch["attention_mask"] != 0) & (batch["input_ids"] != IMAGE)
    assert float(epsilon[~text].abs().max()) == 0
    torch.testing.assert_close(epsilon.square().sum((1, 2)), torch.full((2,), 25 / 3), rtol=1e-4, atol=0)
    # Each token's share is that of a row of 8 and of 4 tokens.
    shares = epsilon.square().sum(2)
    torch.testing.assert_close(shares[0, 5], torch.tensor(25 / 3 / 8), rtol=1e-4, atol=0)
    torch.testing.assert_close(shares[1, 5], torch.tensor(25 / 3 / 4), rtol=1e-4, atol=0)


def test_a_picture_does_not_end_a_document() -> None:
    ids = torch.tensor([[5, IMAGE, IMAGE, 7, 8, 9, IMAGE, 3]])
    packed = {"input_ids": ids, "position_ids": torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])}
    assert document_lengths(packed, (IMAGE,)).tolist() == [[3, 0, 0, 3, 3, 2, 0, 2]]


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
def test_a_pair_with_pictures_is_the_mean_of_its_sides(tmp_path, mode: str) -> None:
    kept = []
    data = [example(row, texts) for row, texts in enumerate((7, 3))]
    for sign in (None, 1, -1):
        gradients = Gradients()
        arguments = TrainingArguments(
            str(tmp_path), per_device_train_batch_size=2, max_steps=1, save_strategy="no", remove_unused_columns=False,
            **PLAIN_SGD,
        )  # fmt: skip
        noise = Noise.symnoise(5.0) if sign is None else Noise("rademacher", 5.0)
        trainer = SymNoiseTrainer(
            model=model(), args=arguments, train_dataset=data, data_collator=collate, callbacks=[gradients],
            noise=noise, pair_mode=mode,
        )  # fmt: skip
        attached = trainer.attached

        def of_one_side(given, attached=attached, trainer=trainer, sign=sign):
            new, handle = trainer._attached is None, attached(given)
            if new:
                draw = handle.epsilon
                handle.epsilon = lambda *args: (sign or 1) * draw(*args)
            return handle

        trainer.attached = of_one_side
        in_order(trainer).train()
        kept.append(gradients.steps[0])
    pair, first, second = kept
    mean = {name: (first[name] + second[name]) / 2 for name in first}
    assert difference(first, second) > 1e-3
    assert difference(pair, mean) < 1e-5


def test_where_pictures_cannot_be_told_from_text_they_are_refused() -> None:
    batch = collate([example(0, 7)])
    blind = model().train()
    blind.config.image_token_id = None
    with attach(blind, Noise.neftune(5.0)), pytest.raises(InputError, match="which token ids stand for images"):
        blind(**batch)
    with pytest.raises(InputError, match="the batch has 'pixel_values', which a loss of embeddings cannot"):
        EmbeddingLoss(model(), batch)
