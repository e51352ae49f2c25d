"""TRL's SFTTrainer: its own fused loss, packing, PEFT; still exactly the mean of the two sides."""

import json

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig

from symnoise.core import InputError, generator
from symnoise.data import encode, load_data
from symnoise.models import load_model
from symnoise.noise import Noise, law
from symnoise.training import Dials, NoiseOptions, SymNoiseSFTTrainer
from tests.tiny import tiny, tiny_tokenizer
from tests.training.ragged import (
    LENGTHS,
    PLAIN_SGD,
    Gradients,
    by_dials,
    collate,
    difference,
    expected,
    in_order,
    mean_of_sides,
    rows,
)

TOLERANCE = 1e-6


def trainer(tmp_path, *, accumulation, size, callbacks=(), model=None, more=None, **settings):
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        save_strategy="no",
        bf16=False,
        max_length=None,
        **PLAIN_SGD,
        **(more or {}),
    )
    made = SymNoiseSFTTrainer(
        model=model or tiny("llama"),
        args=arguments,
        train_dataset=Dataset.from_list(rows()),
        processing_class=tiny_tokenizer(),
        callbacks=list(callbacks),
        **settings,
    )
    return in_order(made)


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
@pytest.mark.parametrize(("accumulation", "size"), [(1, 8), (4, 2)])
def test_gradient_is_the_mean_of_the_sides(tmp_path, mode, accumulation, size):
    """With TRL's default gradient checkpointing."""
    noise, gradients = Noise.symnoise(5.0), Gradients()
    made = trainer(
        tmp_path, accumulation=accumulation, size=size, callbacks=[gradients], noise=noise, noise_seed=3, pair_mode=mode
    )
    made.train()
    batches = [(collate(rows()[i * size : (i + 1) * size]), (0, 0, i)) for i in range(accumulation)]
    loss, gradient = expected(tiny("llama").train(), batches, noise, 3)
    assert difference(gradients.steps[0], gradient) < TOLERANCE
    assert made.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("mode", ["doubled", "two-pass"])
@pytest.mark.parametrize(("even", "odd"), [(1.0, 0.0), (0.5, 2.0)])
def test_gradient_by_dials(tmp_path, mode, even, odd):
    noise, dials, gradients = Noise.symnoise(5.0), Dials(even, odd), Gradients()
    settings = {"noise": noise, "noise_seed": 3, "pair_mode": mode, "dials": dials}
    made = trainer(tmp_path, accumulation=4, size=2, callbacks=[gradients], **settings)
    made.train()
    batches = [(collate(rows()[i * 2 : (i + 1) * 2]), (0, 0, i)) for i in range(4)]
    loss, clean, gradient = by_dials(tiny("llama").train(), batches, noise, dials, 3)
    assert difference(gradients.steps[0], gradient) < TOLERANCE
    assert made.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-6)
    assert made.state.log_history[0].get("clean_loss") == (None if even == 1 else pytest.approx(clean, rel=1e-6))


def test_packed_equals_unpacked(tmp_path):
    """Four documents a row, doubled along the tokens: the gradient is that of the documents one by one, each with its
    own slice of the row's draw at its own length."""
    noise, gradients = Noise.symnoise(5.0), Gradients()
    made = trainer(
        tmp_path, accumulation=2, size=4, callbacks=[gradients], noise=noise, noise_seed=3, more={"padding_free": True}
    )
    made.train()
    parts = []
    for micro in range(2):
        documents = rows()[4 * micro : 4 * micro + 4]
        lengths = LENGTHS[4 * micro : 4 * micro + 4]
        signs = law("rademacher").sample((1, sum(lengths), 32), generator=generator(3, "noise", 0, 0, micro))
        for document, piece in zip(documents, signs.split(lengths, dim=1), strict=True):
            epsilon = float(noise.scale(piece.shape[1], 32)) * piece
            parts.append((collate([document]), (epsilon, -epsilon)))
    loss, gradient = mean_of_sides(tiny("llama").train(), parts)
    assert difference(gradients.steps[0], gradient) < TOLERANCE
    assert made.state.log_history[0]["loss"] == pytest.approx(loss, rel=1e-6)


def test_lora_with_the_table_frozen(tmp_path):
    """PEFT calls the model inside by its forward, past its hooks; the adapters still see the pair."""
    settings = {"peft_config": LoraConfig(r=2, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])}
    kept = []
    for noise, mode in ((Noise.symnoise(5.0), "doubled"), (Noise.symnoise(5.0), "two-pass"), (None, "doubled")):
        gradients = Gradients()
        torch.manual_seed(0)
        made = trainer(tmp_path, accumulation=2, size=4, callbacks=[gradients], noise=noise, pair_mode=mode, **settings)
        made.train()
        kept.append(gradients.steps[0])
        assert all("lora" in name for name in gradients.steps[0])
    assert difference(kept[0], kept[1]) < TOLERANCE
    assert difference(kept[0], kept[2]) > 1e-3


def test_evaluation_is_untouched(tmp_path):
    held_out, losses = Dataset.from_list(rows(seed=1)), []
    for noise in (None, Noise.symnoise(15.0)):
        made = trainer(tmp_path, accumulation=1, size=8, noise=noise)
        losses.append(made.evaluate(held_out)["eval_loss"])
    assert losses[0] == losses[1]


def test_label_smoothing_runs_two_forwards_with_one_draw(tmp_path):
    made = trainer(
        tmp_path,
        accumulation=1,
        size=8,
        noise=Noise.symnoise(5.0),
        more={"label_smoothing_factor": 0.1},
    )
    drawn = []
    made.model.train()
    inputs = made._prepare_inputs(next(iter(made.get_train_dataloader())))
    made.attached(made.model).on_draw = lambda epsilon, *_: drawn.append(epsilon)
    made._micro = (0, 0)
    made.compute_loss(made.model, inputs)
    made._detach()
    assert len(drawn) == 2
    assert torch.equal(*drawn)


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match="neftune_noise_alpha"):
        trainer(tmp_path, accumulation=1, size=8, noise=Noise.symnoise(5.0), more={"neftune_noise_alpha": 5.0})
    with pytest.raises(InputError, match="unknown trainer argument 'noise_sed': did you mean 'noise_seed'"):
        trainer(tmp_path, accumulation=1, size=8, noise_sed=1)
    assert NoiseOptions().length == "true"


@pytest.mark.parametrize(
    "settings", [{"truncation_mode": "keep_end"}, {"packing": True, "packing_strategy": "wrapped"}]
)
@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*packing.*:UserWarning")
def test_rows_of_load_data_are_cut_where_trl_is_told_to(tmp_path, settings) -> None:
    """Cut at their start's end before, the ends that these settings keep were lost in silence."""
    words = [{"prompt": "Q" * 10, "completion": f"abcdefghijklmnopqrstuv{i}"} for i in range(4)]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, words)))
    arguments = {"max_length": 20, "report_to": [], "use_cpu": True, "bf16": False} | settings
    tokenizer = tiny_tokenizer()
    made = SymNoiseSFTTrainer(
        model=tiny("llama"), args=SFTConfig(tmp_path, **arguments), train_dataset=load_data(file),
        processing_class=tokenizer, noise=Noise.neftune(5.0),
    )  # fmt: skip
    text = "".join(tokenizer.decode(row["input_ids"]) for row in made.train_dataset).replace(" ", "")
    assert all(f"tuv{i}</s>" in text for i in range(4))


def test_rows_of_load_data_are_trained_on_as_encode_scores_them(tmp_path) -> None:
    tiny("llama").save_pretrained(tmp_path / "model")
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.save_pretrained(tmp_path / "model")
    turns = ["one", "two", "three " * 40]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"prompt": f"say {turn}", "completion": turn}) for turn in turns))
    data, loaded = load_data(file), load_model(tmp_path / "model")
    settings = {"max_length": 24, "per_device_train_batch_size": 2, "report_to": [], "use_cpu": True, "bf16": False}
    with pytest.warns(UserWarning, match=r"1 rows of .*rows.jsonl are left out: 1: its reply is cut off entirely"):
        trainer = SymNoiseSFTTrainer(  # without a tokenizer: it is the model's own, as in TRL
            model=loaded.model, args=SFTConfig(tmp_path, **settings), train_dataset=data, noise=Noise.symnoise(5.0)
        )
    (batch,) = [*trainer.get_train_dataloader()]
    expected = encode(list(data)[:2], loaded.tokenizer, max_length=24)
    assert sorted(batch["labels"].tolist()) == sorted(expected["labels"].tolist())
    assert trainer.train(None).global_step == 3
