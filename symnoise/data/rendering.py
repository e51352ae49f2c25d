"""Chat-template rendering that locates every text: rendered once as it is, once with a marker in place of each text.

Whatever is between two markers comes from the template and is the same in both renderings. That locates every text,
however the template has moved, trimmed or dropped the others.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from symnoise.core import reason
from symnoise.data.example import Example, RowError

Spans = list[tuple[int, int]]
Message = dict[str, Any]
Place = tuple[str, int, int]  # a marker, and the span of the text that it stands for

# Templates write today's date if none is given; this fixed one, Llama 3's own default, makes runs repeatable. A macro
# in the template's text takes precedence over the function of that name.
_DATE = "26 Jul 2024"
_CLOCK = (
    "{%- macro strftime_now(format) -%}{{ {'%Y-%m-%d': '2024-07-26'}.get(format, '" + _DATE + "') }}{%- endmacro -%}"
)
# Markers are enclosed by two characters of the private use area. R: reasoning, T: text, N: a tool's name.
_MARK = re.compile("\ue000([RTN])(\\d+)\ue001")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_THOUGHT = re.compile(r"(\s*(?:<think>)?\s*)((?:(?!<think>).)*)(\s*</think>\s*)(.*)", re.DOTALL)


@dataclass(frozen=True)
class _Style:
    """One way of passing a conversation to a template; templates differ in what they accept."""

    parts: bool = False  # texts as lists of content parts, as in vision models' templates
    folded: bool = False  # the system message as the start of the first user message
    null: bool = False  # a call without text has the content null instead of ""
    as_text: bool = False  # a call's arguments as JSON text


class Rendering:
    """One example in one template: its text, the span of every piece, and what the template writes around them.

    texts, extras: for each message, the text that the template gets, and its other fields.
    """

    def __init__(self, example: Example, tokenizer: Any) -> None:
        self.example, self.tokenizer = example, tokenizer
        self.tools = json.loads(example.tools) if example.tools else None
        self.extras = [example.extra(i) for i in range(len(example.messages))]
        last_user = max((i for i, (role, _) in enumerate(example.messages) if role == "user"), default=-1)
        self.texts = [
            text + (f"\n\n{example.input}" if example.input and i == last_user else "")
            for i, (_, text) in enumerate(example.messages)
        ]
        self.real = {key: text for i in range(len(self.texts)) for key, text in self._pieces(i)}
        self.style, self.skeleton = self._first_style_that_works()

    def text_and_blocks(self) -> tuple[str, Spans]:
        """The text that the model reads, and the `{% generation %}` blocks in it."""
        return self._render(self._messages(marked=False))

    @cached_property
    def _template(self) -> str:
        template = str(self.tokenizer.get_chat_template(tools=self.tools))
        return _CLOCK + template if "strftime_now" in template else template

    @cached_property
    def marks_replies(self) -> bool:
        return _GENERATION.search(self._template) is not None

    @cached_property
    def special(self) -> re.Pattern[str]:
        """White space and one special token."""
        words = sorted((word for word in self.tokenizer.get_added_vocab() if word.strip()), key=len, reverse=True)
        return re.compile(r"\s*(?:" + "|".join(map(re.escape, words)) + ")" if words else r"(?!)")

    def _render(self, messages: list[Message]) -> tuple[str, Spans]:
        """The text, and the `{% generation %}` blocks in it."""
        from transformers.utils.chat_template_utils import render_jinja_template

        (text,), blocks = render_jinja_template(
            conversations=[messages],
            tools=self.tools,
            chat_template=self._template,
            return_assistant_tokens_mask=self.marks_replies,
            **self.tokenizer.special_tokens_map,
            date_string=_DATE,
        )
        return text, blocks[0] if blocks else []

    def _first_style_that_works(self) -> tuple[_Style, str]:
        """The style in which every text and call appears, and the marked conversation rendered in it."""
        import jinja2

        refusals: list[Exception] = []
        dropped: list[list[str]] = []
        for style in self._styles():
            try:
                skeleton, _ = self._render(self._messages(marked=True, style=style))
            except Exception as error:  # templates raise what they like
                refusals.append(error)
                continue
            if not (lost := self._lost(skeleton)):
                return style, skeleton
            dropped.append(lost)
        if dropped:
            raise self._dropped(min(dropped, key=len)[0])
        # The template's own error message is clearer than one from inside it.
        said = next((error for error in refusals if type(error) is jinja2.TemplateError), refusals[0])
        raise RowError(self.example.row, f"the model's chat template does not take it: {reason(said)}") from said

    def _styles(self) -> Iterator[_Style]:
        system = self.example.messages[0][0] == "system"
        calls = any("tool_calls" in extra for extra in self.extras)
        for parts, folded in itertools.product((False, True), (False, True) if system else (False,)):
            for null, as_text in itertools.product((False, True), repeat=2) if calls else [(False, False)]:
                yield _Style(parts, folded, null, as_text)

    def _lost(self, skeleton: str) -> list[str]:
        """The missing markers; reasoning may be dropped."""
        found = {match.group() for match in _MARK.finditer(skeleton)}
        return [key for key in self.real if kind(key) != "R" and key not in found]

    def _dropped(self, key: str) -> RowError:
        role, what = self.example.messages[owner(key)][0], "the text" if kind(key) == "T" else "a call"
        return RowError(
            self.example.row,
            f"the model's chat template drops {what} of a message from {role!r}",
            turn=owner(key) + 1,
            advice="leave it out, or give another template with --chat-template",
        )

    def _pieces(self, i: int) -> Iterator[tuple[str, str]]:
        """(marker, what it stands for) of message i, in order; only reasoning may be dropped by the template."""
        extra = self.extras[i]
        thought = self.thought(i)
        if thought:
            _, reasoning, _, text = thought
        else:
            reasoning, text = extra.get("reasoning_content", ""), self.texts[i]
        if reasoning.strip():
            yield _mark("R", i), reasoning
        if text.strip():
            yield _mark("T", i), text
        for k, call in enumerate(extra.get("tool_calls", [])):
            yield _mark("N", i + _CALLS * k), call["function"]["name"]

    def thought(self, i: int) -> tuple[str, ...] | None:
        """The parts of a reply whose own text begins with thinking: before it, the thinking, the end tag, the rest."""
        if self.example.messages[i][0] != "assistant" or "reasoning_content" in self.extras[i]:
            return None
        match = _THOUGHT.fullmatch(self.texts[i])
        return match.groups() if match else None

    def _messages(self, *, marked: bool, style: _Style | None = None) -> list[Message]:
        style = style or self.style
        made = [self._message(i, marked, style) for i in range(len(self.texts))]
        if style.folded and len(made) > 1:
            system = made.pop(0)["content"]
            made[0]["content"] = f"{system}\n\n{made[0]['content']}"
        if style.parts:
            for message in made:
                text = message["content"]
                message["content"] = text if text is None else [{"type": "text", "text": text}]
        return made

    def _message(self, i: int, marked: bool, style: _Style) -> Message:
        text, extra = self.texts[i], self.example.extra(i)
        calls = extra.get("tool_calls", [])
        if marked:
            text = _mark("T", i) if text.strip() else ""
            if thought := self.thought(i):
                before, reasoning, after, said = thought
                text = before + (_mark("R", i) if reasoning.strip() else reasoning) + after
                text += _mark("T", i) if said.strip() else said
            if "reasoning_content" in extra:
                extra["reasoning_content"] = _mark("R", i)
            for k, call in enumerate(calls):
                call["function"]["name"] = _mark("N", i + _CALLS * k)
        for call in calls:
            arguments = call["function"]["arguments"]
            if style.as_text and not isinstance(arguments, str):
                call["function"]["arguments"] = json.dumps(arguments, ensure_ascii=False)
        content = None if style.null and calls and not text else text
        return {"role": self.example.messages[i][0], "content": content, **extra}

    def places(self, text: str) -> list[Place]:
        """(marker, start, end) of every piece of the rendered `text`, in order."""
        own = _MARK.split(self.skeleton)[::3]
        keys = [match.group() for match in _MARK.finditer(self.skeleton)]
        at, places = len(own[0]), []
        matches = text.startswith(own[0])
        for key, after, final in zip(keys, own[1:], [*itertools.repeat(False, len(keys) - 1), True], strict=True):
            end = _end_of(self.real[key], text, at, after, final) if matches else None
            if end is None:
                raise RowError(
                    self.example.row,
                    "the model's chat template changes the text of a message beyond recognition",
                    turn=owner(key) + 1,
                )
            places.append((key, at, end))
            at = end + len(after)
        return places

    def without_calls(self, i: int) -> tuple[str, str, bool] | None:
        """What the template writes before and after a text in place of the calls of message i, and whether it is last.

        Rendered with the messages after it, or without them if the template rejects a tool's answer without a call.
        """
        messages = self._messages(marked=True)
        at = i - (len(self.texts) - len(messages))
        messages[at] = {"role": "assistant", "content": _mark("T", i)}
        if self.style.parts:
            messages[at]["content"] = [{"type": "text", "text": _mark("T", i)}]
        for given in (messages, messages[: at + 1]):
            try:
                skeleton, _ = self._render(given)
            except Exception:  # as above
                continue
            own, keys = _MARK.split(skeleton)[::3], [match.group() for match in _MARK.finditer(skeleton)]
            if _mark("T", i) in keys:
                k = keys.index(_mark("T", i))
                return own[k], own[k + 1], k + 1 == len(keys)
        return None

    @cached_property
    def tail(self) -> str:
        """What the template writes after the last reply."""
        last = len(self.texts) - 1
        if "tool_calls" in self.extras[last]:
            found = self.without_calls(last)
            return found[1] if found else ""
        return _MARK.split(self.skeleton)[-1]

    @cached_property
    def next_turn(self) -> str:
        """What the template writes between the last reply and a user message after it."""
        key = _mark("T", len(self.texts))
        content: Any = [{"type": "text", "text": key}] if self.style.parts else key
        try:
            skeleton, _ = self._render([*self._messages(marked=True), {"role": "user", "content": content}])
        except Exception:  # as above
            return ""
        return _MARK.split(skeleton.partition(key)[0])[-1]


# A marker's number is that of its message, plus this for each preceding call.
_CALLS = 1_000_000


def _mark(kind: str, number: int) -> str:
    return f"\ue000{kind}{number}\ue001"


def kind(key: str) -> str:
    return key[1]


def owner(key: str) -> int:
    return int(key[2:-1]) % _CALLS


def _end_of(piece: str, text: str, at: int, after: str, final: bool) -> int | None:
    """The end in `text` of `piece`, which the template may have trimmed or escaped; `after` must follow it."""
    for written in (piece, piece.strip(), piece.rstrip(), piece.lstrip(), json.dumps(piece, ensure_ascii=False)[1:-1]):
        end = at + len(written)
        if text.startswith(written, at) and (text[end:] == after if final else text.startswith(after, end)):
            return end
    if final:
        return len(text) - len(after) if text.endswith(after) and len(text) - len(after) >= at else None
    end = text.find(after, at) if after else -1
    return end if end >= 0 else None
