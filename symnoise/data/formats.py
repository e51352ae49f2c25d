"""Rows as examples: the row formats of published data sets, recognised by their keys."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from symnoise.data.example import Example, RowError, is_text, without_nulls

Row = dict[str, Any]

_ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model", "bing", "bard", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response"), "tool"),
}
# If false or 0, the reply is context only: keys of OpenAI, Mistral, axolotl and ms-swift.
_WEIGHTS = ("weight", "train", "training", "loss")
_REASONING = ("reasoning_content", "reasoning", "thinking")
# Columns of text that stand for a prompt or for a reply in some published data set.
_PROMPTS = ("prompt", "instruction", "input", "question", "query", "context")
_REPLIES = ("completion", "output", "response", "answer", "reply")


class _FaultError(ValueError):
    """What is wrong with a row, and in which turn."""

    def __init__(self, reason: str, turn: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.turn = reason, turn


@dataclass
class _Turn:
    role: str
    text: str
    number: int
    key: str = "content"
    scored: bool = True
    extra: Row = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """No text; a tool may answer with nothing, and a call needs no text."""
        return self.role != "tool" and not self.text and not self.extra


def example_of(row: Any, number: int) -> tuple[str, Example]:
    """(form, example) of one row. Raises `RowError`, naming row, turn and key."""
    try:
        if not isinstance(row, dict):
            raise _FaultError(f"it is not an object but {type(row).__name__}")
        given = without_nulls(row)
        # A table may have the columns of several forms.
        form = next((form for there in (given, row) for form, (key, _) in _FORMS.items() if key in there), None)
        if form is None:
            keys = ", ".join(sorted(map(str, given))) or "nothing"
            raise _FaultError(
                f"it is in no form known here, since it has {keys}; known are {', '.join(FORMS)}: name its columns as "
                "one of these does, such as instruction and output"
            )
        return form, _FORMS[form][1](given, number)
    except _FaultError as fault:
        raise RowError(number, fault.reason, turn=fault.turn) from fault


def _from_messages(key: str, row: Row, number: int) -> Example:
    turns = _turns(row, key)
    # LLaMA-Factory keeps the system message in its own column, which is used if the conversation has none.
    if not any(turn.role == "system" for turn in turns) and (system := _system(row)):
        turns.insert(0, _Turn("system", system, 0, "system"))
    return _conversation(turns, row, number)


def _from_prompt(row: Row, number: int) -> Example:
    """TRL's prompt and completion: both plain text or both lists of messages."""
    kinds = [type(row.get(key, "")) for key in ("prompt", "completion")]
    if list in kinds:
        if kinds != [list, list]:
            raise _FaultError("of its 'prompt' and 'completion' one is a list and one is text")
        before, after = _turns(row, "prompt"), _turns(row, "completion")
        for turn in before:
            turn.scored = False
        for turn in after:
            turn.number += len(before)
        return _conversation(before + after, row, number)
    prompt, completion = _text(row, "prompt", optional=True), _text(row, "completion")
    if not prompt and (other := _filled(row, (*_PROMPTS, "text"))):
        raise _FaultError(f"it has a 'completion' but no 'prompt', and {other[0]!r}: rename that column to prompt")
    return Example((*((("prompt", prompt),) if prompt else ()), ("completion", completion)), row=number)


def _from_instruction(row: Row, number: int) -> Example:
    """Alpaca, with optional `system` and `history`, and Dolly, whose columns have other names."""
    reply, more = _one_of(row, "output", "response"), _one_of(row, "input", "context")
    turns = [_Turn("system", system, 1)] if (system := _system(row)) else []
    for pair in _history(row):
        turns += [_Turn(role, text, 1) for role, text in zip(("user", "assistant"), pair, strict=True)]
    turns += [_Turn("user", _text(row, "instruction"), 1), _Turn("assistant", _text(row, reply), 1)]
    return Example(tuple((t.role, t.text) for t in turns), _text(row, more, optional=True), number)


def _one_of(row: Row, *keys: str) -> str:
    """The one of `keys` that has text, else the first that is there at all, else the first."""
    if len(filled := _filled(row, keys)) > 1:
        raise _FaultError(f"it has both {' and '.join(map(repr, filled))}: remove the column that is not meant")
    return next(iter((*filled, *(key for key in keys if key in row))), keys[0])


def _filled(row: Row, keys: Iterable[str]) -> list[str]:
    """Those of `keys` that have text."""
    return [key for key in keys if isinstance(row.get(key), str) and row[key].strip()]


def _system(row: Row) -> str:
    """The system message in a column of its own, as in LLaMA-Factory and OpenOrca; "" for none."""
    return _text(row, "system", optional=True) or _text(row, "system_prompt", optional=True)


def _history(row: Row) -> list[list[str]]:
    pairs = without_nulls(_parsed(row.get("history") or []))
    if not (isinstance(pairs, list) and all(isinstance(p, list) and [*map(type, p)] == [str, str] for p in pairs)):
        raise _FaultError("its 'history' is not a list of pairs of texts")
    return [[_text({"history": text}, "history") for text in pair] for pair in pairs]


def _from_text(row: Row, number: int) -> Example:
    """Text that is whole: a prompt or a reply in another column must be in it."""
    text = _text(row, "text")
    if left := [key for key in _filled(row, (*_PROMPTS, *_REPLIES)) if row[key].strip() not in text]:
        raise _FaultError(
            f"it has 'text', and {left[0]!r}, which is not in that text: rename its columns to prompt and completion"
        )
    return Example((("completion", text),), row=number)


# Each form with the key that identifies it and its reader; the first whose key is present is used.
_FORMS: dict[str, tuple[str, Callable[[Row, int], Example]]] = {
    "messages": ("messages", partial(_from_messages, "messages")),
    "ShareGPT": ("conversations", partial(_from_messages, "conversations")),
    "prompt-completion": ("completion", _from_prompt),
    "Alpaca": ("instruction", _from_instruction),
    "text": ("text", _from_text),
}
FORMS = tuple(_FORMS)


def _turns(row: Row, key: str) -> list[_Turn]:
    given = without_nulls(_parsed(row.get(key)))
    if isinstance(given, dict) and all(isinstance(column, list) for column in given.values()):  # a table, by columns
        given = [dict(zip(given, item, strict=False)) for item in zip(*given.values(), strict=False)]
    if not isinstance(given, list):
        raise _FaultError(f"its {key!r} is not a list of messages" if key in row else f"its {key!r} is missing")
    return [_turn(item, number) for number, item in enumerate(given, 1)]


def _turn(item: Any, number: int) -> _Turn:
    try:
        if not isinstance(item, dict):
            raise _FaultError(f"it is not an object but {type(item).__name__}")
        said = item.get("role", item.get("from"))
        role = _ROLES.get(str(said).lower())
        if role is None:
            raise _FaultError(f"it is from {said!r}; known are {', '.join(_ROLES)}")
        extra = _extra(item, role)
        key = next(
            (name for name in ("content", "value", "text") if name in item), "value" if "from" in item else "content"
        )
        call = _call(item.get(key)) if str(said).lower() == "function_call" else None
        if call:
            return _Turn(role, "", number, key, _scored(item), {"tool_calls": call})
        text = _text(item, key, optional=bool(extra), may_be_empty=True)
        return _Turn(role, text, number, key, _scored(item), extra)
    except _FaultError as fault:
        raise _FaultError(fault.reason, number) from fault


def _extra(item: Row, role: str) -> Row:
    """What the chat template gets in addition to role and content."""
    if role == "tool":
        return {key: item[key] for key in ("name", "tool_call_id") if isinstance(item.get(key), str)}
    if role != "assistant":
        return {}
    extra: Row = {}
    if calls := item.get("tool_calls") or ([item["function_call"]] if item.get("function_call") else []):
        extra["tool_calls"] = _calls(calls)
        if extra["tool_calls"] is None:
            raise _FaultError("its 'tool_calls' is not a list of calls, each with a name")
    for key in _REASONING:
        if isinstance(item.get(key), str) and item[key].strip():
            return extra | {"reasoning_content": _text(item, key)}
    return extra


def _call(value: Any) -> list[Row] | None:
    """ShareGPT's `function_call`: a call, or a list of them, as JSON; None if it is something else."""
    found = _parsed(value)
    return _calls(found if isinstance(found, list) else [found])


def _calls(given: Any) -> list[Row] | None:
    """Calls as chat templates take them; None if one of them is not a call."""
    found = _parsed(given)
    calls = [_function_call(call) for call in found] if isinstance(found, list) else []
    return [call for call in calls if call] if calls and all(calls) else None


def _function_call(call: Any) -> Row | None:
    function = call.get("function") or call if isinstance(call, dict) else None
    if not (isinstance(function, dict) and isinstance(function.get("name"), str) and function["name"]):
        return None
    given = (function[key] for key in ("arguments", "parameters") if function.get(key) is not None)
    arguments = _parsed(next(given, {}))
    made = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {"id": call["id"], **made} if isinstance(call.get("id"), str) else made


def _parsed(value: Any) -> Any:
    """Parsed JSON text, as in .csv files and in tables with nested values; anything else unchanged.

    Its nulls are kept: those of a call's arguments are meant.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _scored(item: Row) -> bool:
    for key in _WEIGHTS:
        value = item.get(key, 1)
        if value not in (0, 1):
            raise _FaultError(f"its {key!r} is {value!r}; known are 0 and 1, or false and true")
        if not value:
            return False
    return True


def _conversation(turns: list[_Turn], row: Row, number: int) -> Example:
    """The turns from the first user message to the last scored reply, stopping before the first empty turn."""
    if not turns:
        raise _FaultError("its conversation is empty")
    turns = [turn for turn in turns if not (turn.role == "system" and turn.empty)]
    end = next((i for i, turn in enumerate(turns) if turn.empty), len(turns))
    first = next((i for i, turn in enumerate(turns[:end]) if turn.role == "user"), end)
    # Replies before the first user message answer nothing.
    kept = [turn for i, turn in enumerate(turns[:end]) if i >= first or turn.role == "system"]
    last = max((i for i, turn in enumerate(kept) if turn.role == "assistant" and turn.scored), default=None)
    if last is None:
        if end < len(turns):
            raise _FaultError(f"its {turns[end].key!r} is empty", turns[end].number)
        if not any(turn.role == "assistant" for turn in turns):
            raise _FaultError("it has no reply, that is, no message of an assistant")
        if not any(turn.role == "assistant" for turn in kept):
            raise _FaultError("it has no reply after a message of a user")
        raise _FaultError(f"none of its replies is to be scored, by {' or '.join(map(repr, _WEIGHTS))} or as a prompt")
    kept = kept[: last + 1]
    tools = _parsed(row.get("tools"))
    if tools and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise _FaultError("its 'tools' is not a list of objects")
    return Example(
        tuple((turn.role, turn.text) for turn in kept),
        row=number,
        unscored=tuple(i for i, turn in enumerate(kept) if turn.role == "assistant" and not turn.scored),
        extras=tuple((i, json.dumps(turn.extra)) for i, turn in enumerate(kept) if turn.extra),
        tools=json.dumps(tools) if tools else "",
    )


def _text(item: Row, key: str, *, optional: bool = False, may_be_empty: bool = False) -> str:
    """The text at `key`; "" if it is blank or, with `optional`, missing."""
    text = item.get(key)
    if text is None:
        if optional:
            return ""
        raise _FaultError(f"its {key!r} is missing")
    if isinstance(text, list):
        text = "".join(_part(part, key) for part in text)
    if not isinstance(text, str):
        raise _FaultError(f"its {key!r} is not text but {type(text).__name__}")
    if not is_text(text):
        raise _FaultError(f"its {key!r} has a lone surrogate or bytes that are not UTF-8, which no tokenizer reads")
    if not text.strip():
        if not (optional or may_be_empty):
            raise _FaultError(f"its {key!r} is empty")
        return ""
    return text


def _part(part: Any, key: str) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise _FaultError(f"its {key!r} has a part of type {kind!r}, and only text is read here")
