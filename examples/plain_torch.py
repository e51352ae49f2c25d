"""NEFTune's noise in a plain PyTorch loop: python examples/plain_torch.py [MODEL [DATA [STEPS]]]"""

import sys

import torch

import symnoise as sn


def main(model: str = "smollm2", data: str = "chitchat", steps: str = "3") -> list[float]:
    loaded, losses = sn.load_model(model), []
    examples = sn.load_data(data, limit=4 * int(steps)).examples
    optimizer = torch.optim.AdamW(loaded.model.train().parameters(), lr=1e-5)
    with sn.attach(loaded.model, sn.Noise.neftune(5.0), seed=0) as noise:
        for step in range(int(steps)):
            noise.at(step)  # identifies the draws, so that a restarted loop repeats them
            chosen = [examples[i % len(examples)] for i in range(4 * step, 4 * step + 4)]
            batch = sn.encode(chosen, loaded.tokenizer, max_length=256)
            loss = loaded.model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return losses


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
