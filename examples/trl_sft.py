"""Symmetric pairs in TRL's SFTTrainer: python examples/trl_sft.py [MODEL [DATA [STEPS]]]"""

import sys

from datasets import Dataset
from trl import SFTConfig

import symnoise as sn


def main(model: str = "smollm2", data: str = "chitchat", steps: str = "3") -> list[float]:
    loaded = sn.load_model(model)
    turns = [[dict(zip(("role", "content"), m, strict=True)) for m in e.messages] for e in sn.load_data(data, limit=64)]
    trainer = sn.SymNoiseSFTTrainer(
        model=loaded.model,
        args=SFTConfig("out", max_steps=int(steps), per_device_train_batch_size=4, logging_steps=1, bf16=False),
        train_dataset=Dataset.from_list([{"prompt": turn[:-1], "completion": turn[-1:]} for turn in turns]),
        processing_class=loaded.tokenizer,
        noise=sn.Noise.symnoise(5.0),
    )
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
