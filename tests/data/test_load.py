"""Three forms, three kinds of file, and every way in which a row can be unusable."""

import importlib.util
import json

import pytest

from symnoise.core import InputError, sha256
from symnoise.data.chitchat import LONG_ANSWER_WORDS
from symnoise.data.load import load_data

ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "3"}
SHAREGPT = {
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello"},
        {"from": "human", "value": "And?"},
    ]
}
MESSAGES = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
FORMS = {
    "Alpaca": (ALPACA, (("user", "Add."), ("assistant", "3")), "1 and 2"),
    "ShareGPT": (SHAREGPT, (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")), ""),
    "messages": (MESSAGES, (("user", "Hi"), ("assistant", "Hello")), ""),
}


def write(path, rows):
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text(json.dumps(rows, indent=1))
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_are_recognised_in_every_kind_of_file(tmp_path, form, suffix):
    row, messages, context = FORMS[form]
    path = write(tmp_path / f"data{suffix}", [row, row, row])
    data = load_data(path, limit=2)
    assert [(example.messages, example.input, example.row) for example in data] == [
        (messages, context, 1),
        (messages, context, 2),
    ]
    assert data.provenance() == {"name": str(path), "form": form, "sha256": sha256(path), "examples": 2, "left_out": 0}


def test_json_lines_under_the_name_json_and_blank_lines(tmp_path):
    path = tmp_path / "data.json"
    path.write_text("\ufeff" + json.dumps(ALPACA) + "\n\n" + json.dumps(ALPACA | {"input": ""}) + "\n", "utf-8")
    assert [(example.row, example.input) for example in load_data(path)] == [(1, "1 and 2"), (3, "")]


def test_hub_id_goes_through_datasets(tmp_path, monkeypatch):
    """A folder of data files is loaded as a hub data set is."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", [ALPACA, ALPACA])
    data = load_data(tmp_path / "set")
    assert [example.messages for example in data] == [FORMS["Alpaca"][1]] * 2
    assert data.sha256 == load_data(tmp_path / "set").sha256
    assert data.sha256 != load_data(tmp_path / "set", limit=1).sha256


def test_chitchat():
    """The rule and the count that the docstring states."""
    if importlib.util.find_spec("chitchat_dataset") is None:
        pytest.skip("chitchat-dataset is not installed")
    data = load_data("chitchat")
    assert len(data) == 14_946
    assert all([role for role, _ in example.messages] == ["user", "assistant"] for example in data)
    assert min(len(example.messages[1][1].split()) for example in data) == LONG_ANSWER_WORDS


def test_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(InputError, match=r"pip install --no-deps chitchat-dataset==0\.9\.0"):
        load_data("chitchat")


def refused(name, says, **options):
    with pytest.raises(InputError, match=says) as caught:
        load_data(name, **options)
    assert "\n" not in str(caught.value)


def said(role, text):
    return {"role": role, "content": text}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"instruction": "Add.", "input": ""}, "row 2: its 'output' is missing"),
        (ALPACA | {"instruction": None}, "row 2: its 'instruction' is missing"),
        (ALPACA | {"input": 3}, "row 2: its 'input' is not text but int"),
        ("text", "row 2: it is not an object but str"),
        ({"messages": []}, "row 2: it has no reply"),
        ({"messages": "Hi"}, "row 2: its conversation is not a list"),
        ({"messages": ["Hi"]}, "row 2: one of its messages is not an object"),
        ({"messages": [said("user", "Hi")]}, "row 2: it has no reply"),
        ({"messages": [said("assistant", "Hi")]}, "row 2: it has a reply before any message"),
        ({"messages": [said("robot", "Hi")]}, "row 2: one of its messages is from 'robot'"),
        ({"conversations": [{"from": ["gpt"], "value": "Hi"}]}, "row 2: one of its messages is from"),
        ({"conversations": [{"from": "gpt"}]}, "row 2: its 'value' is missing"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, row, says):
    path = write(tmp_path / "data.jsonl", [ALPACA, row])
    refused(path, says)
    assert len(load_data(path, limit=1)) == 1  # what is not asked for is not looked at


@pytest.mark.parametrize(
    "row",
    [
        ALPACA | {"output": "  "},
        ALPACA | {"instruction": ""},
        {"messages": [said("user", "Hi"), said("assistant", "")]},
    ],
)
def test_rows_with_an_empty_text_are_left_out_and_counted(tmp_path, row):
    """Published data sets have some: Alpaca, replies (tatsu-lab/stanford_alpaca#265)."""
    path = write(tmp_path / "data.jsonl", [ALPACA, row, ALPACA])
    with pytest.warns(UserWarning, match="1 rows have an empty text"):
        data = load_data(path)
    assert [example.row for example in data] == [1, 3] and data.provenance()["left_out"] == 1
    refused(write(tmp_path / "empty.jsonl", [row]), "has no rows but 1 with an empty text")


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("data.jsonl", b"", "has no rows"),
        ("data.json", b"[]", "has no rows"),
        ("data.jsonl", b'{"instruction": "a", "output": "b"}\n{"instruction": \n', "line 2: not JSON"),
        ("data.json", b'[\n{"instruction": "a"},\n}', "line 3: not JSON"),
        ("data.jsonl", b"\xff\xfe\xfd", "cannot read .*utf-8"),
        ("data.parquet", b"not parquet", "cannot read"),
        ("data.parquet", b"", "cannot read"),
        ("data.csv", b"a,b", r"ends in \.csv: give a \.json, \.jsonl, \.parquet file"),
        ("data", b"a,b", "ends in nothing"),
        ("data.jsonl", b'{"question": "a", "answer": "b"}', "rows have answer, question; known are Alpaca"),
        ("data.jsonl", b"3", "rows have int"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, file, content, says):
    (tmp_path / file).write_bytes(content)
    refused(tmp_path / file, says)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("chitcat", "did you mean 'chitchat'"),
        ("missing.jsonl", "there is no data file missing.jsonl"),
        ("no/such/file", "there is no data file"),
        ("someone/something", "Offline"),
        (" ", "has no name"),
    ],
)
def test_names_that_lead_nowhere(name, says):
    refused(name, says)


def test_no_examples_asked_for(tmp_path):
    refused(write(tmp_path / "data.json", [ALPACA]), "at least 1", limit=0)
