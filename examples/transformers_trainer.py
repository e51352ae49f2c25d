"""Symmetric pairs in Transformers' Trainer: python examples/transformers_trainer.py [MODEL [DATA [STEPS]]]"""

import sys

from transformers import DataCollatorForSeq2Seq, TrainingArguments

import symnoise as sn
from symnoise.data import encode_row


def main(model: str = "smollm2", data: str = "chitchat", steps: str = "3") -> list[float]:
    loaded = sn.load_model(model)
    rows = [encode_row(example, loaded.tokenizer, max_length=256) for example in sn.load_data(data, limit=64)]
    trainer = sn.SymNoiseTrainer(
        model=loaded.model,
        args=TrainingArguments("out", max_steps=int(steps), per_device_train_batch_size=4, logging_steps=1),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(loaded.tokenizer),
        noise=sn.Noise.symnoise(5.0),
        callbacks=[sn.NormTracker(every=1)],
    )
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
