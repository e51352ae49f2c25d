"""Chat templates: a conversation as the text that a model reads, and where each reply stands in it.

Templates rewrite what they are given: they trim, drop the reasoning of earlier turns, write `<think></think>` before a
reply, fold the system message into the first turn. So a reply is not found by rendering the conversation up to it, but
in the whole: the conversation is rendered a second time with a mark in the place of every text. What stands between
two marks is the template's own and is the same in both renderings, which gives the place of every text.
"""

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from symnoise.core import InputError, reason
from symnoise.data.example import Example, RowError

Spans = list[tuple[int, int]]
Message = dict[str, Any]
Place = tuple[str, int, int]  # a mark, and where what it stands for begins and ends

# Llama 3's template writes today's date where none is given; its own default makes runs repeatable.
_DATE = "26 Jul 2024"
# Marks stand between two characters of the private use area. R is for reasoning, T for text, N for a tool's name.
_MARK = re.compile("\ue000([RTN])(\\d+)\ue001")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_THOUGHT = re.compile(r"(\s*(?:<think>)?\s*)((?:(?!<think>).)*)(\s*</think>\s*)(.*)", re.DOTALL)
_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*$")
_OPEN_THOUGHT = re.compile(r"<think>\s*$")
_INJECTED = re.compile(r"\s*<think>\s*</think>\s*")
_WORD = re.compile(r"\s*\S+(?=\s)")
_BEGUN_WORD = re.compile(r"\s+\S*$")


def set_chat_template(tokenizer: Any, path: str | Path) -> None:
    """Give `tokenizer` the Jinja template in the file at `path`; `InputError` where that is none."""
    import jinja2
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        template = Path(path).expanduser().read_text(encoding="utf-8")
        _compile_jinja_template(template)
    except OSError as error:
        raise InputError(f"cannot read the chat template {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the chat template {path} is not UTF-8 text") from error
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"the chat template {path}, line {error.lineno}: {error.message}") from error
    if not template.strip():
        raise InputError(f"the chat template {path} is empty")
    tokenizer.chat_template = template


def render(example: Example, tokenizer: Any) -> tuple[str, Spans]:
    """The text, and where each reply that counts stands in it, with its end-of-turn mark.

    A `{% generation %}` block that a reply stands in says where its turn ends, and a reply outside of every block
    does not count. Else the turn ends with the template's end mark; where it has none, with the special token that
    begins the next turn, which is what the model must say to end its own. White space after the mark is not the
    reply's, nor is a `<think></think>` that the template writes of its own.

    Raises `RowError` where the template does not take the conversation, or drops a text of it.
    """
    return _Rendering(example, tokenizer).text_and_replies()


@dataclass(frozen=True)
class _Style:
    """One way of giving a conversation to a template; they want it in different ones."""

    parts: bool = False  # texts as lists of content parts, as vision models' templates have them
    folded: bool = False  # the system message as the beginning of the first user message
    null: bool = False  # a call without text has the content null instead of ""
    as_text: bool = False  # a call's arguments as JSON text


class _Rendering:
    """One example in one template."""

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

    def text_and_replies(self) -> tuple[str, Spans]:
        text, blocks = self._render(self._messages(marked=False))
        places = self._places(text)
        replies: Spans = []
        for i, (role, _) in enumerate(self.example.messages):
            if role == "assistant" and i not in self.example.unscored:
                for run in _runs(places, i):
                    start, said, mark = _Part(self, text, places, run).found()
                    end = _end_of_block(blocks, text, said) if self._marks_replies else said + len(mark)
                    if end is not None:
                        replies.append((start, end))
                        # The last mark may be the one that the next turn would begin with.
                        text += mark[max(0, len(text) - said) :] if end > len(text) else ""
        return text, replies

    @cached_property
    def _template(self) -> str:
        return str(self.tokenizer.get_chat_template(tools=self.tools))

    @cached_property
    def _marks_replies(self) -> bool:
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
            return_assistant_tokens_mask=self._marks_replies,
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
        # What the template itself says is clearer than what fails inside it.
        said = next((error for error in refusals if type(error) is jinja2.TemplateError), refusals[0])
        raise RowError(self.example.row, f"the model's chat template does not take it: {reason(said)}") from said

    def _styles(self) -> Iterator[_Style]:
        system = self.example.messages[0][0] == "system"
        calls = any("tool_calls" in extra for extra in self.extras)
        for parts, folded in itertools.product((False, True), (False, True) if system else (False,)):
            for null, as_text in itertools.product((False, True), repeat=2) if calls else [(False, False)]:
                yield _Style(parts, folded, null, as_text)

    def _lost(self, skeleton: str) -> list[str]:
        """The marks that do not appear; reasoning may be dropped."""
        found = {match.group() for match in _MARK.finditer(skeleton)}
        return [key for key in self.real if _kind(key) != "R" and key not in found]

    def _dropped(self, key: str) -> RowError:
        role, what = self.example.messages[_owner(key)][0], "the text" if _kind(key) == "T" else "a call"
        return RowError(
            self.example.row,
            f"the model's chat template drops {what} of a message from {role!r}",
            turn=_owner(key) + 1,
            advice="leave it out, or give another template with --chat-template",
        )

    def _pieces(self, i: int) -> Iterator[tuple[str, str]]:
        """(mark, what it stands for) of message i, in order; reasoning is what the template may drop."""
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
        """What is before, in and after the thinking that a reply's own text begins with, and the end tag."""
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

    def _places(self, text: str) -> list[Place]:
        """(mark, start, end) of every piece of the rendered `text`, in order."""
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
                    turn=_owner(key) + 1,
                )
            places.append((key, at, end))
            at = end + len(after)
        return places

    def without_calls(self, i: int) -> tuple[str, str, bool] | None:
        """What the template writes before and after a text in the place of the calls of message i, and if it is last.

        With the messages after it or, where the template does not take an answer to no call, without.
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


class _Part:
    """One reply in the rendered text, or one part of it where a template writes tools' answers between its parts."""

    def __init__(self, whole: _Rendering, text: str, places: list[Place], run: list[int]) -> None:
        self.whole, self.text, self.run = whole, text, run
        self.i = _owner(places[run[0]][0])
        self.keys = [places[k][0] for k in run]
        self.start, self.end = places[run[0]][1], places[run[-1]][2]
        self.before = places[run[0] - 1][2] if run[0] else 0
        following = next((start for key, start, _ in places[run[-1] + 1 :] if _owner(key) != self.i), None)
        self.final = following is None
        self.after = len(text) if following is None else following

    def found(self) -> tuple[int, int, str]:
        """Where it begins, where it ends, and the end-of-turn mark, which follows."""
        calls = any(_kind(key) == "N" for key in self.keys)
        start = self._start_of_call() if _kind(self.keys[0]) == "N" else self._start_of_text()
        end, mark = (
            self._end_of_calls() if calls else (self.end, self._mark_in(self.text[self.end : self.after], self.final))
        )
        return start, end, mark

    def _start_of_text(self) -> int:
        """Where the text begins, or the tag before the thinking that is the reply's own."""
        thought = self.whole.thought(self.i)
        own = (
            _OPEN_THOUGHT
            if _kind(self.keys[0]) == "R"
            else _EMPTY_THOUGHT
            if thought and not thought[1].strip()
            else None
        )
        match = own.search(self.text, self.before, self.start) if own else None
        return match.start() if match else self.start

    def _start_of_call(self) -> int:
        """Calls begin where the template writes something else than before a text."""
        found = self.whole.without_calls(self.i)
        before, written = _EMPTY_THOUGHT.sub("", found[0]) if found else "", self.text[self.before : self.start]
        if not written.startswith(before):
            before = before[: _common(before, written)]
            for match in self.whole.special.finditer(written):  # no token is cut in two, and no word
                if match.start() < len(before) < match.end():
                    before = before[: match.start()]
            if not self.text[self.before + len(before)].isspace():
                before = _BEGUN_WORD.sub("", before)
        thought = _INJECTED.match(written, len(before))
        return self.before + (thought.end() if thought else len(before))

    def _end_of_calls(self) -> tuple[int, str]:
        at = self.end
        arguments = self.whole.extras[self.i]["tool_calls"][-1]["function"]["arguments"]
        whole = json.dumps(arguments, ensure_ascii=False)
        inside = (
            list(arguments.values())
            if isinstance(arguments, dict) and whole not in self.text[at : self.after]
            else [arguments]
        )
        for value in inside:
            word = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found = self.text.find(word, at, self.after)
            at = found + len(word) if found >= 0 else at
        if sibling := self.whole.without_calls(self.i):
            mark = self._mark_in(sibling[1], sibling[2])
            found = self.text.find(mark, at, self.after) if mark else -1
            if found >= 0:
                return found, mark
        match = self.whole.special.search(self.text, at, self.after)
        return (match.start(), match.group()) if match else (self.after, "")

    def _mark_in(self, after: str, final: bool) -> str:
        """The end-of-turn mark in what follows a reply, up to the next text."""
        mark = self.whole.tail.rstrip() or self.whole.tail
        if final and after:
            return after.rstrip() or after
        if mark and after.startswith(mark):
            return mark
        match = self.whole.special.match(self.whole.next_turn if final else after)
        # Or a word that ends the last turn too, before what is written at the very end.
        match = match or _WORD.match(after[: _common(after, mark)])
        return match.group() if match else ""


# A mark's number is its message's, plus this for each call before.
_CALLS = 1_000_000


def _mark(kind: str, number: int) -> str:
    return f"\ue000{kind}{number}\ue001"


def _kind(key: str) -> str:
    return key[1]


def _owner(key: str) -> int:
    return int(key[2:-1]) % _CALLS


def _runs(places: list[Place], i: int) -> Iterator[list[int]]:
    """The places of message i in unbroken runs; a tool's name may come again in its answer, which is no call."""
    seen: set[str] = set()
    run: list[int] = []
    for k, (key, _, _) in enumerate(places):
        if _owner(key) == i and key not in seen:
            seen.add(key)
            run.append(k)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _common(one: str, other: str) -> int:
    """Length of the common beginning."""
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _end_of(piece: str, text: str, at: int, after: str, final: bool) -> int | None:
    """Where `piece`, which the template may have trimmed or escaped, ends in `text`, where `after` must follow."""
    for written in (piece, piece.strip(), piece.rstrip(), piece.lstrip(), json.dumps(piece, ensure_ascii=False)[1:-1]):
        end = at + len(written)
        if text.startswith(written, at) and (text[end:] == after if final else text.startswith(after, end)):
            return end
    if final:
        return len(text) - len(after) if text.endswith(after) and len(text) - len(after) >= at else None
    end = text.find(after, at) if after else -1
    return end if end >= 0 else None


def _end_of_block(blocks: Spans, text: str, at: int) -> int | None:
    """The end of the block, or of the row of blocks, that a reply whose words end at `at` stands in.

    White space at the end is the reply's only where there is nothing else.
    """
    end = next((b for a, b in blocks if a < at <= b), None)
    while end is not None and (more := next((b for a, b in blocks if a == end and b > a), None)):
        end = more
    return end if end is None or not text[at:end].strip() else len(text[:end].rstrip())
