"""Symmetric pairs in TRL's SFTTrainer: python examples/trl_sft.py [MODEL [DATA [STEPS]]]"""

import sys

from datasets import Dataset
from trl import SFTConfig

import symnoise as sn
from symnoise.data import Example


def row(example: Example) -> dict[str, object]:
    """A prompt and its completion: messages, or the text of a row that is no conversation."""
    if example.plain:
        return {"prompt": "", **dict(example.messages)}
    turns = [dict(zip(("role", "content"), message, strict=True)) for message in example.messages]
    return {"prompt": turns[:-1], "completion": turns[-1:]}


def main(model: str = "smollm2", data: str = "chitchat", steps: str = "3") -> list[float]:
    loaded = sn.load_model(model)
    trainer = sn.SymNoiseSFTTrainer(
        model=loaded.model,
        args=SFTConfig("out", max_steps=int(steps), per_device_train_batch_size=4, logging_steps=1, bf16=False),
        train_dataset=Dataset.from_list([row(example) for example in sn.load_data(data, limit=64)]),
        processing_class=loaded.tokenizer,
        noise=sn.Noise.symnoise(5.0),
    )
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
