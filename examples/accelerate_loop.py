"""Symmetric pairs in your own accelerate loop: python examples/accelerate_loop.py [MODEL [DATA [STEPS]]]"""

import sys
from functools import partial

import torch
from accelerate import Accelerator

import symnoise as sn
from symnoise.training import PairedCollator


def main(model: str = "smollm2", data: str = "chitchat", steps: str = "3") -> list[float]:
    loaded, accelerator, losses = sn.load_model(model), Accelerator(), []
    pairs = PairedCollator(partial(sn.encode, tokenizer=loaded.tokenizer, max_length=256))  # each example twice
    examples = sn.load_data(data, limit=4 * int(steps)).examples
    loader = torch.utils.data.DataLoader(examples, batch_size=4, collate_fn=pairs)
    optimizer = torch.optim.AdamW(loaded.model.train().parameters(), lr=1e-5)
    network, optimizer, loader = accelerator.prepare(loaded.model, optimizer, loader)
    with sn.attach(network, sn.Noise.symnoise(5.0), seed=0) as noise:
        for step, batch in enumerate(loader):
            noise.at(step)
            loss = network(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
