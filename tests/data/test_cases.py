"""The table of cases: what is scored of each row and file, or the refusal."""

import json
import re
import warnings

import pytest

from symnoise.core import InputError
from symnoise.data import encode, load_data
from tests.data.cases import FILES, REFUSED, ROWS
from tests.data.marked import marked
from tests.tiny import tiny_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% for call in m.tool_calls or [] %}"
    "({{ call.function.name }} {{ call.function.arguments | tojson }}){% endfor %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def texts(path, **options):
    """Each example of the file as the model reads it, with [ ] around what is scored."""
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = TEMPLATE
    return [marked(encode([example], tokenizer, max_length=500), tokenizer) for example in load_data(path, **options)]


@pytest.mark.parametrize("name", ROWS)
def test_rows(tmp_path, name):
    row, text = ROWS[name]
    (tmp_path / "row.jsonl").write_text(json.dumps(row))
    assert texts(tmp_path / "row.jsonl", strict=True) == [text]


@pytest.mark.parametrize("name", REFUSED)
def test_rows_that_cannot_be_used(tmp_path, name):
    row, says = REFUSED[name]
    (tmp_path / "row.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        texts(tmp_path / "row.jsonl", strict=True)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name):
    file, content, expected = FILES[name]
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if isinstance(expected, list):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert texts(path) == expected
    else:
        with pytest.raises(InputError, match=re.escape(expected)) as caught:
            texts(path)
        assert "\n" not in str(caught.value)
