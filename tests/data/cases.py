"""Rows and files as people have them, with the right value of each: add a case by adding an entry.

The text that the model reads, with [ ] around what is scored; or the refusal, whole up to its advice. <s> and </s> are
the tokenizer's own; <tool> and what stands in ( ) are the template's for tools.
"""

import gzip
import json

HI = "<s><user>Hi</s><assistant>"
TALK = HI + "[Yo</s>]"
SYSTEM = "<s><system>Be kind</s><user>Hi</s><assistant>[Yo</s>]"
TWO = TALK + "<user>And?</s><assistant>[Bye</s>]"
CALL = HI + '[(add {"a": 1})</s>]<tool>3</s><assistant>[It is 3</s>]'
NEVER = "row 1: it has no reply, that is, no message of an assistant"


def said(role, content, **more):
    return {"role": role, "content": content, **more}


def shared(*pairs):
    return {"conversations": [{"from": role, "value": text} for role, text in pairs]}


def talk(*messages, **more):
    return {"messages": list(messages), **more}


U, A = said("user", "Hi"), said("assistant", "Yo")
FUNCTION = {"name": "add", "arguments": {"a": 1}}
CALLING = said("assistant", None, tool_calls=[{"id": "x", "type": "function", "function": FUNCTION}])
ANSWERED = [said("tool", "3", tool_call_id="x"), said("assistant", "It is 3")]
ALPACA = {"instruction": "Hi", "input": "", "output": "Yo"}

ROWS = {
    # messages
    "messages": (talk(U, A), TALK),
    "two turns": (talk(U, A, said("user", "And?"), said("assistant", "Bye")), TWO),
    "system": (talk(said("system", "Be kind"), U, A), SYSTEM),
    "developer": (talk(said("developer", "Be kind"), U, A), SYSTEM),
    "empty system": (talk(said("system", ""), U, A), TALK),
    "roles in capitals": (talk(said("User", "Hi"), said("ASSISTANT", "Yo")), TALK),
    "role model": (talk(U, said("model", "Yo")), TALK),
    "content parts": (
        talk(said("user", [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]), said("assistant", ["Yo"])),
        TALK,
    ),
    "content part filled with null": (talk(said("user", [{"type": "text", "text": "Hi", "image_url": None}]), A), TALK),
    "messages as JSON text": ({"messages": json.dumps([U, A])}, TALK),
    "messages as columns": ({"messages": {"role": ["user", "assistant"], "content": ["Hi", "Yo"]}}, TALK),
    "messages after the last reply": (talk(U, A, said("user", "And?")), TALK),
    "reply first": (talk(said("assistant", "Welcome"), U, A), TALK),
    "system, then reply first": (talk(said("system", "Be kind"), said("assistant", "Welcome"), U, A), SYSTEM),
    "empty reply later": (talk(U, A, said("user", "And?"), said("assistant", " ")), TALK),
    "empty question later": (talk(U, A, said("user", ""), said("assistant", "Bye")), TALK),
    "two questions": (talk(U, U, A), "<s><user>Hi</s><user>Hi</s><assistant>[Yo</s>]"),
    "two replies": (talk(U, A, A), TALK + "<assistant>[Yo</s>]"),
    "white space kept": (talk(said("user", " Hi "), A), "<s><user> Hi </s><assistant>[Yo</s>]"),
    # turns that are not to be trained on
    "weight 0": (talk(U, said("assistant", "Bad", weight=0), U, A), HI + "Bad</s><user>Hi</s><assistant>[Yo</s>]"),
    "weight 1": (talk(U, said("assistant", "Yo", weight=1)), TALK),
    "weight 0.0": (talk(U, A, U, said("assistant", "Bad", weight=0.0)), TALK),
    "train false": (
        talk(U, said("assistant", "Bad", train=False), U, A),
        HI + "Bad</s><user>Hi</s><assistant>[Yo</s>]",
    ),
    "training false": (talk(U, A, U, said("assistant", "Bad", training=False)), TALK),
    "loss false": (talk(U, A, U, said("assistant", "Bad", loss=False)), TALK),
    "weight null": (talk(U, said("assistant", "Yo", weight=None)), TALK),
    "train false in ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Bad", "train": False}]
            + [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]
        },
        HI + "Bad</s><user>Hi</s><assistant>[Yo</s>]",
    ),
    # tools
    "tool call, null content": (talk(said("user", "Hi"), CALLING, *ANSWERED), CALL),
    "tool call, arguments as text": (
        talk(U, said("assistant", "", tool_calls=[{"function": {"name": "add", "arguments": '{"a": 1}'}}]), *ANSWERED),
        CALL,
    ),
    "tool call with text": (
        talk(U, {**CALLING, "content": "OK"}, *ANSWERED),
        HI + '[OK(add {"a": 1})</s>]<tool>3</s><assistant>[It is 3</s>]',
    ),
    "tool call last": (talk(U, CALLING), HI + '[(add {"a": 1})</s>]'),
    "old function_call": (talk(U, said("assistant", None, function_call=FUNCTION), *ANSWERED), CALL),
    "tool calls filled with null": (talk({**U, "tool_calls": None}, {**A, "tool_calls": None, "name": None}), TALK),
    "arguments filled with null": (
        talk(
            U,
            said("assistant", None, tool_calls=[{"function": {"name": "add", "arguments": {"a": 1, "b": None}}}]),
            *ANSWERED,
        ),
        CALL,
    ),
    "nulls of arguments that are text": (
        talk(
            U,
            said("assistant", None, tool_calls=[{"function": {"name": "add", "arguments": '{"a": 1, "b": null}'}}]),
            *ANSWERED,
        ),
        HI + '[(add {"a": 1, "b": null})</s>]<tool>3</s><assistant>[It is 3</s>]',
    ),
    "a function without arguments": (
        talk(
            U, said("assistant", None, tool_calls='[{"function": null, "name": "add", "arguments": null}]'), *ANSWERED
        ),
        HI + "[(add {})</s>]<tool>3</s><assistant>[It is 3</s>]",
    ),
    "empty answer of a tool": (
        talk(U, CALLING, said("tool", ""), ANSWERED[1]),
        HI + '[(add {"a": 1})</s>]<tool></s><assistant>[It is 3</s>]',
    ),
    "function_call and observation": (
        shared(("human", "Hi"), ("function_call", json.dumps(FUNCTION)), ("observation", "3"), ("gpt", "It is 3")),
        CALL,
    ),
    "function_call and tool": (
        shared(("human", "Hi"), ("function_call", json.dumps([FUNCTION])), ("tool", "3"), ("gpt", "It is 3")),
        CALL,
    ),
    "function_call that is words": (shared(("human", "Hi"), ("function_call", "Yo")), TALK),
    # ShareGPT
    "ShareGPT": (shared(("human", "Hi"), ("gpt", "Yo"), ("human", "And?"), ("gpt", "Bye")), TWO),
    "ShareGPT, system": (shared(("system", "Be kind"), ("human", "Hi"), ("gpt", "Yo")), SYSTEM),
    "ShareGPT, user and chatgpt": (shared(("user", "Hi"), ("chatgpt", "Yo")), TALK),
    "ShareGPT, bing and bard": (shared(("human", "Hi"), ("bing", "Yo"), ("human", "And?"), ("bard", "Bye")), TWO),
    "ShareGPT, reply first": (shared(("gpt", "so on"), ("human", "Hi"), ("gpt", "Yo")), TALK),
    "ShareGPT, empty turn": (shared(("human", "Hi"), ("gpt", "Yo"), ("human", "And?"), ("gpt", "")), TALK),
    "ShareGPT keys filled with null": (
        {
            "conversations": [
                {"from": "human", "value": "Hi", "role": None, "content": None},
                {"from": None, "value": None, "role": "assistant", "content": "Yo"},
            ],
            "messages": None,
        },
        TALK,
    ),
    "ShareGPT, system in a column": ({"system": "Be kind"} | shared(("human", "Hi"), ("gpt", "Yo")), SYSTEM),
    "messages, system in a column": (talk(U, A, system="Be kind"), SYSTEM),
    "system in a column and in the messages": (talk(said("system", "Be kind"), U, A, system="Be rude"), SYSTEM),
    "system in a column, blank": (talk(U, A, system=" "), TALK),
    # prompt and completion
    "prompt and completion": ({"prompt": "Hi", "completion": " Yo"}, "Hi[ Yo</s>]"),
    "completion with its EOS": ({"prompt": "Hi", "completion": " Yo</s>"}, "Hi[ Yo</s>]"),
    "empty prompt": ({"prompt": "", "completion": "Yo"}, "[Yo</s>]"),
    "prompt and completion as lists": ({"prompt": [U], "completion": [A]}, TALK),
    "replies in the prompt": (
        {"prompt": [U, A, said("user", "And?")], "completion": [said("assistant", "Bye")]},
        HI + "Yo</s><user>And?</s><assistant>[Bye</s>]",
    ),
    "system in the prompt": ({"prompt": [said("system", "Be kind"), U], "completion": [A]}, SYSTEM),
    # text
    "text": ({"text": "Once"}, "[Once</s>]"),
    "text and other columns": ({"text": "Once", "meta": {"n": 1}}, "[Once</s>]"),
    "text that is whole": ({"text": "Q: Hi A: Yo", "question": "Hi ", "answer": "Yo"}, "[Q: Hi A: Yo</s>]"),
    "text that ends itself": ({"text": "Once</s>\n"}, "[Once</s>\n]"),
    "text with columns of null": ({"text": "Once", "messages": None, "instruction": None}, "[Once</s>]"),
    # Alpaca and Dolly
    "Alpaca": (ALPACA, TALK),
    "Alpaca, input": (ALPACA | {"input": "you"}, "<s><user>Hi\n\nyou</s><assistant>[Yo</s>]"),
    "Alpaca, input null": (ALPACA | {"input": None}, TALK),
    "Alpaca, text as well": (ALPACA | {"text": "Below is …"}, TALK),
    "Alpaca, system": (ALPACA | {"system": "Be kind"}, SYSTEM),
    "Alpaca, system and input": (
        ALPACA | {"system": "Be kind", "input": "you"},
        "<s><system>Be kind</s><user>Hi\n\nyou</s><assistant>[Yo</s>]",
    ),
    "Alpaca, history": ({"instruction": "And?", "output": "Bye", "history": [["Hi", "Yo"]]}, TWO),
    "Alpaca, history and input": (
        {"instruction": "And?", "input": "you", "output": "Bye", "history": [["Hi", "Yo"]]},
        TALK + "<user>And?\n\nyou</s><assistant>[Bye</s>]",
    ),
    "Alpaca, history as JSON text": ({"instruction": "And?", "output": "Bye", "history": '[["Hi", "Yo"]]'}, TWO),
    "Alpaca, empty history": (ALPACA | {"history": []}, TALK),
    "Alpaca, system_prompt": (ALPACA | {"system_prompt": "Be kind"}, SYSTEM),
    "Alpaca, response": (
        {"instruction": "Hi", "input": "you", "response": "Yo"},
        "<s><user>Hi\n\nyou</s><assistant>[Yo</s>]",
    ),
    "Alpaca, context": (
        {"instruction": "Hi", "context": "you", "output": "Yo"},
        "<s><user>Hi\n\nyou</s><assistant>[Yo</s>]",
    ),
    "Alpaca, empty response": (ALPACA | {"response": "", "context": None}, TALK),
    "Dolly": ({"instruction": "Hi", "context": "", "response": "Yo", "category": "open_qa"}, TALK),
    "Dolly, context": (
        {"instruction": "Hi", "context": "you", "response": "Yo"},
        "<s><user>Hi\n\nyou</s><assistant>[Yo</s>]",
    ),
}

REFUSED = {
    "no object": ("text", "row 1: it is not an object but str"),
    "no form": ({"question": "a", "answer": "b"}, "row 1: it is in no form known here, since it has answer, question"),
    "all null": ({"a": None}, "row 1: it is in no form known here, since it has nothing"),
    "keys that cannot be printed": ({"\ud83d\n": 1}, "row 1: it is in no form known here, since it has \\ud83d"),
    "keys without end": (
        {f"column {i}": 1 for i in range(10_000)},
        "row 1: it is in no form known here, since it has column 0, column 1, column 10,",
    ),
    "messages a number": ({"messages": 3}, "row 1: its 'messages' is not a list of messages"),
    "no output": ({"instruction": "Hi"}, "row 1: its 'output' is missing"),
    "instruction null": (ALPACA | {"instruction": None}, "row 1: its 'instruction' is missing"),
    "output blank": (ALPACA | {"output": " \n"}, "row 1: its 'output' is empty"),
    "instruction empty": (ALPACA | {"instruction": ""}, "row 1: its 'instruction' is empty"),
    "input a number": (ALPACA | {"input": 3}, "row 1: its 'input' is not text but int"),
    "history no pairs": (ALPACA | {"history": ["Hi"]}, "row 1: its 'history' is not a list of pairs of texts"),
    "history a number": (ALPACA | {"history": 3}, "row 1: its 'history' is not a list of pairs of texts"),
    "history with null": (ALPACA | {"history": [["Hi", None]]}, "row 1: its 'history' is not a list of pairs of texts"),
    "history with a blank": (ALPACA | {"history": [["Hi", " "]]}, "row 1: its 'history' is empty"),
    "lone surrogate in the history": (ALPACA | {"history": [["\ud83d", "Yo"]]}, "row 1: its 'history' has a lone"),
    "system a number": (talk(U, A, system=3), "row 1: its 'system' is not text but int"),
    "no response": ({"instruction": "Hi", "context": "", "response": None}, "row 1: its 'output' is missing"),
    "messages null": ({"messages": None}, "row 1: its 'messages' is missing"),
    "messages a text": ({"messages": "Hi"}, "row 1: its 'messages' is not a list of messages"),
    "no messages": ({"messages": []}, "row 1: its conversation is empty"),
    "no ShareGPT turns": ({"conversations": []}, "row 1: its conversation is empty"),
    "a message that is text": ({"messages": ["Hi"]}, "row 1, turn 1: it is not an object but str"),
    "no reply": (talk(U), NEVER),
    "reply before any question": (talk(A), "row 1: it has no reply after a message of a user"),
    "empty reply": (talk(U, said("assistant", "")), "row 1, turn 2: its 'content' is empty"),
    "empty question": (talk(said("user", ""), A), "row 1, turn 1: its 'content' is empty"),
    "empty ShareGPT question": (shared(("human", ""), ("gpt", "Yo")), "row 1, turn 1: its 'value' is empty"),
    "unknown role": (talk(U, said("robot", "Yo")), "row 1, turn 2: it is from 'robot'"),
    "no role": (talk({"content": "Hi"}, A), "row 1, turn 1: it is from None"),
    "role a list": ({"conversations": [{"from": ["gpt"], "value": "Hi"}]}, "row 1, turn 1: it is from ['gpt']"),
    "no value": ({"conversations": [{"from": "human"}]}, "row 1, turn 1: its 'value' is missing"),
    "content a number": (talk(U, said("assistant", 3)), "row 1, turn 2: its 'content' is not text but int"),
    "content with a picture": (
        talk(said("user", [{"type": "image", "image": "x"}]), A),
        "row 1, turn 1: its 'content' has a part of type 'image', and only text is read here",
    ),
    "weight 0.5": (talk(U, said("assistant", "Yo", weight=0.5)), "row 1, turn 2: its 'weight' is 0.5"),
    "train a word": (talk(U, said("assistant", "Yo", train="no")), "row 1, turn 2: its 'train' is 'no'"),
    "all weights 0": (talk(U, said("assistant", "Yo", weight=0)), "row 1: none of its replies is to be scored"),
    "call without a name": (
        talk(U, said("assistant", None, tool_calls=[{"function": {}}])),
        "row 1, turn 2: its 'tool_calls' is not a list of calls, each with a name",
    ),
    "tools no list": (talk(U, A, tools="add"), "row 1: its 'tools' is not a list of objects"),
    "no completion": ({"prompt": "Hi", "completion": None}, "row 1: its 'completion' is missing"),
    "prompt a list, completion text": (
        {"prompt": [U], "completion": "Yo"},
        "row 1: of its 'prompt' and 'completion' one is a list and one is text",
    ),
    "completion without a reply": ({"prompt": [U], "completion": [U]}, NEVER),
    "text empty": ({"text": ""}, "row 1: its 'text' is empty"),
    # a prompt or a reply under a name of another form
    "instruction and completion": (
        {"instruction": "Hi", "completion": "Yo"},
        "row 1: it has a 'completion' but no 'prompt', and 'instruction': rename that column to prompt",
    ),
    "question and completion": ({"prompt": None, "question": "Hi", "completion": "Yo"}, "no 'prompt', and 'question'"),
    "text and completion": ({"text": "Hi", "completion": "Yo"}, "no 'prompt', and 'text'"),
    "text and answer": (
        {"text": "Hi", "answer": "Yo"},
        "row 1: it has 'text', and 'answer', which is not in that text",
    ),
    "prompt and text": (
        {"prompt": "Hi", "text": "Yo"},
        "row 1: it has 'text', and 'prompt', which is not in that text",
    ),
    "output and response": (
        ALPACA | {"response": "No"},
        "row 1: it has both 'output' and 'response': remove the column",
    ),
    "input and context": (ALPACA | {"input": "1", "context": "2"}, "row 1: it has both 'input' and 'context'"),
    "lone surrogate": (
        talk(U, said("assistant", "Yo \ud83d")),
        "row 1, turn 2: its 'content' has a lone surrogate or bytes that are not UTF-8",
    ),
    "lone surrogate in Alpaca": (ALPACA | {"output": "\udc80"}, "row 1: its 'output' has a lone surrogate"),
    "lone surrogate in a call": (
        talk(U, said("assistant", None, tool_calls=[{"function": {"name": "add", "arguments": {"a": "\ud83d"}}}])),
        "row 1: it has a lone surrogate, which no tokenizer reads",
    ),
}

LINE = json.dumps(ALPACA)
FILES = {
    "JSON list": ("a.json", json.dumps([ALPACA, ALPACA], indent=1), [TALK, TALK]),
    "JSON lines as .json": ("a.json", f"{LINE}\n\n{LINE}\n", [TALK, TALK]),
    "one object as .json": ("a.json", LINE, [TALK]),
    "JSON lines": ("a.jsonl", f"{LINE}\n{LINE}", [TALK, TALK]),
    "CRLF": ("a.jsonl", f"{LINE}\r\n\r\n{LINE}\r\n", [TALK, TALK]),
    "BOM before lines": ("a.jsonl", "\ufeff" + LINE, [TALK]),
    "BOM before a list": ("a.json", f"\ufeff [{LINE}]", [TALK]),
    "gzipped lines": ("a.jsonl.gz", gzip.compress(LINE.encode()), [TALK]),
    "gzipped list": ("a.json.gz", gzip.compress(f"[{LINE}]".encode()), [TALK]),
    "an item longer than what is read at once": (
        "a.json",
        json.dumps([talk(U, said("assistant", "Yo", meta="x" * 200_000)), ALPACA]),
        [TALK, TALK],
    ),
    "blanks longer than what is read at once": (
        "a.json",
        f"[{LINE},{' ' * 100_000}{LINE}{' ' * 100_000}]",
        [TALK, TALK],
    ),
    "CSV": (
        "a.csv",
        "instruction,input,output\nHi,,Yo\nHi,you,Yo\n",
        [TALK, "<s><user>Hi\n\nyou</s><assistant>[Yo</s>]"],
    ),
    "CSV with quotes and a BOM": ("a.csv", '\ufeffprompt,completion\r\n"a, b","c\nd"\r\n', ["a, b[c\nd</s>]"]),
    "CSV with a conversation": ("a.csv", 'messages\n"' + json.dumps([U, A]).replace('"', '""') + '"\n', [TALK]),
    "gzipped CSV": ("a.csv.gz", gzip.compress(b"text\nOnce\n"), ["[Once</s>]"]),
    "text": ("a.txt", "Once\r\n\r\nTwice\n", ["[Once</s>]", "[Twice</s>]"]),
    "gzipped text": ("a.txt.gz", gzip.compress(b"Once"), ["[Once</s>]"]),
    "forms that mix": (
        "a.jsonl",
        "\n".join(map(json.dumps, [ALPACA, talk(U, A), {"text": "Once"}])),
        [TALK, TALK, "[Once</s>]"],
    ),
    # what cannot be used is left out
    "a bad row": ("a.jsonl", f"{LINE}\n{{}}\n{LINE}", [TALK, TALK]),
    "a line that is not JSON": ("a.jsonl", f"{LINE}\n{{oops\n{LINE}", [TALK, TALK]),
    "a number too long for Python": ("a.jsonl", f"{LINE}\n{'1' * 5000}\n{LINE}", [TALK, TALK]),
    "a nesting too deep": ("a.jsonl", f"{LINE}\n{'[' * 100_000}\n{LINE}", [TALK, TALK]),
    "a nesting too deep in a list": ("a.json", f"[{LINE}, {'[' * 100_000}", [TALK]),
    "a list that is cut off": ("a.json", f"[{LINE}, {LINE[:20]}", [TALK]),
    "a second list after the first": ("a.json", f"[{LINE}]\n[{LINE}]", [TALK]),
    "a list with a fault": ("a.json", f"[{LINE}, {{oops}}, {LINE}]", [TALK]),
    "bytes that are not UTF-8": ("a.jsonl", LINE.encode() + b'\n{"text": "\xff"}\n', [TALK]),
    "CSV with a quote that is not closed": ("a.csv", 'instruction,output\nHi,Yo\nHi,"Yo\nHi,Yo\n', [TALK]),
    "CSV that is cut off": ("a.csv", 'instruction,output\nHi,Yo\nHi,"Yo that is cut', [TALK]),
    "CSV with quotes in a text": ("a.csv", 'instruction,output\nHi,Yo\nHi,"Yo "there""\nHi,Yo\n', [TALK]),
    "CSV with a short line": ("a.csv", "instruction,output\nHi,Yo\nHi\nHi,Yo,Yo\n", [TALK]),
    # none left
    "nothing": ("a.jsonl", "", "has no rows"),
    "an empty list": ("a.json", "[]", "has no rows"),
    "CSV with a column twice": (
        "a.csv",
        "instruction,output,output\nHi,Yo,No\n",
        "has the column 'output' twice: rename",
    ),
    "a CSV of names": ("a.csv", "instruction,output\n", "has no rows"),
    "bad rows alone": ("a.jsonl", "{}\n{}", "none of its 2 rows can be used: row 1: it is in no form known here"),
    "two kinds of bad rows": (
        "a.jsonl",
        '{"text": ""}\n{"text": ""}\n3',
        "none of its 3 rows can be used: 2: its 'text' is empty (the first: row 1); "
        "1: it is not an object but int (the first: row 3); leave it out",
    ),
    "UTF-16": ("a.jsonl", LINE.encode("utf-16"), "is UTF-16: convert it to UTF-8, as with iconv"),
    "UTF-16 without its mark": ("a.jsonl", LINE.encode("utf-16-le"), "is UTF-16LE: convert it to UTF-8"),
    "UTF-16 of the other order": ("a.csv", "text\nHi\n".encode("utf-16-be"), "is UTF-16BE: convert it to UTF-8"),
    "UTF-32": ("a.jsonl", LINE.encode("utf-32"), "is UTF-32: convert it to UTF-8"),
    "no parquet": ("a.parquet", b"not parquet", "cannot read"),
    "empty parquet": ("a.parquet", b"", "cannot read"),
    "capital suffixes": ("a.JSONL.GZ", gzip.compress(LINE.encode()), [TALK]),
    "CSV by an old Macintosh": ("a.csv", "instruction,output\rHi,Yo\r", [TALK]),
    "parquet in gzip": ("a.parquet.gz", gzip.compress(b"PAR1"), "is parquet in gzip, which is not read: unpack it"),
    "gzip damaged": ("a.jsonl.gz", gzip.compress(LINE.encode() * 9)[:15] + b"damaged" * 9, "cannot read"),
    "no gzip": ("a.jsonl.gz", LINE, "cannot read"),
    "gzip cut off": ("a.jsonl.gz", gzip.compress(LINE.encode() * 100)[:-20], "cannot read"),
    "another suffix": ("a.yaml", LINE, "ends in .yaml: give a .json, .jsonl, .csv, .txt, .parquet file, or .gz of one"),
    "no suffix": ("a", LINE, "ends in nothing"),
}
