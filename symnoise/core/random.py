"""Every random number has an owner: generators keyed by what they are for."""

import hashlib

import torch


def generator(seed: int, *key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A `torch.Generator` for the stream named by (`seed`, `key`…); the global generator is left alone.

    The key is hashed (BLAKE2b, 63 bits), so neighbouring keys such as (0, 1) and (1, 0) give unrelated
    streams. Equal seed and key give equal bits; Python's own hash randomisation plays no part.
    """
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "big") >> 1)
