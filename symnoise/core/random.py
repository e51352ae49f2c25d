"""Seeded generators, keyed by their purpose."""

import hashlib
from operator import index
from typing import SupportsIndex

import torch

from symnoise.core.errors import InputError


def generator(seed: SupportsIndex, *key: SupportsIndex | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Seeded `torch.Generator` for the stream (`seed`, `key`…); the global generator is left alone.

    The key is hashed (BLAKE2b, 63 bits), so neighbouring keys such as (0, 1) and (1, 0) give unrelated streams. The
    same seed and key give the same bits in every process, whatever type of integer they are (NumPy's, a tensor).

    Args:
        seed: The random seed.
        key: What the stream is for: any integers and strings.
        device: Device of the generator.

    Returns:
        A new generator at the start of its stream.

    Raises:
        InputError: For a seed or a key that is neither an integer nor a string.

    Examples:
        >>> import torch
        >>> from symnoise import generator
        >>> one, same, other = (generator(0, "probe", k) for k in (1, 1, 2))
        >>> one.initial_seed() == same.initial_seed(), one.initial_seed() == other.initial_seed()
        (True, False)
    """
    try:
        stream = (index(seed), *(part if isinstance(part, str) else index(part) for part in key))
    except TypeError:
        raise InputError(f"seeds and ids must be integers; got {(seed, *key)}") from None
    digest = hashlib.blake2b(repr(stream).encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "big") >> 1)
