"""A row as text, with what is scored in brackets."""

from symnoise.data.encoding import IGNORED


def marked(batch, tokenizer, row=0):
    """The real text of one row, with [ ] around each stretch that is scored."""
    length = int(batch["attention_mask"][row].sum())
    text, inside = "", False
    for token, label in zip(batch["input_ids"][row, :length], batch["labels"][row, :length], strict=True):
        assert label in (IGNORED, token)
        text += "[" * bool(label != IGNORED and not inside) + "]" * bool(label == IGNORED and inside)
        inside = bool(label != IGNORED)
        text += tokenizer.convert_ids_to_tokens(int(token))
    return text + "]" * inside


def stretches(row):
    """The token ids of each stretch of one encoded row that is scored."""
    found, inside = [], False
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        if label != IGNORED:
            found += [] if inside else [[]]
            found[-1].append(token)
        inside = label != IGNORED
    return found
