"""Chat templates: a conversation as the text that a model reads, and the span of each reply.

Templates rewrite what they are given: they trim, drop the reasoning of earlier turns, write `<think></think>` before a
reply, fold the system message into the first turn. So replies are located in the rendering of the whole conversation,
not by rendering the conversation up to each of them.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from symnoise.core import InputError
from symnoise.data.example import Example
from symnoise.data.rendering import Place, Rendering, Spans, kind, owner

_EMPTY_THOUGHT = re.compile(r"<think>\s*</think>\s*$")
_OPEN_THOUGHT = re.compile(r"<think>\s*$")
_INJECTED = re.compile(r"\s*<think>\s*</think>\s*")
_WORD = re.compile(r"\s*\S+(?=\s)")
_BEGUN_WORD = re.compile(r"\s+\S*$")


def set_chat_template(tokenizer: Any, path: str | Path) -> None:
    """Set the tokenizer's chat template from a Jinja file.

    Args:
        tokenizer: A Transformers tokenizer, which is changed.
        path: The template file, UTF-8.

    Raises:
        InputError: If the file cannot be read, is empty or is not a Jinja template.
    """
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
    """The text, and the span of each scored reply with its end-of-turn marker.

    In a template with `{% generation %}` blocks, the block around a reply marks the end of its turn, and replies
    outside of blocks are not scored. In other templates the turn ends with the end-of-turn marker. If there is none, it
    ends with the special token that begins the next turn, which the model must produce to end its own. White space
    after the marker does not belong to the reply, nor does a `<think></think>` added by the template.

    Raises `RowError` if the template rejects the conversation or drops one of its texts.
    """
    whole = Rendering(example, tokenizer)
    text, blocks = whole.text_and_blocks()
    places = whole.places(text)
    replies: Spans = []
    scored = [i for i, (role, _) in enumerate(example.messages) if role == "assistant" and i not in example.unscored]
    for run in (run for i in scored for run in _runs(places, i)):
        start, said, mark = _Part(whole, text, places, run).found()
        end = _end_of_block(blocks, text, said) if whole.marks_replies else said + len(mark)
        if end is not None:
            replies.append((start, end))
            # The last marker may be the one that would begin the next turn.
            text += mark[max(0, len(text) - said) :] if end > len(text) else ""
    return text, replies


class _Part:
    """One reply in the rendered text, or one part of it if the template writes tools' answers between its parts."""

    def __init__(self, whole: Rendering, text: str, places: list[Place], run: list[int]) -> None:
        self.whole, self.text = whole, text
        self.i = owner(places[run[0]][0])
        self.keys = [places[k][0] for k in run]
        self.start, self.end = places[run[0]][1], places[run[-1]][2]
        self.before = places[run[0] - 1][2] if run[0] else 0
        following = next((start for key, start, _ in places[run[-1] + 1 :] if owner(key) != self.i), None)
        self.final = following is None
        self.after = len(text) if following is None else following

    def found(self) -> tuple[int, int, str]:
        """Its start, its end, and the end-of-turn marker that follows."""
        calls = any(kind(key) == "N" for key in self.keys)
        start = self._start_of_call() if kind(self.keys[0]) == "N" else self._start_of_text()
        end, mark = (
            self._end_of_calls() if calls else (self.end, self._mark_in(self.text[self.end : self.after], self.final))
        )
        return start, end, mark

    def _start_of_text(self) -> int:
        """Start of the text, or of the tag before the reply's own thinking."""
        thought = self.whole.thought(self.i)
        if kind(self.keys[0]) == "R":
            match = _OPEN_THOUGHT.search(self.text, self.before, self.start)
        elif thought and not thought[1].strip():
            match = _EMPTY_THOUGHT.search(self.text, self.before, self.start)
        else:
            match = None
        return match.start() if match else self.start

    def _start_of_call(self) -> int:
        """Start of the calls: where the template writes something other than it does before a text."""
        found = self.whole.without_calls(self.i)
        before, written = _EMPTY_THOUGHT.sub("", found[0]) if found else "", self.text[self.before : self.start]
        if not written.startswith(before):
            before = before[: _common(before, written)]
            for match in self.whole.special.finditer(written):  # do not cut a token or a word in two
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
        """The end-of-turn marker in what follows a reply, up to the next text."""
        mark = self.whole.tail.rstrip() or self.whole.tail
        if final and after:
            return after.rstrip() or after
        if mark and after.startswith(mark):
            return mark
        match = self.whole.special.match(self.whole.next_turn if final else after)
        # Or a word that also ends the last turn, before the end of the text.
        match = match or _WORD.match(after[: _common(after, mark)])
        return match.group() if match else ""


def _runs(places: list[Place], i: int) -> Iterator[list[int]]:
    """The places of message i in consecutive runs; a tool's name may recur in its answer, which is not a call."""
    seen: set[str] = set()
    run: list[int] = []
    for k, (key, _, _) in enumerate(places):
        if owner(key) == i and key not in seen:
            seen.add(key)
            run.append(k)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _common(one: str, other: str) -> int:
    """Length of the common prefix."""
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _end_of_block(blocks: Spans, text: str, at: int) -> int | None:
    """The end of the block, or of the adjacent blocks, around a reply whose words end at `at`.

    White space at the end belongs to the reply only if there is nothing else.
    """
    end = next((b for a, b in blocks if a < at <= b), None)
    while end is not None and (more := next((b for a, b in blocks if a == end and b > a), None)):
        end = more
    return end if end is None or not text[at:end].strip() else len(text[:end].rstrip())
