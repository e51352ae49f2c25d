"""Sources: files, folders and hub data sets, read as they are asked for; what is left out is counted and said once.

What becomes of single rows and files is in the table of `cases.py`.
"""

import gzip
import importlib.util
import json
import re
import tracemalloc
import warnings

import pytest

from symnoise.core import InputError, sha256
from symnoise.data import load, load_data
from symnoise.data.chitchat import LONG_ANSWER_WORDS
from symnoise.data.formats import example_of

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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of data files, which is loaded as a hub data set is: two parquet files, and a split of one."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    for i in range(2):
        write(tmp_path / "set" / f"train-{i}.parquet", [ALPACA | {"output": f"{i}{k}"} for k in range(3)])
    write(tmp_path / "set" / "test-0.parquet", [ALPACA | {"output": "held out"}])
    return tmp_path / "set"


def replies(data):
    return [example.messages[-1][1] for example in data]


def test_a_folder_of_parquet_files(folder, monkeypatch):
    data = load_data(folder)
    assert replies(data) == ["00", "01", "02", "10", "11", "12"]
    assert data.path is None and data.sha256 == load_data(folder).sha256 != load_data(folder, limit=1).sha256
    assert replies(load_data(f"{folder}@test")) == ["held out"]
    seen = rows_read(monkeypatch)
    assert replies(load_data(folder, limit=4)) == ["00", "01", "02", "10"] and len(seen) == 4


def test_a_bad_row_does_not_stop_a_folder(tmp_path):
    """Rows of several forms, a line that is not JSON, and numbers that run through the files."""
    line = json.dumps(ALPACA)
    (tmp_path / "a.jsonl").write_text(f"{line}\n{{oops\n{line}\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "Once"}) + '\n{"text": ""}\n')
    said = ("1: its line is not JSON (the first: row 2)", "1: its 'text' is empty (the first: row 5)")
    for limit, left_out in ((None, f"2 rows are left out: {'; '.join(said)}"), (3, f"1 row is left out: {said[0]}")):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data = load_data(tmp_path, limit=limit)
        assert [example.row for example in data] == [1, 3, 4]
        assert [str(one.message) for one in caught] == [f"{tmp_path}: {left_out}"]
    refused(tmp_path, "row 2: its line is not JSON", strict=True)


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path):
    """`datasets` takes the most frequent kind of file."""
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(json.dumps(ALPACA))
    (tmp_path / "c.csv").write_text("instruction,output\nHi,Yo\n")
    with pytest.warns(UserWarning, match=r"not read, since most files are \.jsonl: c\.csv"):
        assert len(load_data(tmp_path)) == 2


def test_a_split_that_is_not_there(folder):
    refused(f"{folder}@validation", "cannot load .*validation")


def test_hub_ids_have_configurations_and_splits(monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: asked.append((names, options)) or [ALPACA])
    for name in ("someone/set", "someone/set:main", "someone/set@test", "someone/set:main@test"):
        assert len(load_data(name, limit=1)) == len(load_data(name)) == 1
    kinds = [(None, "train"), ("main", "train"), (None, "test"), ("main", "test")]
    expected = [
        ({"name": config, "split": split, "streaming": True}, {"name": config, "split": split})
        for config, split in kinds
    ]
    assert asked == [(("someone/set",), options) for pair in expected for options in pair]


def test_what_cannot_be_streamed_is_loaded_whole(monkeypatch):
    """A data set that only the cache has, on a machine without a network."""
    import datasets

    def cached(path, *, streaming=False, **options):
        if streaming:
            raise ConnectionError("offline")
        return [ALPACA]

    monkeypatch.setattr(datasets, "load_dataset", cached)
    assert len(load_data("someone/set", limit=1)) == 1


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


BAD = ALPACA | {"output": " "}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path, suffix):
    path = write(tmp_path / f"data{suffix}", [ALPACA, BAD, ALPACA, ALPACA | {"instruction": ""}, BAD])
    with pytest.warns(UserWarning, match="3 rows are left out") as caught:
        data = load_data(path)
    assert str(caught[0].message) == (
        f"{path}: 3 rows are left out: 2: its 'output' is empty (the first: row 2); 1: its 'instruction' is empty "
        "(the first: row 4)"
    )
    assert len(caught) == 1 and [example.row for example in data] == [1, 3]
    counts = {"its 'output' is empty": 2, "its 'instruction' is empty": 1}
    assert data.left_out == counts
    assert {key: data.provenance()[key] for key in ("left_out", "left_out_because")} == {
        "left_out": 3,
        "left_out_because": counts,
    }
    refused(path, re.escape(f"{path}, row 2: its 'output' is empty; leave it out"), strict=True)


def test_the_limit_counts_examples_and_nothing_after_them_is_read(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (BAD, ALPACA, ALPACA)) + "no JSON\n")
    with pytest.warns(UserWarning, match="1 row is left out"):
        data = load_data(path, limit=2)
    assert [example.row for example in data] == [2, 3] and sum(data.left_out.values()) == 1


def rows_read(monkeypatch):
    """How many rows have been looked at."""
    seen = []
    monkeypatch.setattr(load, "example_of", lambda row, number: seen.append(number) or example_of(row, number))
    return seen


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".txt", ".jsonl.gz", ".parquet"])
def test_ten_rows_of_a_large_file_are_ten_rows(tmp_path, monkeypatch, suffix):
    """What is read of the file itself is a buffer, and of parquet a batch of the row group."""
    path, count = tmp_path / f"data{suffix}", 20_000
    line = json.dumps({"text": "Once upon a time"})
    if suffix == ".parquet":
        write(path, [{"text": "Once upon a time"}] * count)
    else:
        text = {".json": f"[{','.join([line] * count)}]", ".csv": "text\n" + "Once\n" * count, ".txt": "Once\n" * count}
        content = text.get(suffix, f"{line}\n" * count).encode()
        path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    seen = rows_read(monkeypatch)
    tracemalloc.start()
    assert len(load_data(path, limit=10)) == 10
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen == list(range(1, 11))
    assert peak < 2**20 or suffix == ".parquet"  # pyarrow's import alone takes more


def test_a_list_with_a_fault_is_not_read_to_its_end(tmp_path):
    """The fault is told apart from the end of what has been read so far."""
    path = tmp_path / "data.json"
    path.write_text('[{"text": "Once"}, {oops}' + ', {"text": "again"}' * 100_000 + "]")
    tracemalloc.start()
    with pytest.warns(UserWarning, match="so that no row after it can be read"):
        assert len(load_data(path)) == 1
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_network_that_fails_between_rows_is_one_line(monkeypatch):
    import datasets

    def broken():
        yield ALPACA
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: broken())
    assert len(load_data("someone/set", limit=1)) == 1
    refused("someone/set", "cannot load someone/set: .*reset by peer")


def test_what_it_is_fits_into_a_line(tmp_path):
    data = load_data(write(tmp_path / "data.jsonl", [ALPACA] * 100))
    assert repr(data) == f"Data({str(tmp_path / 'data.jsonl')!r}, Alpaca form: 100 examples)"
    with pytest.warns(UserWarning, match="1 row is left out"):
        data = load_data(write(tmp_path / "data.jsonl", [ALPACA, BAD]))
    assert repr(data).endswith("Alpaca form: 1 examples, 1 rows left out)")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("chitcat", "did you mean 'chitchat'"),
        ("missing.jsonl", "there is no data file missing.jsonl"),
        ("no/such/file", "there is no data file"),
        ("missing.csv.gz@train", "there is no data file"),
        (":main", "has no name"),
        ("someone/something", "Offline"),
        (" ", "has no name"),
    ],
)
def test_names_that_lead_nowhere(name, says):
    refused(name, says)


def test_no_examples_asked_for(tmp_path):
    refused(write(tmp_path / "data.json", [ALPACA]), "at least 1", limit=0)
