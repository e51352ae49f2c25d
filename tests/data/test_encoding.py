"""Encoded batches: true lengths, labels on replies alone, and what does not fit is said.

The tiny tokenizer makes one token of each character and each mark, so the expected text can be written out.
"""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tokenizers.processors import TemplateProcessing
from transformers import ByT5Tokenizer, NllbTokenizer, PreTrainedTokenizerFast

from symnoise.core import InputError
from symnoise.data.encoding import IGNORED, encode, encode_row, prompt_format, usable
from symnoise.data.example import Example, LeftOut, RowError
from tests.data.marked import marked, stretches
from tests.tiny import tiny, tiny_tokenizer

ONE = Example((("user", "Hi"), ("assistant", "Hello")), row=3)
CONTEXT = Example((("user", "Add."), ("assistant", "3")), input="1 and 2", row=4)
TALK = Example(
    (("system", "Be kind"), ("user", "Hi"), ("assistant", "Yo"), ("user", "And?"), ("assistant", "Bye")), row=5
)
BELOW = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nHi\n\n### Response:"
)
BELOW_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:"
)


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (ONE, "<s><user>Hi</s><assistant>[Hello</s>]"),
        (CONTEXT, "<s><user>Add.\n\n1 and 2</s><assistant>[3</s>]"),
        (TALK, "<s><system>Be kind</s><user>Hi</s><assistant>[Yo</s>]<user>And?</s><assistant>[Bye</s>]"),
    ],
)
@pytest.mark.parametrize("bos", [False, True])
def test_chat_template(example, text, bos):
    tokenizer = tiny_tokenizer(chat=True, bos=bos)
    assert marked(encode([example], tokenizer, max_length=200), tokenizer) == text


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (ONE, BELOW + "[Hello</s>]"),
        (CONTEXT, BELOW_WITH_INPUT + "[3</s>]"),
        (
            TALK,
            "Be kind\n\n### Instruction:\nHi\n\n### Response:[Yo</s>]"
            "\n\n### Instruction:\nAnd?\n\n### Response:[Bye</s>]",
        ),
    ],
)
@pytest.mark.parametrize("bos", [False, True])
def test_alpaca_template_where_the_tokenizer_has_none(example, text, bos):
    tokenizer = tiny_tokenizer(bos=bos)
    batch = encode([example], tokenizer, max_length=300)
    assert marked(batch, tokenizer) == "<s>" * bos + text


@pytest.mark.parametrize(("example", "text"), [(ONE, BELOW + "[Hello</s>]"), (CONTEXT, BELOW_WITH_INPUT + "[3</s>]")])
def test_eos_comes_once_from_a_tokenizer_that_adds_its_own(example, text):
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    assert marked(encode([example], tokenizer, max_length=300), tokenizer) == text


@pytest.mark.parametrize("pad", [False, True])
def test_batch_is_right_padded_and_padding_is_never_scored(pad):
    tokenizer = tiny_tokenizer(chat=True, pad=pad)
    batch = encode([ONE, TALK], tokenizer, max_length=200)
    assert {key: value.dtype for key, value in batch.items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "labels"), torch.int64
    )
    alone = [encode([example], tokenizer, max_length=200) for example in (ONE, TALK)]
    lengths = [one["input_ids"].shape[1] for one in alone]
    assert batch["input_ids"].shape == (2, max(lengths))
    for row, (one, length) in enumerate(zip(alone, lengths, strict=True)):
        for key in batch:
            assert torch.equal(batch[key][row, :length], one[key][0])
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (max(lengths) - length)
        assert set(batch["labels"][row, length:].tolist()) <= {IGNORED}


@pytest.mark.parametrize(
    ("example", "says"),
    [
        (Example((("completion", "Once"),), row=3), "row 3: an encoder-decoder needs a text to read"),
        (
            Example((("user", "Hi"), ("assistant", "")), extras=((1, '{"tool_calls": []}'),), row=3),
            "row 3, turn 2: the Alpaca template has no tools",
        ),
    ],
)
def test_what_an_encoder_decoder_cannot_read(example, says):
    with pytest.raises(InputError, match=says):
        encode([example], tiny_tokenizer(), max_length=400, model=tiny("t5"))


def test_an_encoder_decoder_reads_a_prompt_and_answers_with_its_completion():
    tokenizer = tiny_tokenizer()
    batch = encode([Example((("prompt", "Hi"), ("completion", "Yo")))], tokenizer, max_length=9, model=tiny("t5"))
    assert tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist()) == ["H", "i"]
    assert tokenizer.convert_ids_to_tokens(batch["labels"][0].tolist()) == ["Y", "o", "</s>"]


def test_encoder_decoder_reads_the_prompt_and_answers_the_last_reply():
    model, tokenizer = tiny("t5"), tiny_tokenizer()
    batch = encode([ONE, CONTEXT, TALK], tokenizer, max_length=400, model=model)

    def text(ids):
        return "".join(tokenizer.convert_ids_to_tokens(ids.tolist()))

    lengths = batch["attention_mask"].sum(1)
    assert text(batch["input_ids"][0, : lengths[0]]) == BELOW
    assert text(batch["input_ids"][1, : lengths[1]]) == BELOW_WITH_INPUT
    assert text(batch["input_ids"][2, : lengths[2]]) == (
        "Be kind\n\n### Instruction:\nHi\n\n### Response:Yo</s>\n\n### Instruction:\nAnd?\n\n### Response:"
    )
    targets = [row[row != IGNORED] for row in batch["labels"]]
    assert [text(target) for target in targets] == ["Hello</s>", "3</s>", "Bye</s>"]
    assert batch["labels"].shape == (3, 6)
    assert model(**batch).loss.isfinite()


def test_smollm2(smollm2):
    """A real byte-pair tokenizer and template; one reply begins with what merges with the prompt's last newline."""
    replies = ["\n\n(there) ", "Bye 12"]
    talk = Example((("user", "Hi"), ("assistant", replies[0]), ("user", "And?"), ("assistant", replies[1])))
    tokenizer = smollm2.tokenizer
    batch = encode([talk], tokenizer, max_length=128, model=smollm2.model)
    expected = (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n\n\n(there) <|im_end|>\n"
        "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\nBye 12<|im_end|>\n"
    )
    assert tokenizer.decode(batch["input_ids"][0]) == expected
    scored = tokenizer.decode(batch["labels"][0][batch["labels"][0] != IGNORED])
    # The prompt's newline and the first of the reply are one token, which counts as the reply's.
    assert scored == "\n\n\n(there) <|im_end|>Bye 12<|im_end|>"
    shorter = encode([talk], tokenizer, max_length=60)
    assert torch.equal(shorter["input_ids"], batch["input_ids"][:, :60])
    assert torch.equal(shorter["labels"], batch["labels"][:, :60])


@pytest.mark.parametrize("trim", [False, True])
def test_tokens_of_white_space_have_their_place(trim):
    """Byte-level tokenizers such as Llama 3's give white space no place in the text, or take it off a token's."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<unk>", "</s>", "<user>", "<assistant>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(["Well then.\n\nYes. \n\n  And   so on\n" * 20], trainer)
    inner.post_processor = processors.ByteLevel(trim_offsets=trim)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>\n\n{{ m.content }}</s>\n{% endfor %}"
    replies = ["Yes.\n\nAnd   so  \n", "  é, 🙂\n\n\n", "Well"]
    turns = [turn for reply in replies for turn in (("user", " Yes. \n"), ("assistant", reply))]
    row = encode_row(Example(tuple(turns)), tokenizer, max_length=500)
    # Two newlines and a first blank may be one token, which is the reply's.
    assert [tokenizer.decode(ids).lstrip() for ids in stretches(row)] == [reply.lstrip() + "</s>" for reply in replies]
    assert tokenizer.decode(row["input_ids"]) == "".join(f"<{role}>\n\n{text}</s>\n" for role, text in turns)


def test_a_tokenizer_without_offsets():
    """ByT5's is written in Python; one token per byte, so that what is scored can be read off."""
    tokenizer = ByT5Tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    row = encode_row(Example((("user", "Hé"), ("assistant", "Yö"), *ONE.messages)), tokenizer, max_length=500)
    assert not tokenizer.is_fast
    assert [tokenizer.decode(ids) for ids in stretches(row)] == ["Yö</s>", "Hello</s>"]


@pytest.mark.parametrize("chat", [False, True])
def test_truncation_keeps_the_beginning(chat):
    tokenizer = tiny_tokenizer(chat=chat)
    whole = encode_row(ONE, tokenizer, max_length=300)
    first = next(t for t, label in enumerate(whole["labels"]) if label != IGNORED)
    short = encode_row(ONE, tokenizer, max_length=first + 2)
    assert short == {key: values[: first + 2] for key, values in whole.items()}
    assert sum(label != IGNORED for label in short["labels"]) == 2


@pytest.mark.parametrize("chat", [False, True])
def test_reply_that_is_cut_off_entirely_names_the_row_and_the_way_out(chat):
    tokenizer = tiny_tokenizer(chat=chat)
    first = encode_row(ONE, tokenizer, max_length=300)["labels"].index(tokenizer("H").input_ids[0])
    with pytest.raises(
        InputError, match=rf"row 3: .* cut off entirely at {first} tokens; .*max-length\) to {first + 1} or more"
    ):
        encode([ONE], tokenizer, max_length=first)
    assert encode([ONE], tokenizer, max_length=first + 1)["labels"][0, first] != IGNORED


def test_usable_leaves_out_what_encode_refuses():
    tokenizer = tiny_tokenizer(chat=True)
    long = Example((("user", "Hi" * 50), ("assistant", "Yo")))
    assert usable([ONE, long, TALK], tokenizer, max_length=50) == [ONE, TALK]
    assert usable([ONE, long, TALK], tokenizer, max_length=200) == [ONE, long, TALK]
    assert usable([ONE, long, TALK], tokenizer, max_length=3) == []
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(InputError, match="row 3: the model's chat template does not take it: no system role"):
        usable([ONE, TALK], tokenizer, max_length=200)


def test_what_is_cut_off_is_known_by_its_type(monkeypatch):
    tokenizer, real = tiny_tokenizer(chat=True), RowError.__init__
    monkeypatch.setattr(
        RowError, "__init__", lambda self, row, reason, **more: real(self, row, "said otherwise", **more)
    )
    assert usable([ONE, TALK], tokenizer, max_length=3) == []
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(InputError, match="row 3: said otherwise"):
        usable([ONE, TALK], tokenizer, max_length=200)


def with_template(template):
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = template
    return tokenizer


MESSAGE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}"


def test_white_space_after_the_end_of_turn_mark_is_not_scored():
    tokenizer = with_template(MESSAGE + "</s>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}")
    batch = encode([TALK], tokenizer, max_length=200)
    assert "[Yo</s>]\n" in marked(batch, tokenizer)
    assert marked(batch, tokenizer).endswith("[Bye</s>]\n")
    unmarked = with_template(MESSAGE + "\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}")
    assert marked(encode([ONE], unmarked, max_length=200), unmarked).endswith("[Hello\n]")  # here it is the mark


@pytest.mark.parametrize(
    ("template", "example", "says"),
    [
        ("{{ raise_exception('no system role') }}", TALK, "row 5: .* does not take it: no system role"),
        ("{% if %}", ONE, "row 3: .* does not take it"),
        ("<user>", ONE, "row 3, turn 1: the model's chat template drops the text of a message from 'user'"),
    ],
)
def test_templates_that_cannot_be_followed(template, example, says):
    with pytest.raises(InputError, match=says):
        encode([example], with_template(template), max_length=200)


def test_a_template_that_writes_something_into_the_last_turn_alone():
    """Like Qwen3's."""
    tokenizer = with_template(MESSAGE + "{% if loop.last %}!{% endif %}</s>{% endfor %}")
    assert marked(encode([TALK], tokenizer, max_length=200), tokenizer).endswith(
        "[Yo</s>]<user>And?</s><assistant>[Bye!</s>]"
    )


def test_a_row_of_one_token_has_nothing_to_score():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match="row 3: no token of its reply can be scored"):
        encode([Example((("completion", "Y"),), row=3)], tokenizer, max_length=200)


def test_left_out_says_what_to_do_about_the_most_frequent_reason():
    left_out = LeftOut()
    for error in (RowError(1, "bad"), RowError(2, "long", advice="cut it"), RowError(3, "long", advice="cut it more")):
        left_out.add(error)
    assert str(left_out) == "2: long (the first: row 2); 1: bad (the first: row 1)"
    assert left_out.why() == f"{left_out}; cut it" and len(left_out) == 3
    with pytest.raises(RowError, match="row 4: bad; leave it out"):
        LeftOut(strict=True).add(RowError(4, "bad"))


def test_what_is_no_example():
    with pytest.raises(InputError, match="takes examples, such as those of load_data; got str"):
        encode(iter(["text"]), tiny_tokenizer(), max_length=200)


@pytest.mark.parametrize("max_length", [-1, 0, 1])
def test_maximum_length_that_is_none(max_length):
    with pytest.raises(InputError, match="at least 2 tokens"):
        encode([ONE], tiny_tokenizer(), max_length=max_length)


def test_no_examples():
    with pytest.raises(InputError, match="no examples"):
        encode([], tiny_tokenizer(), max_length=9)


def test_model_with_too_few_positions_or_another_vocabulary():
    tokenizer, model = tiny_tokenizer(), tiny("gpt2")
    with pytest.raises(InputError, match="row 3: it has more tokens than the 128 that the model has room for"):
        encode([ONE], tokenizer, max_length=300, model=model)
    model.resize_token_embeddings(20)
    with pytest.raises(InputError, match="not in the model's embedding table"):
        encode([ONE], tiny_tokenizer(chat=True), max_length=100, model=model)


def test_the_form_of_a_prompt_is_what_rows_are_rendered_to():
    """With a template, without one, and of plain text."""
    said = Example((("user", "{question}"), ("assistant", "{reply}")))
    for tokenizer in (tiny_tokenizer(chat=True), tiny_tokenizer()):
        form = prompt_format(tokenizer, "messages")
        ids = encode_row(said, tokenizer, max_length=999)["input_ids"]
        assert tokenizer(form, add_special_tokens=False)["input_ids"] == ids
        assert "{question}" in form and "{reply}" in form
    assert "### Instruction:\n{question}" in form
    assert prompt_format(tiny_tokenizer(), "text") == "{prompt}{completion}</s>"


def test_a_text_that_begins_itself_is_not_begun_twice():
    tokenizer = tiny_tokenizer(bos=True)
    once, twice = (Example((("prompt", start + "Hi"), ("completion", "Yo"))) for start in ("", "<s>"))
    batches = [encode([example], tokenizer, max_length=20) for example in (once, twice)]
    assert all(torch.equal(batches[0][key], batches[1][key]) for key in batches[0])
    assert marked(encode([Example((("completion", "<s>Yo"),))], tokenizer, max_length=20), tokenizer) == "[<s>Yo</s>]"


def test_a_translators_target_is_in_its_own_language():
    tokenizer = NllbTokenizer(src_lang="eng_Latn", tgt_lang="fra_Latn")
    table = SimpleNamespace(num_embeddings=len(tokenizer))
    model = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=True), get_input_embeddings=lambda: table)
    row = encode_row(Example((("user", "a"), ("assistant", "b"))), tokenizer, max_length=20, model=model)
    assert row["labels"][0] == tokenizer.convert_tokens_to_ids("fra_Latn")
