"""Every file in examples/ runs, on a tiny model and a handful of rows: found by listing the folder."""

import importlib.util
import json
import math
from pathlib import Path

import pytest

from tests.tiny import tiny, tiny_tokenizer

# minimal.py takes no model; tests/examples has its tests.
EXAMPLES = sorted(
    path for path in (Path(__file__).resolve().parents[2] / "examples").glob("*.py") if path.stem != "minimal"
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a tiny model and tokenizer, and a file of twelve Alpaca rows."""
    folder = tmp_path_factory.mktemp("small")
    tiny("llama").save_pretrained(folder / "model")
    tiny_tokenizer(chat=True).save_pretrained(folder / "model")
    lines = [{"instruction": f"add 1 to {n}", "output": f"it is {n + 1}."} for n in range(12)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_there_are_examples():
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the Trainers write where they stand
    specification = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)
    losses = example.main(str(small / "model"), str(small / "data.jsonl"), "2")
    assert len(losses) == 2
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
