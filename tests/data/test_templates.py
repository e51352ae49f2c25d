"""Every chat template in the installed TRL: what is scored is the replies and their end of turn, and nothing else.

The templates are read from TRL. What is expected is written out here, per family: the end of turn, and a call.
"""

import json

import pytest

from symnoise.core import InputError
from symnoise.data import Example, encode_row
from symnoise.data.templates import set_chat_template
from tests.data.marked import stretches
from tests.data.trl_templates import NAMES, template_tokenizer
from tests.tiny import tiny_tokenizer

CALL = json.dumps({"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]})
ONE = Example((("user", "Hi"), ("assistant", "Yo")), row=3)
TWO = Example((*ONE.messages, ("user", "And?"), ("assistant", "Bye")), row=3)
SYSTEM = Example((("system", "Be kind"), *ONE.messages), row=3)
TOOL = Example(
    (("user", "Add"), ("assistant", ""), ("tool", "3"), ("assistant", "It is 3")),
    extras=((1, CALL), (2, '{"name": "add"}')),
    row=3,
)
# The longest beginning of a template's name that is here counts. What ends a turn, and what ends the last one.
ENDS = {
    "cohere": ("<|END_OF_TURN_TOKEN|>",),
    "cohere2": ("<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",),
    "deepseek": ("<｜end▁of▁sentence｜>",),
    "diffusion_gemma": ("<turn|>",),
    "gemma": ("<end_of_turn>",),
    "gemma4": ("<turn|>",),
    "glm4moe": ("<|user|>",),  # a turn ends with the mark of the next
    "gptoss": ("<|end|>", "<|return|>"),
    "idefics3": ("<end_of_utterance>",),
    "lfm2": ("<|im_end|>",),
    "llama3": ("<|eot_id|>",),
    "llava_next": ("</s>",),
    "muse": ("<|eot|>",),
    "nemotron": ("<|im_end|>",),
    "phi3": ("<|end|>", "<|end|>\n</s>"),
    "qwen": ("<|im_end|>",),
    "smolvlm": ("<end_of_utterance>",),
}
ALTERNATE = "row 3: .* does not take it: Conversation roles must alternate"
DROPPED = "row 3, turn 2: the model's chat template drops a call of a message from 'assistant'"
_DEEPSEEK = (
    '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{"a": 1}\n```<｜tool▁call▁end｜>'
)
_JSON = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>'
_XML = "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>"
# The call as it is scored, its end with it; or the refusal of a template that has no tools.
CALLS = {
    "cohere": ALTERNATE,
    "deepseek_r1_distill": _DEEPSEEK,  # which ends no turn with a call
    "deepseekv3": _DEEPSEEK + "<｜tool▁calls▁end｜><｜end▁of▁sentence｜>",
    "diffusion_gemma": "<|tool_call>call:add{a:1}<tool_call|>",
    "gemma": ALTERNATE,
    "gemma4": "<|tool_call>call:add{a:1}<tool_call|>",
    "gemma4_v2": "<|tool_call>call:add{a:1}<tool_call|><turn|>",
    "glm4moe": "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call><|observation|>",
    "gptoss": ' to=functions.add<|channel|>commentary json<|message|>{"a": 1}<|call|>',
    "idefics3": DROPPED,
    "lfm2": DROPPED,
    "lfm2_2_5": "<|tool_call_start|>[add(a=1)]<|tool_call_end|><|im_end|>",
    "lfm2_v2": "<|tool_call_start|>[add(a=1)]<|tool_call_end|><|im_end|>",
    "llama3": DROPPED,
    "llama3_1": '{"name": "add", "parameters": {"a": 1}}<|eot_id|>',
    "llama3_2": '{"name": "add", "parameters": {"a": 1}}<|eot_id|>',
    "llava_next": "row 3: .* does not take it: Only user and assistant roles are supported!",
    "muse": ' to=add<|message|><atem:function_calls>\n<atem:invoke name="add">\n<atem:parameter name="a">1'
    "</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eot|>",
    "nemotron": _XML + "\n<|im_end|>",
    "phi3": DROPPED,
    "qwen2_5": _JSON,
    "qwen2_5_vl": DROPPED,
    "qwen3": _JSON,
    "qwen3_5": _XML + "<|im_end|>",
    "qwen3_6": _XML + "<|im_end|>",
    "qwen3_8": _XML + "<|im_end|>",
    "smolvlm": DROPPED,
}


def of_family(table, name):
    return table[max((key for key in table if name.startswith(key)), key=len)]


def scored(example, tokenizer):
    """The stretches that are scored."""
    row = encode_row(example, tokenizer, max_length=10**6)
    return ["".join(tokenizer.convert_ids_to_tokens(ids)) for ids in stretches(row)]


def text(example, tokenizer):
    return "".join(tokenizer.convert_ids_to_tokens(encode_row(example, tokenizer, max_length=10**6)["input_ids"]))


def test_the_installed_trl_has_templates():
    assert len(NAMES) >= 60


@pytest.mark.parametrize("name", NAMES)
def test_one_turn_two_turns_and_a_system_turn(name):
    tokenizer, ends = template_tokenizer(name), of_family(ENDS, name)
    assert scored(ONE, tokenizer) == ["Yo" + ends[-1]]
    assert scored(TWO, tokenizer) == ["Yo" + ends[0], "Bye" + ends[-1]]
    assert scored(SYSTEM, tokenizer) == ["Yo" + ends[-1]]
    assert "Be kind" in text(SYSTEM, tokenizer) and "Hi" in text(SYSTEM, tokenizer)


@pytest.mark.parametrize("name", NAMES)
def test_a_tool_turn(name):
    tokenizer, call = template_tokenizer(name), of_family(CALLS, name)
    if call.startswith("row 3"):
        with pytest.raises(InputError, match=call):
            encode_row(TOOL, tokenizer, max_length=10**6)
    else:
        assert scored(TOOL, tokenizer) == [call, "It is 3" + of_family(ENDS, name)[-1]]


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_that_counts_as_context_is_not_scored(name):
    example = Example(TWO.messages, unscored=(1,))
    assert scored(example, template_tokenizer(name)) == ["Bye" + of_family(ENDS, name)[-1]]


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "qwen3_training", "nemotron_3_nano", "glm4moe"])
def test_thinking_is_scored_where_it_is_the_replys_own(name):
    """These templates keep the last turn's; what they write between an empty pair of tags is theirs."""
    tokenizer, end = template_tokenizer(name), of_family(ENDS, name)[-1]
    own = "<think>\nso\n</think>\n\nYo"
    found = scored(Example((("user", "Hi"), ("assistant", own))), tokenizer)
    assert len(found) == 1 and found[0].startswith("<think>") and "so" in found[0] and found[0].endswith("Yo" + end)
    by_key = Example(ONE.messages, extras=((1, '{"reasoning_content": "so"}'),))
    found = scored(by_key, tokenizer)
    assert len(found) == 1 and found[0].startswith("<think>") and "so" in found[0] and found[0].endswith("Yo" + end)
    assert "<think>" in text(ONE, tokenizer) and scored(ONE, tokenizer) == ["Yo" + end]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "reply",
    [
        "assistant",  # as in the template's own marks
        "  Yo \n",
        "Hi",  # the question's own words
        "<|im_end|> is a mark",
        'a "quoted" {brace} {% raw %} \\n',
        "user\nHi<|im_end|>",
    ],
)
def test_replies_that_look_like_a_template(name, reply):
    """The reply is found by what stands around it, not by looking for its words."""
    tokenizer, end = template_tokenizer(name), of_family(ENDS, name)[-1]
    example = Example((("user", "Hi"), ("assistant", "Hi"), ("user", reply), ("assistant", reply)))
    found = scored(example, tokenizer)
    assert len(found) == 2 and found[1].strip().removesuffix(end).strip() == reply.strip()


def test_a_template_that_loses_a_text_is_refused():
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = "{% for m in messages if m.role != 'user' %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    with pytest.raises(
        InputError, match="row 3, turn 1: the model's chat template drops the text of a message from 'user'"
    ):
        encode_row(ONE, tokenizer, max_length=100)


def test_an_end_mark_that_is_no_special_token():
    """With EOS after the last turn's, as in Phi 3."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}[end]\n{% endfor %}{{ eos_token }}"
    assert scored(TWO, tokenizer) == ["Yo[end]", "Bye[end]\n</s>"]


@pytest.mark.parametrize(
    ("name", "date"), [("gptoss", "2024-07-26"), ("muse_glimmer", "2024-07-26"), ("llama3_2", "26 Jul 2024")]
)
def test_no_template_writes_the_day_of_the_run(name, date):
    """The same row is the same tokens tomorrow."""
    assert f"ate: {date}" in text(ONE, template_tokenizer(name))


def test_a_reply_outside_of_every_generation_block_is_not_scored():
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{% if loop.last %}{% generation %}{{ m.content }}</s>{% endgeneration %}"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
    )
    assert scored(TWO, tokenizer) == ["Bye</s>"]


def test_a_chat_template_from_a_file(tmp_path):
    tokenizer, file = tiny_tokenizer(), tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}")
    set_chat_template(tokenizer, file)
    assert text(ONE, tokenizer) == "[user]Hi</s>[assistant]Yo</s>" and scored(ONE, tokenizer) == ["Yo</s>"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read the chat template"),
        (b"\xff", "own.jinja is not UTF-8 text"),
        (b"\n{% if %}", "own.jinja, line 2"),
        (b" ", "is empty"),
    ],
)
def test_a_file_that_is_no_chat_template(tmp_path, content, says):
    if content is not None:
        (tmp_path / "own.jinja").write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        set_chat_template(tiny_tokenizer(), tmp_path / "own.jinja")
    assert "\n" not in str(caught.value)
