"""The example scripts on a user's own rows: plain text, and fewer of them than steps."""

import importlib.util
import json

import pytest

import symnoise as sn
from result_schema.files import ROOT
from tests.tiny import tiny, tiny_tokenizer


def script(name: str):
    specification = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def places(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "model")
    tiny_tokenizer(chat=True).save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": f"{n} and {n}"}) for n in range(2)))
    return str(tmp_path / "model"), str(tmp_path / "rows.jsonl")


def test_a_loop_begins_again_at_the_first_row(places) -> None:
    assert len(script("plain_torch").main(*places, "3")) == 3


def test_the_rows_of_trl_are_messages_or_texts(places, tmp_path) -> None:
    row = script("trl_sft").row
    assert [row(example) for example in sn.load_data(places[1])] == [
        {"prompt": "", "completion": text} for text in ("0 and 0", "1 and 1")
    ]
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "1 + 1 =", "completion": " 2"}\n')
    assert row(sn.load_data(tmp_path / "pairs.jsonl")[0]) == {"prompt": "1 + 1 =", "completion": " 2"}
    (tmp_path / "chat.jsonl").write_text('{"instruction": "add 1 to 1", "output": "2"}\n')
    prompt, completion = [{"role": "user", "content": "add 1 to 1"}], [{"role": "assistant", "content": "2"}]
    assert row(sn.load_data(tmp_path / "chat.jsonl")[0]) == {"prompt": prompt, "completion": completion}
